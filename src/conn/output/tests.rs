use std::{fs::File, io::Write, sync::Arc, task::Waker};

use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;

fn file(len: usize) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>()).unwrap();
    Arc::new(file)
}

/// Writes until it has to wait; how much has moved.
fn write(output: &mut Output, io: &mut DuplexStream) -> u64 {
    let (mut moved, mut cx) = (0, Context::from_waker(Waker::noop()));
    if let Poll::Ready(result) =
        output.poll_write_all(io, &mut cx, Instant::now(), Then::Wait, &mut moved)
    {
        result.unwrap();
    }
    moved
}

#[tokio::test]
async fn file_bytes_count_as_sent_when_they_are_written() {
    const LEN: usize = 200_000;
    // A connection that cannot send files, and takes so much at a time.
    let (mut io, mut peer) = duplex(10_000);
    let mut output = Output::default();
    output.head().extend_from_slice(b"head");
    output.push_file(FileSlice::new(file(LEN), 0, LEN as u64), b"tail");
    let (mut got, mut moved) = (Vec::new(), 0);
    while !output.is_empty() {
        moved += write(&mut output, &mut io);
        assert_eq!(moved, got.len() as u64 + 10_000.min(LEN as u64 + 8 - got.len() as u64));
        let mut piece = vec![0; 10_000];
        let n = peer.read(&mut piece).await.unwrap();
        got.extend_from_slice(&piece[..n]);
    }
    assert_eq!(moved, LEN as u64 + 8);
    assert!(got.starts_with(b"head\0\x01\x02") && got.ends_with(b"tail") && got.len() == LEN + 8);
}

#[tokio::test]
async fn file_that_has_shrunk_is_error_however_it_is_sent() {
    let (mut io, _peer) = duplex(1 << 20);
    let mut output = Output::default();
    output.push_file(FileSlice::new(file(100), 0, 200), b"");
    let (mut moved, mut cx) = (0, Context::from_waker(Waker::noop()));
    let result = output.poll_write_all(&mut io, &mut cx, Instant::now(), Then::Wait, &mut moved);
    let Poll::Ready(Err(error)) = result else { panic!("{result:?}") };
    assert_eq!((error.kind(), moved), (io::ErrorKind::UnexpectedEof, 100));
}
