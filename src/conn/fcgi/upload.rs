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

/// A body, and the unsent rest of its last piece: a piece may be larger than a record.
pub(super) struct Upload {
    body: Body,
    rest: Option<Segment>,
}

impl Upload {
    pub(super) fn new(body: Body) -> Self {
        Self { body, rest: None }
    }

    /// Returns the body. Nothing may have been read from it.
    pub(super) fn into_body(self) -> Body {
        self.body
    }
}

/// Moves the request's body into the output while it has room.
pub(super) fn pump<I: Io>(
    state: &mut State<I>,
    upload: &mut Option<Upload>,
    now: Instant,
    cx: &mut Context<'_>,
) -> Result<(), Cause> {
    while let Some(Upload { body, rest }) = upload
        && state.output.has_room()
    {
        let State { core, output, .. } = &mut *state;
        match rest.take() {
            Some(Segment::Bytes(mut bytes)) if !bytes.is_empty() => {
                let n = core.send_data(bytes.len(), output.head())?;
                output.push(bytes.split_to(n), b"");
                *rest = Some(Segment::Bytes(bytes));
                continue;
            }
            Some(Segment::File(mut file)) if !file.is_empty() => {
                let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
                let n = core.send_data(len, output.head())?;
                output.push_file(file.split_to(n as u64), b"");
                *rest = Some(Segment::File(file));
                continue;
            }
            // CGI has no trailers.
            Some(Segment::Bytes(_) | Segment::File(_) | Segment::Trailers(_)) | None => {}
        }
        match body.poll_segment(cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Some(Err(e))) => return Err(Cause::Body(e)),
            Poll::Ready(Some(Ok(segment))) => *rest = Some(segment),
            Poll::Ready(None) => {
                core.send_end(now, output.end())?;
                *upload = None;
            }
        }
    }
    Ok(())
}
