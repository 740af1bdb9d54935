//! `Upload`: sends the body of a request through a pipe.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Body as _;
use tokio::{io::AsyncWrite, net::unix::pipe::Sender};

use crate::{
    Body,
    error::{BoxError, Error, Kind},
};

/// Maximum size of a piece: 1 MiB. A length of four bytes precedes each piece.
const MAX_PIECE: usize = 1 << 20;

/// The sending side. If it is dropped before its end, the worker's read fails.
pub(super) struct Upload {
    body: Body,
    pipe: Sender,
    /// The unwritten part of the current piece: its length, and its data.
    pending: [Bytes; 2],
    /// The rest of the current frame of `body`.
    rest: Bytes,
    has_ended: bool,
}

/// Creates the pipe of an upload. Returns the worker's end too.
///
/// # Errors
/// Those of pipe(2) and epoll_ctl(2).
pub(super) fn pipe() -> io::Result<(Sender, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((Sender::from_owned_fd(writer.into())?, reader.into()))
}

impl Upload {
    pub(super) fn new(body: Body, pipe: Sender) -> Self {
        Self { body, pipe, pending: Default::default(), rest: Bytes::new(), has_ended: false }
    }

    /// Sends data until the pipe is full or the body is pending. Sets the upload to `None` at its end, when the worker
    /// has closed the pipe, and when the body fails. Returns the error of the body.
    pub(super) fn poll(upload: &mut Option<Self>, cx: &mut Context<'_>) -> Option<BoxError> {
        let Poll::Ready(result) = upload.as_mut()?.poll_all(cx) else { return None };
        *upload = None;
        let error = result.err()?;
        // The error of a foreign body says nothing of its kind.
        let is_known = Error::find(&*error).is_some();
        Some(if is_known { error } else { Error::new(Kind::ClientGone, error).into() })
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            while let Some(piece) = self.pending.iter_mut().find(|piece| !piece.is_empty()) {
                match ready!(Pin::new(&mut self.pipe).poll_write(cx, piece)) {
                    Ok(n) => piece.advance(n),
                    Err(_) => return Poll::Ready(Ok(())), // the worker has closed the pipe
                }
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            if self.rest.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()? {
                    Some(frame) => self.rest = frame.into_data().unwrap_or_default(),
                    None => self.has_ended = true,
                }
                if self.rest.is_empty() && !self.has_ended {
                    continue;
                }
            }
            let piece = self.rest.split_to(self.rest.len().min(MAX_PIECE));
            let length = (piece.len() as u32).to_le_bytes();
            self.pending = [Bytes::copy_from_slice(&length), piece];
        }
    }
}
