//! What of a file is in memory, and getting the rest there: a disk is never waited for on a
//! connection's thread.

use std::{
    fs::File,
    io::{ErrorKind, IoSliceMut},
    os::unix::fs::FileExt,
};

use rustix::{
    fs::{FsWord, fstatfs},
    io::{Errno, ReadWriteFlags, preadv2},
};

/// The number of the file system that is memory, see statfs(2).
const TMPFS: FsWord = 0x0102_1994;

/// How much is read at once, to be thrown away.
const STEP: usize = 128 << 10;

/// May reading these bytes wait for a disk? Looks at the first and at the last of them: files are
/// read ahead in large pieces, and forgotten whole, mostly.
pub(crate) fn is_cold(file: &File, from: u64, to: u64) -> bool {
    [from, to.saturating_sub(1)].into_iter().any(|at| is_cold_at(file, at))
}

fn is_cold_at(file: &File, at: u64) -> bool {
    let mut byte = [0];
    match preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => true,
        // A file system that does not say.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            !fstatfs(file).is_ok_and(|fs| fs.f_type == TMPFS)
        }
        // What else is wrong is told by the reading itself.
        Ok(_) | Err(_) => false,
    }
}

/// Reads these bytes, so that the kernel has them in memory. Waits for the disk.
pub(crate) fn warm_up(file: &File, from: u64, to: u64) {
    let mut buf = vec![0; STEP.min(usize::try_from(to - from).unwrap_or(STEP))];
    let mut at = from;
    while at < to {
        match file.read_at(&mut buf, at) {
            Ok(n @ 1..) => at += n as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return, // whoever sends it learns of it
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn what_was_read_is_not_cold() {
        const LEN: u64 = 1 << 20;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; usize::try_from(LEN).unwrap()]).unwrap();
        file.sync_all().unwrap();
        // A hint, which a file system in memory does not take.
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        warm_up(&file, 0, LEN);
        assert!(!is_cold(&file, 0, LEN));
        assert!(!is_cold(&file, LEN, LEN + 1), "behind its end there is nothing to wait for");
        warm_up(&file, 0, 2 * LEN);
    }
}
