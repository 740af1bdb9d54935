//! Buffers that a thread lends to its connections, so that an idle one owns none.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Size of one read, 16 KiB: a large head, or a small upload with its head.
const READ_SIZE: usize = 16 << 10;

/// Size of one read of a body, 64 KiB: usually as much as the kernel returns at once.
const BODY_READ_SIZE: usize = 64 << 10;

/// The largest write buffer that a thread keeps, 128 KiB.
pub(super) const MAX_KEPT_CAPACITY: usize = 128 << 10;

thread_local! {
    static READ_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static WRITE_BUFFER: Cell<BytesMut> = Cell::default();
}

/// Reads up to 16 KiB and appends them to `input`; `Ok(0)` is the end of the stream.
///
/// Used for heads: `input` is allocated only when bytes have arrived, and exactly as large.
pub(super) fn poll_read<I: AsyncRead + Unpin>(
    io: &mut I,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // Taken, not borrowed: a driver nested in this read gets an empty buffer.
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

/// Reads a part of a body, of which `left` bytes remain, directly into the spare capacity of `input`.
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

/// Takes the thread's write buffer, which is empty.
pub(super) fn take_write_buffer() -> BytesMut {
    WRITE_BUFFER.take()
}

/// Returns a write buffer to the thread; it must be empty.
pub(super) fn return_write_buffer(buffer: BytesMut) {
    debug_assert!(buffer.is_empty(), "only an empty buffer may serve another connection");
    if buffer.capacity() <= MAX_KEPT_CAPACITY {
        WRITE_BUFFER.set(buffer);
    }
}

/// Pieces below this size, 16 KiB, are copied out of the read buffer. So a queued piece keeps at most four
/// times its own size allocated.
const MAX_COPIED_PIECE: usize = 16 << 10;

/// Copies a small piece: as a slice it would keep a read buffer of 64 KiB alive until it is read.
pub(super) fn detach(data: Bytes) -> Bytes {
    if data.len() < MAX_COPIED_PIECE { Bytes::copy_from_slice(&data) } else { data }
}
