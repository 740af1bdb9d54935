//! Frames between this process, the front, and a worker process: parsed requests, and responses, in Python's
//! `marshal` format.
//!
//! The front has a parsed head and a complete body when it sends a request to a worker, so the worker does not parse
//! anything: it decodes the request with one call of `marshal.loads`. One frame is one message of a `SOCK_SEQPACKET`
//! socket, of at most [`MAX_FRAME`] bytes. Every frame is a tuple, whose first item is its kind. There is no version
//! number, since the worker program is part of this crate.
//!
//! # From the front
//!
//! | frame | |
//! |---|---|
//! | `(id, environ, body)` | A request. `id`: from 0 to 2<sup>31</sup> - 1, see [`MAX_ID`]. `environ`: a dict of strings. |
//! | `(3, None)` | The worker, which has no request, becomes the process that forks workers, see below. The descriptor of its control socket is sent in a message of one byte after the frame. |
//! | `(4, number)` | A check of a worker that has no request. `number` is like an id. |
//! | `(id,)` | The client of this request has disconnected. The worker may discard the response, but still ends the request. Before the response has begun, it is sent only to a worker that runs several requests at a time. |
//! | `(id, None)` | This request takes too long: such a worker cancels its task. |
//!
//! While a worker that runs one request at a time runs a request, the front may send the next ones, and may read them
//! back from the socket, oldest first. While there is one in the socket, no `(id,)` is sent.
//!
//! Bytes of the request are decoded as ISO 8859-1, as in PEP 3333. `body` is one of
//! - `bytes`, up to [`MAX_INLINE`];
//! - `(1, offset, length)`: a slice of a file, whose descriptor is sent in a message of one byte after the frame;
//! - `(2, length)`: a stream, -1 if its length is not known. The descriptor of a pipe is sent as above. In the pipe
//!   each piece follows its length, four bytes in little endian; the length 0 is the end. If the pipe ends
//!   without it, the body is truncated;
//! - `(3,)`: a WebSocket. The descriptor of a stream socket is sent as above. A response of 2xx accepts it: then the
//!   frames of RFC 6455 are sent on that socket, and the lane is free. Any other response refuses it.
//!
//! # From the worker
//!
//! | frame | [`Reply`] |
//! |---|---|
//! | `(0,)` | [`Ready`](Reply::Ready): the application is loaded |
//! | `(1, id, status, headers, body)` | [`Complete`](Reply::Complete): a response in one piece |
//! | `(2, id, status, headers)` | [`Head`](Reply::Head): a response whose body follows |
//! | `(3, id, bytes)` | [`Chunk`](Reply::Chunk): a piece of the body |
//! | `(4, id)` | [`End`](Reply::End): the end of the body, or of a request whose client has disconnected |
//! | `(5, id, status, headers, offset, length)` | [`File`](Reply::File): a response whose body is in the file whose descriptor this message has |
//! | `(6, id, message, traceback)` | [`Failed`](Reply::Failed): the application raised an exception |
//! | `(7, id, text)` | [`Log`](Reply::Log): output of the application to `wsgi.errors` |
//! | `(11, id, traceback)` | [`Raised`](Reply::Raised): the application raised an exception after its response |
//! | `(12, number)` | [`Pong`](Reply::Pong): the answer to a check. It may be late, when the worker has a request again |
//!
//! A process may load the application once and fork workers. It has its own socket, sends `(0,)` when it has loaded
//! the application, and then answers one command after another. A worker that becomes such a process closes the socket of
//! its requests; if it must not be copied, it sends `(10, message)` instead of `(0,)`.
//!
//! | command | reply | |
//! |---|---|---|
//! | `(1,)`, with the descriptors of the worker's socket, standard output and error | `(8,)`, with a pidfd: [`Forked`](Reply::Forked), or `(10, message)`: [`NotForked`](Reply::NotForked) | Fork a worker, which leads a process group. |
//! | `(2, pid)` | `(9, is_signal, number)`: [`Reaped`](Reply::Reaped) | Reap a worker that has ended. The reply is [`NotForked`](Reply::NotForked) if it is no child. |
//!
//! `status` is a string like `200 OK`, `headers` a list of pairs of strings or bytes, as returned by the application.
//! Any other frame is a [`Fault`], after which the worker must be stopped. A head that is not valid in HTTP, or has values
//! of other types, is a [`BadHead`], a fault of the application, and its worker continues.

mod marshal;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use marshal::Fault;
pub use reply::{BadHead, Head, MAX_FIELDS, Reply};
pub use request::{
    RequestBody, RequestEncoder, TooLarge, abort, cancel, fork, ping, reap, refork, request_id,
};

/// Maximum size of a frame: 160 KiB. It must be below the kernel's limit for a message, which is the size of a socket's send
/// buffer: 208 KiB by default (`net.core.wmem_default`).
pub const MAX_FRAME: usize = 160 << 10;

/// Maximum size of a body inside of a frame: 64 KiB, which leaves 96 KiB for the head.
pub const MAX_INLINE: usize = 64 << 10;

/// Maximum id of a request; the next one is 0.
pub const MAX_ID: u32 = i32::MAX as u32;
