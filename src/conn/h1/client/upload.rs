//! The request's body, on its way from the caller to the connection.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::Body as _;

use super::{Cause, State};
use crate::{
    body::{Body, Kind},
    net::Io,
    proto::h1::Misuse,
};

/// Moves the request's body into the connection, as far as there is room.
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
        let mut push = |piece: Bytes| -> Result<(), Misuse> {
            let tail = core.send_data(piece.len(), output.head())?;
            output.push(piece, tail);
            Ok(())
        };
        let mut trailers = None;
        let ended = match std::mem::take(body).into_kind() {
            Kind::Empty => true,
            Kind::Bytes(bytes) => {
                push(bytes)?;
                true
            }
            Kind::File(file) => {
                core.send_data(usize::try_from(file.len()).unwrap_or(usize::MAX), output.head())?;
                output.push_file(file);
                true
            }
            other => {
                *body = other.into();
                match Pin::new(body).poll_frame(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(None) => true,
                    Poll::Ready(Some(Err(e))) => return Err(Cause::Body(e)),
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            push(data)?;
                            false
                        }
                        Err(frame) => {
                            trailers = frame.into_trailers().ok();
                            true
                        }
                    },
                }
            }
        };
        if ended {
            core.send_end(now, trailers.as_ref(), output.end())?;
            *upload = None;
        }
    }
    Ok(())
}
