//! The progress of writes to a full socket, and to a stream that holds bytes.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::Waker,
};

use tokio::time::{advance, pause};

use super::*;
use crate::conn::testing::FullSocket;

const SEC: Duration = Duration::from_secs(1);

#[tokio::test]
async fn client_is_too_slow_only_if_it_takes_nothing_from_the_socket() {
    pause();
    let queue = Arc::new(AtomicU64::new(100_000));
    let (rate, limits) = (MinRate::NONE, FrameLimits::default());
    let mut wire = Wire::of_client(FullSocket(queue.clone()), BytesMut::new(), rate, limits);
    let (state, mut cx) = (wire.state(), Context::from_waker(Waker::noop()));
    assert!(Pin::new(&mut wire).poll_write(&mut cx, b"frame").is_ready(), "it is collected");
    assert!(state.poll_flush(&mut cx).is_pending());
    let is_too_slow = || state.is_too_slow(clock::now(), 60 * SEC, SEC);
    for _ in 0..10 {
        queue.fetch_sub(100, Relaxed);
        for _ in 0..9 {
            advance(6 * SEC).await;
            assert!(!is_too_slow());
        }
    }
    // The last 100 bytes were seen six seconds after they could have been taken.
    advance(6 * SEC).await;
    assert!(!is_too_slow());
    advance(6 * SEC).await;
    assert!(is_too_slow());
}

/// A stream that accepts writes and never flushes them, as TLS can, with the number of looks at its send queue.
struct Unflushed(Arc<AtomicU64>);

impl Io for Unflushed {
    fn send_queue_len(&self) -> Option<u64> {
        Some(self.0.fetch_add(1, Relaxed))
    }
}

impl AsyncRead for Unflushed {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Unflushed {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn complete_write_does_not_look_at_the_send_queue() {
    let looks = Arc::new(AtomicU64::new(0));
    let (rate, limits) = (MinRate::NONE, FrameLimits::default());
    let mut wire = Wire::of_client(Unflushed(looks.clone()), BytesMut::new(), rate, limits);
    let (state, mut cx) = (wire.state(), Context::from_waker(Waker::noop()));
    for _ in 0..100 {
        assert!(Pin::new(&mut wire).poll_write(&mut cx, b"frame").is_ready());
        assert!(state.poll_flush(&mut cx).is_pending());
    }
    assert_eq!(looks.load(Relaxed), 1, "at the beginning of the wait");
}
