//! Reads a file at an offset, on every target.

use std::{fs::File, io};

/// Reads up to `buf.len()` bytes at `offset`; 0 at the end of the file.
///
/// The position of the descriptor is not used, so that many responses may share it. On Windows it is
/// moved, which makes no difference, as all reads go through here.
#[cfg(unix)]
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(windows)]
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(not(any(unix, windows)))]
pub(super) fn read_at(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}
