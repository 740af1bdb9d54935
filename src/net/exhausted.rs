//! Errors of a lack of descriptors or memory.

use std::io;

use rustix::io::Errno;

/// Returns whether a system call failed because this process or the kernel is out of descriptors or memory, so that a
/// peer has no part in the failure.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
