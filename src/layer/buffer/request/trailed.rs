//! A whole body, and the trailers behind it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::{Body, BoxError};

pub(super) struct Trailed {
    pub(super) body: Body,
    pub(super) trailers: Option<HeaderMap>,
}

impl http_body::Body for Trailed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => Poll::Ready(self.trailers.take().map(|t| Ok(Frame::trailers(t)))),
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        if self.trailers.is_some() {
            // With an exact length it would be sent with `content-length`, and have no trailers.
            let least = hint.lower();
            hint = SizeHint::new();
            hint.set_lower(least);
        }
        hint
    }
}
