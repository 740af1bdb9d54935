//! Buffers that a thread lends to its connections, so that an idle one owns none.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes that one read may bring: a large head, or a small upload with its head.
const READ_SIZE: usize = 16 << 10;

/// Room for one read of a body: as much as the kernel gives at once, usually.
const BODY_READ_SIZE: usize = 64 << 10;

/// A write buffer above this size is not kept.
pub(super) const MAX_KEPT_CAPACITY: usize = 128 << 10;

thread_local! {
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE_BUFFER: Cell<BytesMut> = Cell::default();
}

/// Reads what has come, at most 16 KiB, behind `input`; `Ok(0)` is the end.
///
/// Heads come this way: `input` is allocated only when there is something to keep, and exactly as
/// large.
pub(super) fn poll_read<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // Taken, not borrowed: whatever a nested driver does, it finds an empty place.
    let mut buffer = READ_BUFFER.take();
    buffer.resize(READ_SIZE, 0);
    let mut buf = ReadBuf::new(&mut buffer);
    let result = Pin::new(io).poll_read(cx, &mut buf).map_ok(|()| {
        input.extend_from_slice(buf.filled());
        buf.filled().len()
    });
    READ_BUFFER.set(buffer);
    result
}

/// Reads a piece of a body, of which `left` bytes are to come, straight behind `input`.
pub(super) fn poll_read_body<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    left: Option<u64>,
) -> Poll<io::Result<usize>> {
    let room = left.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    if room < READ_SIZE {
        return poll_read(io, cx, input);
    }
    input.reserve(room.min(BODY_READ_SIZE));
    let n = ready!(std::pin::pin!(io.read_buf(input)).poll(cx))?;
    Poll::Ready(Ok(n))
}

/// The thread's write buffer, empty.
pub(super) fn take_write_buffer() -> BytesMut {
    WRITE_BUFFER.take()
}

/// Gives a write buffer back; it must be empty.
pub(super) fn return_write_buffer(buffer: BytesMut) {
    debug_assert!(buffer.is_empty(), "only an empty buffer may serve another connection");
    if buffer.capacity() <= MAX_KEPT_CAPACITY {
        WRITE_BUFFER.set(buffer);
    }
}
