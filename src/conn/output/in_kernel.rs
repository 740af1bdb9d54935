//! `InKernel`: a part of a body that is sent without being read into memory.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    body::{FileSlice, Pipe},
    net::Io,
};

/// A slice of a file, or bytes in a pipe.
#[derive(Debug)]
pub(super) enum InKernel {
    File(FileSlice),
    Pipe(Pipe),
}

impl InKernel {
    /// Returns the number of remaining bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Pipe(pipe) => pipe.len() as u64,
        }
    }

    /// Returns whether `io` supports sending it.
    pub(super) fn is_sent_by(&self, io: &impl Io) -> bool {
        match self {
            Self::File(_) => io.can_send_file(),
            Self::Pipe(_) => io.can_splice(),
        }
    }

    /// Sends bytes from the front and advances.
    ///
    /// # Errors
    /// `Unsupported` if they must be read instead.
    pub(super) fn poll_send<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let file = match self {
            Self::File(file) => file,
            Self::Pipe(pipe) => return io.poll_drain_pipe(cx, pipe),
        };
        match ready!(io.poll_send_file(cx, file))? {
            0 => {
                let e = io::Error::new(io::ErrorKind::UnexpectedEof, "the file has shrunk");
                Poll::Ready(Err(e))
            }
            n => {
                file.advance(n as u64);
                Poll::Ready(Ok(n))
            }
        }
    }

    /// Reads the next bytes, at most 64 KiB.
    pub(super) fn read_next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::File(file) => file.read_next(),
            Self::Pipe(pipe) => pipe.read_next(),
        }
    }
}
