use std::{future::poll_fn, os::unix::fs::MetadataExt, sync::Mutex};

use super::*;

fn budget(disk: u64) -> Budget {
    Budget::builder().max_disk(disk).build()
}

#[tokio::test]
async fn r12_spill_file_has_no_name_and_can_be_opened_by_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::builder().spill_dir(dir.path()).build();
    let mut spill = Spill::new(&budget);
    for piece in ["hello", ", ", "world"] {
        spill.push(Bytes::from_static(piece.as_bytes())).unwrap();
    }
    assert_eq!((budget.usage().memory, spill.len()), (3 * MIN_PIECE_COST as u64, 12));
    poll_fn(|cx| spill.poll_flush(cx)).await.unwrap();
    assert_eq!((budget.usage().memory, spill.is_flushed()), (0, true));
    let meta = spill.file().unwrap().metadata().unwrap();
    assert_eq!((meta.nlink(), meta.mode() & 0o777, meta.len()), (0, 0o600, 12));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!((budget.usage().disk, budget.usage().spilled), (12, 1));
    let mut text = [0; 12];
    spill.file().unwrap().read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"hello, world");
    drop(spill);
    assert_eq!(budget.usage().disk, 0);
}

#[tokio::test]
async fn disk_budget_is_not_exceeded_and_its_room_is_used_again_in_other_files() {
    let budget = budget(10);
    let mut spill = Spill::new(&budget);
    spill.push(Bytes::from_static(b"0123456789")).unwrap();
    assert_eq!(spill.push(Bytes::from_static(b"x")), Err(BudgetExhausted));
    poll_fn(|cx| spill.poll_flush(cx)).await.unwrap();
    assert_eq!(spill.push(Bytes::from_static(b"x")), Err(BudgetExhausted));
    let first = spill.file().unwrap().clone();
    spill.start_new_file();
    spill.push(Bytes::from_static(b"abcdefghij")).unwrap();
    poll_fn(|cx| spill.poll_flush(cx)).await.unwrap();
    let mut text = [0; 10];
    first.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"0123456789", "the old slice is still readable");
    let (file, disk) = spill.into_parts();
    assert_eq!((file.unwrap().metadata().unwrap().len(), disk.bytes()), (10, 10));
}

#[tokio::test]
async fn batch_that_cannot_be_written_is_returned() {
    let budget = Budget::builder().spill_dir("/nonexistent/directory").build();
    let mut spill = Spill::new(&budget);
    spill.push(Bytes::from_static(b"hello")).unwrap();
    let failed = poll_fn(|cx| spill.poll_flush(cx)).await.unwrap_err();
    assert_eq!(failed.batch, [Bytes::from("hello")]);
    assert_eq!(failed.error.kind(), io::ErrorKind::NotFound);
    assert!(spill.is_flushed() && spill.file().is_none());
}

#[tokio::test]
async fn full_disk_is_reported_and_returns_the_batch() {
    // Every write to it fails as on a full disk.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut spill = Spill::with_file(Arc::new(full), &Budget::default());
    spill.push(Bytes::from_static(b"hello")).unwrap();
    let failed = poll_fn(|cx| spill.poll_flush(cx)).await.unwrap_err();
    assert_eq!(failed.error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(failed.batch, [Bytes::from("hello")]);
}

#[tokio::test]
async fn tiny_pieces_count_for_what_they_cost() {
    let budget = Budget::default();
    let mut spill = Spill::new(&budget);
    let mut pushed = 0;
    while spill.has_capacity() {
        spill.push(Bytes::from_static(b"x")).unwrap();
        pushed += 1;
    }
    assert_eq!((pushed, budget.usage().memory), (MAX_BATCH / MIN_PIECE_COST as u64, MAX_BATCH));
}

/// Declares a pool whose threads start when the test runs them.
macro_rules! held_pool {
    ($held:ident, $pool:ident) => {
        static $held: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());
        static $pool: LazyLock<BlockingPool> = LazyLock::new(|| {
            BlockingPool::with_threads_by(|body| {
                $held.lock().unwrap().push(body);
                Ok(())
            })
        });
    };
}

#[test]
fn abandoned_batch_counts_until_its_thread_drops_it() {
    held_pool!(HELD, POOL);
    let budget = Budget::default();
    let mut spill = Spill::with_pool(&POOL, &budget);
    spill.push(Bytes::from(vec![0; 1000])).unwrap();
    assert!(spill.poll_write(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(spill);
    assert_eq!(budget.usage().memory, 1000);
    std::thread::spawn(HELD.lock().unwrap().pop().unwrap());
    while budget.usage().memory > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn file_is_closed_on_another_thread_with_the_last_slice() {
    held_pool!(HELD, POOL);
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let mut is_closed = move || matches!(io::Read::read(&mut reader, &mut [0]), Ok(0));
    let mut spill = Spill::with_pool(&POOL, &Budget::default());
    spill.file = Some(Arc::new(File::from(std::os::fd::OwnedFd::from(writer))));
    let slice = spill.into_slice().unwrap();
    let other = slice.clone();
    drop(slice);
    assert!(HELD.lock().unwrap().is_empty(), "it is in use");
    drop(other);
    assert!(!is_closed());
    std::thread::spawn(HELD.lock().unwrap().pop().unwrap());
    while !is_closed() {
        std::thread::yield_now();
    }
}

#[test]
fn file_of_a_result_that_was_not_read_is_closed_on_another_thread() {
    held_pool!(HELD, POOL);
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let mut is_closed = move || matches!(io::Read::read(&mut reader, &mut [0]), Ok(0));
    let budget = Budget::default();
    let mut spill = Spill::with_pool(&POOL, &budget);
    let file = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
    spill.file = Some(file.clone());
    let (sender, written) = oneshot::channel();
    spill.writing = Some(PendingWrite { written, len: 0 });
    assert!(sender.send((Vec::new(), budget.memory_lease(), Ok(file))).is_ok());
    drop(spill);
    assert!(!is_closed());
    std::thread::spawn(HELD.lock().unwrap().pop().unwrap());
    while !is_closed() {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn batch_comes_back_if_no_thread_can_be_started() {
    static NONE: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::without_threads);
    let budget = Budget::default();
    let mut spill = Spill::with_pool(&NONE, &budget);
    spill.push(Bytes::from_static(b"hello")).unwrap();
    let failed = poll_fn(|cx| spill.poll_flush(cx)).await.unwrap_err();
    assert_eq!(failed.batch, [Bytes::from("hello")]);
    assert_eq!(failed.error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(budget.usage().memory, 0);
}

#[test]
fn file_is_closed_in_place_if_no_thread_can_be_started_even_while_unwinding() {
    struct Closes(Option<Arc<File>>);
    impl Drop for Closes {
        fn drop(&mut self) {
            close_on(&BlockingPool::without_threads(), self.0.take());
        }
    }
    let (mut reader, writer) = io::pipe().unwrap();
    let file = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
    let panicked = std::panic::catch_unwind(|| {
        let _closes = Closes(Some(file));
        panic!("a fault of the application");
    });
    assert!(panicked.is_err());
    // The pipe is at its end when the other side is closed.
    assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
}
