//! Buffers of a thread, which its connections share, so that an idle connection owns none.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Maximum size of one read: 128 KiB, which fits a response or an upload of 100 KiB with its head.
const MAX_READ: usize = 128 << 10;

/// Minimum room for a read: 80 KiB. With less room the buffer is replaced.
const MIN_READ_ROOM: usize = 80 << 10;

/// Minimum size of a read that is split off the buffer without a copy: 32 KiB. So a piece keeps at most four times its
/// own size allocated.
const MIN_SPLIT: usize = 32 << 10;

/// Size of one read of a body directly into its buffer: 64 KiB, usually as much as the kernel returns at once.
const BODY_READ_SIZE: usize = 64 << 10;

/// Minimum remainder of a body that is read directly into its buffer: 16 KiB.
const MIN_DIRECT_READ: usize = 16 << 10;

/// The largest write buffer that a thread keeps: 128 KiB.
pub(super) const MAX_KEPT_CAPACITY: usize = 128 << 10;

/// Write buffers that a thread keeps, 2: a proxied request is polled with one for its client and one for its server.
const MAX_WRITE_BUFFERS: usize = 2;

thread_local! {
    static READ_BUFFER: Cell<Option<BytesMut>> = const { Cell::new(None) };
    static WRITE_BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads up to 128 KiB and appends them to `input`; `Ok(0)` is the end of the stream.
///
/// A large read is split off the thread's buffer and becomes `input`. A smaller one is copied, so that `input` is
/// allocated only when bytes have arrived, and with their exact size.
pub(super) fn poll_read<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    poll_read_up_to(io, cx, input, usize::MAX)
}

/// Reads like [`poll_read`], at most `max_len` bytes.
pub(super) fn poll_read_up_to<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    max_len: usize,
) -> Poll<io::Result<usize>> {
    READ_BUFFER.with(|kept| {
        let mut buffer = take(kept);
        let result = pin!(io.read_buf(&mut (&mut buffer).limit(max_len))).poll(cx);
        if input.is_empty() && buffer.len() >= MIN_SPLIT {
            *input = buffer.split();
        } else if !buffer.is_empty() {
            input.extend_from_slice(&buffer);
            buffer.clear();
        }
        kept.set(Some(buffer));
        result
    })
}

/// Takes the buffer, so that a driver nested in this read gets another one.
fn take(kept: &Cell<Option<BytesMut>>) -> BytesMut {
    let mut buffer = kept.take().unwrap_or_default();
    if buffer.capacity() < MIN_READ_ROOM {
        buffer.reserve(MAX_READ);
    }
    buffer
}

/// Replaces an empty buffer by that of the thread, unless it has room for a read.
#[cfg_attr(
    not(any(feature = "hyper", feature = "process", feature = "upstream")),
    allow(dead_code, reason = "for tunnels")
)]
pub(super) fn acquire_read_buffer(buffer: &mut BytesMut) {
    if buffer.capacity() < MIN_READ_ROOM {
        *buffer = READ_BUFFER.with(take);
    }
}

/// Returns a read buffer to the thread; it must be empty.
#[cfg_attr(
    not(any(feature = "hyper", feature = "process", feature = "upstream")),
    allow(dead_code, reason = "for tunnels")
)]
pub(super) fn return_read_buffer(buffer: BytesMut) {
    debug_assert!(buffer.is_empty(), "only an empty buffer may serve another connection");
    if buffer.capacity() >= MIN_READ_ROOM {
        READ_BUFFER.set(Some(buffer));
    }
}

/// Copies what is left in a read buffer if it is small, and returns the buffer to the thread. A large rest keeps it, at
/// four times its own size at most.
#[cfg_attr(
    not(any(feature = "hyper", feature = "process", feature = "upstream")),
    allow(dead_code, reason = "for tunnels")
)]
pub(super) fn release_read_buffer(rest: &mut BytesMut) {
    if rest.len() < MIN_SPLIT && rest.capacity() >= MIN_SPLIT {
        let mut buffer = std::mem::replace(rest, BytesMut::from(&rest[..]));
        buffer.clear();
        return_read_buffer(buffer);
    }
}

