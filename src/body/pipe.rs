//! `Pipe`: bytes of a body in a pipe of the kernel.

use std::{
    fs::File,
    io::{self, Read},
};

use bytes::{Bytes, BytesMut};

use crate::budget::Lease;

/// The largest read of a pipe that is not moved to a socket, in bytes.
const READ_STEP: usize = 64 << 10;

/// A pipe of the kernel, with bytes that have been moved out of one socket and not yet into another one.
///
/// A body between two plain sockets travels in pipes, by splice(2), and is never copied to user space. The end of
/// the pipe that is written to does not block, nor does the other one.
///
/// An empty pipe that is dropped is kept for another transfer. One with bytes is closed, so that these reach no other
/// connection.
#[derive(Debug)]
pub struct Pipe {
    /// The ends, for reading and for writing; `None` once it is dropped.
    ends: Option<Ends>,
    len: usize,
    release: fn(Ends, bool),
    /// Counts the bytes in a budget.
    lease: Option<Lease>,
}

/// The ends of a pipe, for reading and for writing.
pub(crate) type Ends = (File, File);

impl Pipe {
    /// Wraps an empty pipe. When it is dropped, `release` gets its ends, and whether it is empty.
    pub(crate) fn new(ends: Ends, release: fn(Ends, bool)) -> Self {
        Self { ends: Some(ends), len: 0, release, lease: None }
    }

    /// Returns the number of bytes in the pipe.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the pipe has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the ends of the pipe.
    pub(crate) fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    /// Records that bytes were moved into the pipe.
    pub(crate) fn record_filled(&mut self, n: usize) {
        self.len += n;
    }

    /// Records that bytes were moved out of the pipe.
    pub(crate) fn record_drained(&mut self, n: usize) {
        self.len -= n.min(self.len);
        if self.len == 0 {
            self.lease = None;
        }
    }

    /// Counts the bytes in the budget of `lease` until the pipe is empty.
    pub(crate) fn hold(&mut self, mut lease: Lease) {
        lease.set(self.len as u64);
        self.lease = Some(lease);
    }

    /// Reads the next bytes, at most 64 KiB; `None` if there are no more. It does not block.
    ///
    /// # Errors
    /// Those of the pipe, and `UnexpectedEof` if it has fewer bytes than were moved into it.
    pub fn read_next(&mut self) -> io::Result<Option<Bytes>> {
        let step = self.len.min(READ_STEP);
        let Some((read, _)) = self.ends.as_ref().filter(|_| step > 0) else { return Ok(None) };
        let mut buf = BytesMut::zeroed(step);
        let n = (&*read).read(&mut buf)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the pipe has lost bytes"));
        }
        buf.truncate(n);
        self.record_drained(n);
        Ok(Some(buf.freeze()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            (self.release)(ends, self.len == 0);
        }
    }
}
