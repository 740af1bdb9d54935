//! A body that is a stream of pieces.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_core::Stream;
use http_body::Frame;
use pin_project::pin_project;

use crate::error::BoxError;

/// A body whose data frames come from a stream.
#[pin_project]
pub(super) struct FromStream<S>(#[pin] pub(super) S);

impl<S, T, E> http_body::Body for FromStream<S>
where
    S: Stream<Item = Result<T, E>>,
    T: Into<Bytes>,
    E: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = ready!(self.project().0.poll_next(cx));
        Poll::Ready(piece.map(|piece| match piece {
            Ok(data) => Ok(Frame::data(data.into())),
            Err(error) => Err(error.into()),
        }))
    }
}
