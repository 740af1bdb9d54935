//! Registration of a socket with the runtime's poller.

#![allow(unsafe_code, reason = "AsyncFd::register_with_interest is the only constructor")]

#[cfg(feature = "process")]
use std::sync::Arc;
use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a non-blocking socket with the current runtime, for read readiness only.
///
/// # Errors
/// Those of epoll_ctl(2).
pub(super) fn register_for_reads(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always returns the same descriptor, and closes it on drop.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Registers a socket with the current runtime, for reads and writes. It may be registered with one runtime at a time.
///
/// # Errors
/// Those of epoll_ctl(2).
#[cfg(feature = "process")]
pub(super) fn register_for_both(socket: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: as above, with a shared owner. It may be in blocking mode: its system calls have MSG_DONTWAIT.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}
