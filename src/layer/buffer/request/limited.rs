//! A streamed body that fails above a limit.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::too_large;
use crate::{Body, BoxError};

/// Passes a body on until it exceeds `limit` bytes, which is an error.
pub(super) struct Limited {
    body: Body,
    remaining: u64,
    limit: u64,
}

impl Limited {
    pub(super) fn wrap(body: Body, limit: u64) -> Body {
        if body.len().is_some_and(|len| len <= limit) {
            return body; // its length is fixed
        }
        Body::new(Self { body, remaining: limit, limit })
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self.remaining.checked_sub(len) {
            Some(remaining) => self.remaining = remaining,
            None => {
                self.body = Body::empty(); // the rest is not read
                return Poll::Ready(Some(Err(too_large(self.limit))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
