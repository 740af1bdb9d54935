//! Buffers that a thread lends to its connections, so that an idle one owns none.

use std::{
    cell::Cell,
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that one read takes, 128 KiB: a response or an upload of 100 KiB with its head.
const READ_BUFFER: usize = 128 << 10;

/// The least room for a read, 80 KiB: below it the buffer is replaced.
const MIN_READ_ROOM: usize = 80 << 10;

/// What a read has taken is handed over without a copy from this size on, 32 KiB. So a piece keeps at most four times
/// its own size allocated.
const MIN_HANDED_OVER: usize = 32 << 10;

/// Size of one read of a body into its buffer, 64 KiB: usually as much as the kernel returns at once.
const BODY_READ_SIZE: usize = 64 << 10;

/// A body of which less remains is not read into its buffer, 16 KiB.
const SMALL_BODY: usize = 16 << 10;

/// The largest write buffer that a thread keeps, 128 KiB.
pub(super) const MAX_KEPT_CAPACITY: usize = 128 << 10;

thread_local! {
    static READ: Cell<Option<BytesMut>> = const { Cell::new(None) };
    static WRITE_BUFFER: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

/// Reads up to 128 KiB and appends them to `input`; `Ok(0)` is the end of the stream.
///
/// A large part of a message becomes `input` itself. A smaller one is copied to it, so that it is allocated only when
/// bytes have arrived, and exactly as large.
pub(super) fn poll_read<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // Taken, not borrowed: a driver nested in this read gets an empty buffer.
    let mut buffer = READ.take().unwrap_or_default();
    if buffer.capacity() < MIN_READ_ROOM {
        buffer.reserve(READ_BUFFER);
    }
    let result = pin!(io.read_buf(&mut buffer)).poll(cx);
    if input.is_empty() && buffer.len() >= MIN_HANDED_OVER {
        *input = buffer.split();
    } else {
        input.extend_from_slice(&buffer);
        buffer.clear();
    }
    READ.set(Some(buffer));
    result
}

/// Reads a part of a body, of which `left` bytes remain, if `input` has a part already directly behind that.
pub(super) fn poll_read_body<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    left: Option<u64>,
) -> Poll<io::Result<usize>> {
    let room = left.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    if input.is_empty() || room < SMALL_BODY {
        return poll_read(io, cx, input);
    }
    // One byte more: a read that fills its buffer does not show that no more has arrived.
    input.reserve(room.min(BODY_READ_SIZE) + 1);
    pin!(io.read_buf(input)).poll(cx)
}

/// Takes the thread's write buffer, which is empty.
pub(super) fn take_write_buffer() -> BytesMut {
    WRITE_BUFFER.take().unwrap_or_default()
}

/// Returns a write buffer to the thread; it must be empty.
pub(super) fn return_write_buffer(buffer: BytesMut) {
    debug_assert!(buffer.is_empty(), "only an empty buffer may serve another connection");
    if buffer.capacity() <= MAX_KEPT_CAPACITY {
        WRITE_BUFFER.set(Some(buffer));
    }
}

/// Pieces below this size, 16 KiB, are copied out of the read buffer. So a queued piece keeps at most eight
/// times its own size allocated.
const MAX_COPIED_PIECE: usize = 16 << 10;

/// Copies a small piece: as a slice it would keep a read buffer of 128 KiB alive until it is read.
pub(super) fn detach(data: Bytes) -> Bytes {
    if data.len() < MAX_COPIED_PIECE { Bytes::copy_from_slice(&data) } else { data }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Reads once from a stream that has all of `data`.
    fn read(mut data: &[u8], input: &mut BytesMut) {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(poll_read(&mut data, &mut cx, input).is_ready());
    }

    #[test]
    fn large_read_is_handed_over_and_small_one_is_copied_to_its_size() {
        for (len, kept) in [
            (1, READ_BUFFER),
            (MIN_HANDED_OVER - 1, READ_BUFFER),
            (MIN_HANDED_OVER, READ_BUFFER - MIN_HANDED_OVER),
            (READ_BUFFER, 0),
        ] {
            READ.take();
            let mut input = BytesMut::new();
            read(&vec![b'a'; len], &mut input);
            let room = READ.take().unwrap().capacity();
            assert_eq!((input.len(), room), (len, kept));
            assert!(input.capacity() <= len.max(8), "{len} keeps {}", input.capacity());
        }
    }

    #[test]
    fn read_takes_no_more_than_the_buffer_and_appends_to_input() {
        READ.take();
        let mut input = BytesMut::from("head");
        let large = vec![b'a'; READ_BUFFER + 1];
        read(&large, &mut input);
        assert_eq!(input.len(), "head".len() + READ_BUFFER);
        assert!(input.starts_with(b"heada"));
        // What was handed over stays as it is when the buffer is used again.
        let mut first = BytesMut::new();
        read(&large[..MIN_HANDED_OVER], &mut first);
        let mut second = BytesMut::new();
        read(&vec![b'b'; MIN_HANDED_OVER], &mut second);
        assert!(first.iter().all(|&b| b == b'a') && second.iter().all(|&b| b == b'b'));
    }
}
