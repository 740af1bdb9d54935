//! Forwards the request's body from the caller to the connection.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::{Cause, Protocol, State};
use crate::{
    body::{Body, Segment},
    net::Io,
};

/// A body, and the unsent rest of its last piece, which may be larger than the protocol sends at once.
pub(super) struct Upload {
    body: Body,
    /// Boxed, since few pieces are so large.
    rest: Option<Box<Segment>>,
}

impl Upload {
    pub(super) fn new(body: Body) -> Self {
        Self { body, rest: None }
    }

    /// Returns the length of the body. Nothing may have been read from it.
    pub(super) fn len(&self) -> Option<u64> {
        self.body.len()
    }

    /// Returns the body. Nothing may have been read from it.
    pub(super) fn into_body(self) -> Body {
        self.body
    }

    /// Lets the body come in pipes, for a connection that can send them.
    pub(super) fn accept_pipes(&self) {
        self.body.accept_sent_pipes();
    }

    fn poll_segment(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Segment, crate::BoxError>>> {
        match self.rest.take() {
            Some(rest) => Poll::Ready(Some(Ok(*rest))),
            None => self.body.poll_segment(cx),
        }
    }
}

/// Moves the request's body into the output while it has room.
pub(super) fn pump<P: Protocol, I: Io>(
    state: &mut State<P, I>,
    upload: &mut Option<Upload>,
    now: Instant,
    cx: &mut Context<'_>,
) -> Result<(), Cause<P>> {
    while let Some(body) = upload
        && state.output.has_room()
    {
        let State { core, output, .. } = &mut *state;
        let trailers = match body.poll_segment(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Some(Err(e))) => return Err(Cause::Body(e)),
            Poll::Ready(Some(Ok(Segment::Bytes(mut piece)))) => {
                let (n, tail) =
                    core.send_data(piece.len(), output.head()).map_err(Cause::Misuse)?;
                if n < piece.len() {
                    body.rest = Some(Box::new(Segment::Bytes(piece.split_off(n))));
                }
                output.push(piece, tail);
                continue;
            }
            Poll::Ready(Some(Ok(Segment::File(mut file)))) => {
                let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
                let (n, tail) = core.send_data(len, output.head()).map_err(Cause::Misuse)?;
                if n < len {
                    let sent = file.split_to(n as u64);
                    let rest = std::mem::replace(&mut file, sent);
                    body.rest = Some(Box::new(Segment::File(rest)));
                }
                output.push_file(file, tail);
                continue;
            }
            Poll::Ready(Some(Ok(Segment::Pipe(pipe)))) => {
                let (n, tail) = core.send_data(pipe.len(), output.head()).map_err(Cause::Misuse)?;
                if n != pipe.len() {
                    // An earlier attempt by a protocol that takes any length has asked for pipes.
                    return Err(Cause::Body(
                        "a part of the request's body cannot be divided".into(),
                    ));
                }
                output.push_pipe(pipe, tail);
                continue;
            }
            Poll::Ready(Some(Ok(Segment::Trailers(trailers)))) => Some(trailers),
            Poll::Ready(None) => None,
        };
        core.send_end(now, trailers.as_ref(), output.end()).map_err(Cause::Misuse)?;
        *upload = None;
    }
    Ok(())
}
