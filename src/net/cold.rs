//! What of a file is in memory, and getting the rest there: a disk is never waited for on a
//! connection's thread.

use std::{
    cell::Cell,
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{ErrorKind, IoSliceMut},
    os::unix::fs::FileExt,
    sync::{Arc, LazyLock},
};

use rustix::{
    fs::{FsWord, fstatfs},
    io::{Errno, ReadWriteFlags, preadv2},
};
use tokio::sync::oneshot;

use super::blocking_pool::{BlockingPool, Job};

/// The number of the file system that is memory, see statfs(2).
const TMPFS: FsWord = 0x0102_1994;

/// How much is read at once, to be thrown away.
const STEP: usize = 128 << 10;

/// A byte of so many is looked at: 32 in 2 MiB.
const STRIDE: u64 = 64 << 10;

/// May reading these bytes wait for a disk?
///
/// Looks at the first byte, at the last, and at one of each stride between them, wherever chance has
/// it. Files are read ahead in large pieces and forgotten whole, mostly; but who knew where we look
/// could have just those bytes read, and then a thread wait for all the others. Chance leaves them no
/// more than holes of a few pages.
pub(crate) fn is_cold(file: &File, from: u64, to: u64) -> bool {
    let last = to.saturating_sub(1);
    if [from, last].into_iter().any(|at| is_cold_at(file, at)) {
        return true;
    }
    let mut begin = from;
    while begin + STRIDE < last {
        if is_cold_at(file, begin + random() % STRIDE) {
            return true;
        }
        begin += STRIDE;
    }
    false
}

/// Numbers that nobody outside can foretell; not for secrets.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
    }
    // xorshift64
    let mut x = STATE.get();
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    STATE.set(x);
    x
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

/// Has another thread [warm](warm_up) these bytes up. The answer comes when it has; dropped, the bytes
/// are left alone if nobody has begun yet.
///
/// # Panics
/// Outside of a Tokio runtime.
pub(crate) fn fetch(file: Arc<File>, from: u64, to: u64) -> oneshot::Receiver<()> {
    /// Shared by all connections: a disk that hangs takes no more threads of a runtime than these.
    static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
    let (done, fetched) = oneshot::channel();
    POOL.run(Box::new(Fetch { file, from, to, done }));
    fetched
}

struct Fetch {
    file: Arc<File>,
    from: u64,
    to: u64,
    done: oneshot::Sender<()>,
}

impl Job for Fetch {
    fn is_wanted(&mut self) -> bool {
        !self.done.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { file, from, to, done } = *self;
        warm_up(&file, from, to);
        drop(file); // closed here, if nobody else has it: that may wait, too
        let _ = done.send(());
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

    #[test]
    fn a_few_warm_bytes_do_not_make_the_others_warm() {
        const LEN: u64 = 2 << 20;
        // On a disk, if this folder is on one; in memory everything is warm.
        let mut file = tempfile::tempfile_in(".").unwrap();
        file.write_all(&vec![7; usize::try_from(LEN).unwrap()]).unwrap();
        file.sync_all().unwrap();
        for known in [vec![0, LEN - 1], (0..LEN).step_by(128 << 10).chain([LEN - 1]).collect()] {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            fadvise(&file, 0, None, Advice::Random).unwrap(); // nothing is read ahead
            for at in known {
                warm_up(&file, at, at + 1);
            }
            // Counted afterwards: pages become warm meanwhile, since to ask for one may have it read.
            let cold = is_cold(&file, 0, LEN);
            let colds = (0..LEN).step_by(4096).filter(|&at| is_cold_at(&file, at)).count();
            assert!(cold || colds < 256, "{colds} of 512 pages are cold");
        }
    }
}
