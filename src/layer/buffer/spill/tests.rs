use std::{future::poll_fn, os::unix::fs::MetadataExt};

use super::*;

fn budget(disk: u64) -> Budget {
    Budget::builder().disk(disk).build()
}

#[tokio::test]
async fn r12_spill_file_has_no_name_and_can_be_opened_by_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Budget::builder().spill_dir(dir.path()).build();
    let mut spill = Spill::new(&budget);
    for piece in ["hello", ", ", "world"] {
        spill.push(Bytes::from_static(piece.as_bytes())).unwrap();
    }
    assert_eq!((budget.usage().memory, spill.end()), (3 * PIECE as u64, 12));
    poll_fn(|cx| spill.poll_settle(cx)).await.unwrap();
    assert_eq!((budget.usage().memory, spill.is_settled()), (0, true));
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
    assert_eq!(spill.push(Bytes::from_static(b"x")), Err(Full));
    poll_fn(|cx| spill.poll_settle(cx)).await.unwrap();
    assert_eq!(spill.push(Bytes::from_static(b"x")), Err(Full));
    let first = spill.file().unwrap().clone();
    spill.renew();
    spill.push(Bytes::from_static(b"abcdefghij")).unwrap();
    poll_fn(|cx| spill.poll_settle(cx)).await.unwrap();
    let mut text = [0; 10];
    first.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"0123456789", "whoever still sends it");
    let (file, disk) = spill.into_parts();
    assert_eq!((file.unwrap().metadata().unwrap().len(), disk.bytes()), (10, 10));
}

#[tokio::test]
async fn batch_that_cannot_be_written_is_returned() {
    let budget = Budget::builder().spill_dir("/nonexistent/folder").build();
    let mut spill = Spill::new(&budget);
    spill.push(Bytes::from_static(b"hello")).unwrap();
    let failed = poll_fn(|cx| spill.poll_settle(cx)).await.unwrap_err();
    assert_eq!(failed.batch, [Bytes::from("hello")]);
    assert_eq!(failed.error.kind(), io::ErrorKind::NotFound);
    assert!(spill.is_settled() && spill.file().is_none());
}

#[tokio::test]
async fn full_disk_is_reported_and_returns_the_batch() {
    // Whatever is written to it fails as on a full disk.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut spill = Spill::on(Arc::new(full), &Budget::default());
    spill.push(Bytes::from_static(b"hello")).unwrap();
    let failed = poll_fn(|cx| spill.poll_settle(cx)).await.unwrap_err();
    assert_eq!(failed.error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(failed.batch, [Bytes::from("hello")]);
}

#[tokio::test]
async fn tiny_pieces_count_for_what_they_cost() {
    let budget = Budget::default();
    let mut spill = Spill::new(&budget);
    let mut pushed = 0;
    while spill.has_room() {
        spill.push(Bytes::from_static(b"x")).unwrap();
        pushed += 1;
    }
    assert_eq!((pushed, budget.usage().memory), (BATCH / PIECE as u64, BATCH));
}

#[test]
fn bytes_being_written_count_until_they_are_written() {
    let budget = Budget::default();
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    let runtime = runtime.unwrap();
    let _entered = runtime.enter();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let slow_disk = spawn_blocking(move || wait.recv());
    let mut spill = Spill::new(&budget);
    spill.push(Bytes::from(vec![0; 1000])).unwrap();
    assert!(spill.poll_step(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(spill);
    assert_eq!(budget.usage().memory, 1000);
    drop(go_on);
    let _ = runtime.block_on(slow_disk).unwrap();
    runtime.block_on(spawn_blocking(|| ())).unwrap(); // behind the write
    assert_eq!(budget.usage().memory, 0);
}