/// Reads a part of a body of which `remaining` bytes have not been read; `None` if unknown. If `input` already has a
/// part of it, the read is directly into `input`, without a copy.
pub(super) fn poll_read_body<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    remaining: Option<u64>,
) -> Poll<io::Result<usize>> {
    let remaining = remaining.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    if input.is_empty() || remaining < MIN_DIRECT_READ {
        return poll_read(io, cx, input);
    }
    // One byte more: only a read that does not fill its buffer shows that the socket is empty.
    input.reserve(remaining.min(BODY_READ_SIZE) + 1);
    pin!(io.read_buf(input)).poll(cx)
}

/// Takes an empty write buffer of the thread.
pub(super) fn take_write_buffer() -> BytesMut {
    WRITE_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Returns a write buffer to the thread; it must be empty.
pub(super) fn return_write_buffer(buffer: BytesMut) {
    debug_assert!(buffer.is_empty(), "only an empty buffer may serve another connection");
    WRITE_BUFFERS.with_borrow_mut(|kept| {
        if buffer.capacity() <= MAX_KEPT_CAPACITY && kept.len() < MAX_WRITE_BUFFERS {
            kept.push(buffer);
        }
    });
}

/// Minimum size of a piece that may keep its read buffer alive: 16 KiB. So a queued piece keeps at most eight times its
/// own size allocated.
const MIN_SHARED_PIECE: usize = 16 << 10;

/// Copies a small piece: as a slice it would keep a read buffer of 128 KiB alive.
pub(super) fn detach(data: Bytes) -> Bytes {
    if data.len() < MIN_SHARED_PIECE { Bytes::copy_from_slice(&data) } else { data }
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
    fn large_read_is_split_off_and_small_one_is_copied_to_its_size() {
        for (len, kept) in [
            (1, MAX_READ),
            (MIN_SPLIT - 1, MAX_READ),
            (MIN_SPLIT, MAX_READ - MIN_SPLIT),
            (MAX_READ, 0),
        ] {
            READ_BUFFER.take();
            let mut input = BytesMut::new();
            read(&vec![b'a'; len], &mut input);
            let room = READ_BUFFER.take().unwrap().capacity();
            assert_eq!((input.len(), room), (len, kept));
            assert!(input.capacity() <= len.max(8), "{len} keeps {}", input.capacity());
        }
    }

    #[test]
    fn small_rest_of_a_read_buffer_is_copied_and_the_buffer_returned() {
        for (len, is_copied) in [(1, true), (MIN_SPLIT - 1, true), (MIN_SPLIT, false)] {
            READ_BUFFER.take();
            let mut rest = BytesMut::new();
            acquire_read_buffer(&mut rest);
            rest.extend_from_slice(&vec![b'a'; len]);
            for _ in 0..2 {
                release_read_buffer(&mut rest);
                assert_eq!((rest.len(), rest.capacity() < MAX_READ), (len, is_copied));
            }
            assert_eq!(READ_BUFFER.take().is_some(), is_copied);
            rest.clear();
            return_read_buffer(rest);
            assert_eq!(READ_BUFFER.take().is_some(), !is_copied, "a small one is not kept");
        }
    }

    #[test]
    fn read_is_no_larger_than_its_maximum_and_appends_to_input() {
        READ_BUFFER.take();
        let mut input = BytesMut::from("head");
        let large = vec![b'a'; MAX_READ + 1];
        read(&large, &mut input);
        assert_eq!(input.len(), "head".len() + MAX_READ);
        assert!(input.starts_with(b"heada"));
        // Bytes that were split off do not change when the buffer is used again.
        let mut first = BytesMut::new();
        read(&large[..MIN_SPLIT], &mut first);
        let mut second = BytesMut::new();
        read(&vec![b'b'; MIN_SPLIT], &mut second);
        assert!(first.iter().all(|&b| b == b'a') && second.iter().all(|&b| b == b'b'));
    }
}
