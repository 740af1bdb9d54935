//! Sockets that the runtime tells of when something has come, and of nothing else.

#![allow(unsafe_code, reason = "a registration that trusts us, and a read into fresh memory")]

use std::{io, os::fd::OwnedFd};

use rustix::{io::retry_on_intr, net::RecvFlags};
use tokio::io::{Interest, ReadBuf, unix::AsyncFd};

/// Has the present runtime watch a socket that does not block, for reads.
///
/// # Errors
/// When the kernel has no room for it.
pub(super) fn for_reads(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, is always the same one, and is closed when it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Reads what has come; was it all?
pub(super) fn receive(socket: &OwnedFd, buf: &mut ReadBuf<'_>) -> rustix::io::Result<bool> {
    let room = buf.remaining();
    let n = retry_on_intr(|| {
        // SAFETY: the kernel writes to it, and nobody takes anything out of it.
        let room = unsafe { buf.unfilled_mut() };
        rustix::net::recv(socket, room, RecvFlags::empty()).map(|((got, _), _)| got.len())
    })?;
    // SAFETY: so many bytes were written by the kernel.
    unsafe { buf.assume_init(n) };
    buf.advance(n);
    Ok(n < room)
}
