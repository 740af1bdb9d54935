//! Checks which bytes of a file are in the page cache, and reads others into it on another thread, so that a
//! connection's thread never waits for a disk.

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

/// The magic number of tmpfs, see statfs(2).
const TMPFS: FsWord = 0x0102_1994;

/// Size of one read, 128 KiB; the data is discarded.
const STEP: usize = 128 << 10;

/// The interval of residency checks, 64 KiB: 32 in 2 MiB.
const STRIDE: u64 = 64 << 10;

/// Returns whether the bytes `from .. to` can be read without waiting for a disk, by sampling.
///
/// Checks the first byte, the last, and one at a random offset in each stride between them. Files are read
/// ahead in large pieces and usually evicted whole. But a client that knew the offsets could request only
/// those pages, and make the thread wait for all others. With random offsets only gaps of a few pages remain
/// undetected.
pub(crate) fn is_resident(file: &File, from: u64, to: u64) -> bool {
    let last = to.saturating_sub(1);
    if ![from, last].into_iter().all(|at| is_resident_at(file, at)) {
        return false;
    }
    let mut begin = from;
    while begin + STRIDE < last {
        if !is_resident_at(file, begin + random() % STRIDE) {
            return false;
        }
        begin += STRIDE;
    }
    true
}

/// Returns a number that a client cannot predict. Not for secrets.
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

fn is_resident_at(file: &File, at: u64) -> bool {
    let mut byte = [0];
    match preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => false,
        // The file system has no RWF_NOWAIT.
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            fstatfs(file).is_ok_and(|fs| fs.f_type == TMPFS)
        }
        // Other errors are reported by the read itself.
        Ok(_) | Err(_) => true,
    }
}

/// Reads the bytes `from .. to` into the page cache. Waits for the disk. Errors are left to the next read.
pub(crate) fn read_ahead(file: &File, from: u64, to: u64) {
    let mut buf = vec![0; STEP.min(usize::try_from(to - from).unwrap_or(STEP))];
    let mut at = from;
    while at < to {
        match file.read_at(&mut buf, at) {
            Ok(n @ 1..) => at += n as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// [Reads](read_ahead) the bytes `from .. to` on another thread. The receiver resolves when they have been
/// read; dropped before the thread begins, it cancels the read. If no thread can be started the receiver fails
/// at once, and the bytes are read when they are sent.
pub(crate) fn prefetch(file: Arc<File>, from: u64, to: u64) -> oneshot::Receiver<()> {
    /// Shared by all connections, so that a disk that hangs blocks a bounded number of threads.
    static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
    let (done, is_done) = oneshot::channel();
    POOL.run(Box::new(Prefetch { file, from, to, done }));
    is_done
}

struct Prefetch {
    file: Arc<File>,
    from: u64,
    to: u64,
    done: oneshot::Sender<()>,
}

impl Job for Prefetch {
    fn is_wanted(&mut self) -> bool {
        !self.done.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { file, from, to, done } = *self;
        read_ahead(&file, from, to);
        drop(file); // the last close may block too
        let _ = done.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn bytes_that_were_read_are_resident() {
        const LEN: u64 = 1 << 20;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; usize::try_from(LEN).unwrap()]).unwrap();
        file.sync_all().unwrap();
        // A hint, which tmpfs ignores.
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        read_ahead(&file, 0, LEN);
        assert!(is_resident(&file, 0, LEN));
        assert!(is_resident(&file, LEN, LEN + 1), "no disk is read beyond the end");
        read_ahead(&file, 0, 2 * LEN);
    }

    #[test]
    fn few_resident_pages_do_not_make_the_others_resident() {
        const LEN: u64 = 2 << 20;
        // In the package's directory, which is usually on a disk: on tmpfs every page is resident.
        let mut file = tempfile::tempfile_in(".").unwrap();
        file.write_all(&vec![7; usize::try_from(LEN).unwrap()]).unwrap();
        file.sync_all().unwrap();
        for offsets in [vec![0, LEN - 1], (0..LEN).step_by(128 << 10).chain([LEN - 1]).collect()] {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            fadvise(&file, 0, None, Advice::Random).unwrap(); // nothing is read ahead
            for at in offsets {
                read_ahead(&file, at, at + 1);
            }
            // Counted afterwards, since a check can make the kernel read the page.
            let resident = is_resident(&file, 0, LEN);
            let absent = (0..LEN).step_by(4096).filter(|&at| !is_resident_at(&file, at)).count();
            assert!(!resident || absent < 256, "{absent} of 512 pages are not resident");
        }
    }
}
