//! Forwarding of the request's body from the caller to the connection.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::{Cause, State};
use crate::{
    body::{Body, Segment},
    net::Io,
};

/// Moves the request's body into the output while it has room.
pub(super) fn pump<I: Io>(
    state: &mut State<I>,
    upload: &mut Option<Body>,
    now: Instant,
    cx: &mut Context<'_>,
) -> Result<(), Cause> {
    while let Some(body) = upload
        && state.output.has_room()
    {
        let State { core, output, .. } = &mut *state;
        let trailers = match body.poll_segment(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Some(Err(e))) => return Err(Cause::Body(e)),
            Poll::Ready(Some(Ok(Segment::Bytes(piece)))) => {
                let tail = core.send_data(piece.len(), output.head())?;
                output.push(piece, tail);
                continue;
            }
            Poll::Ready(Some(Ok(Segment::File(file)))) => {
                let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
                let tail = core.send_data(len, output.head())?;
                output.push_file(file, tail);
                continue;
            }
            Poll::Ready(Some(Ok(Segment::Trailers(trailers)))) => Some(trailers),
            Poll::Ready(None) => None,
        };
        core.send_end(now, trailers.as_ref(), output.end())?;
        *upload = None;
    }
    Ok(())
}
