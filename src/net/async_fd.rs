//! Registration of a socket with the runtime's poller.

#![allow(unsafe_code, reason = "AsyncFd::register_with_interest is the only constructor")]

use std::os::fd::OwnedFd;
#[cfg(feature = "process")]
use std::{io, sync::Arc};

use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdRegisterError},
};

/// Registers a non-blocking socket with the current runtime, for read readiness only.
///
/// # Errors
/// Those of epoll_ctl(2), with the socket.
pub(super) fn register_for_reads(
    socket: OwnedFd,
) -> Result<AsyncFd<OwnedFd>, AsyncFdRegisterError<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always returns the same descriptor, and closes it on drop.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
}

/// Registers a socket in blocking mode, whose system calls have `MSG_DONTWAIT`, like [`register_for_reads`]. It may be
/// registered with one runtime at a time.
///
/// # Errors
/// Those of epoll_ctl(2).
#[cfg(feature = "process")]
pub(super) fn register_shared_for_reads(socket: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: as above, with a shared owner.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Registers a copy of a socket's descriptor with the current runtime, for write readiness only.
///
/// # Errors
/// Those of dup(2) and epoll_ctl(2).
#[cfg(feature = "process")]
pub(super) fn register_copy_for_writes(socket: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = socket.try_clone()?; // epoll(7) allows one registration of each descriptor
    // SAFETY: as above.
    Ok(unsafe { AsyncFd::register_with_interest(copy, Interest::WRITABLE) }?)
}
