//! A complete body with trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::{Body, BoxError};

/// Yields the frames of `body`, then the trailers.
pub(super) struct WithTrailers {
    pub(super) body: Body,
    pub(super) trailers: Option<HeaderMap>,
}

impl http_body::Body for WithTrailers {
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
            // With an exact length it would be sent with `content-length`, which excludes trailers.
            let least = hint.lower();
            hint = SizeHint::new();
            hint.set_lower(least);
        }
        hint
    }
}
