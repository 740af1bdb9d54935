//! A body that is handed on as it comes, and may not grow above a bound.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::too_large;
use crate::{Body, BoxError};

pub(super) struct Capped {
    body: Body,
    left: u64,
    limit: u64,
}

impl Capped {
    pub(super) fn cap(body: Body, limit: u64) -> Body {
        if body.len().is_some_and(|len| len <= limit) {
            return body; // it cannot grow
        }
        Body::new(Self { body, left: limit, limit })
    }
}

impl http_body::Body for Capped {
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
        match self.left.checked_sub(len) {
            Some(left) => self.left = left,
            None => {
                self.body = Body::empty(); // nobody reads it any further
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
