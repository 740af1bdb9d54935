//! A body that is encoded while it is read.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, SizeHint};

use super::codec::Encoder;
use crate::{
    Body,
    body::{PollSegment, Segment, Segments},
    error::BoxError,
};

/// The maximum length of a content in memory that is encoded as a whole, so that its length is known: 64 KiB.
const MAX_WHOLE: usize = 64 << 10;

/// The maximum number of bytes that are encoded before other tasks run, 64 KiB.
const MAX_PIECE: usize = 64 << 10;

/// Returns `body` encoded.
pub(super) fn encoded(body: Body, mut encoder: Encoder) -> Body {
    if let Some(content) = body.as_bytes().filter(|content| content.len() <= MAX_WHOLE) {
        let mut out = BytesMut::with_capacity(content.len() / 2);
        let result = encoder.encode(&content, &mut out).and_then(|()| encoder.finish(&mut out));
        return match result {
            Ok(()) => out.freeze().into(),
            Err(error) => Body::from_stream(Failed(Some(error.into()))),
        };
    }
    let flushes_when_pending = body.len().is_none();
    Body::segmented(Encoded {
        body,
        encoder,
        rest: Bytes::new(),
        is_unflushed: false,
        flushes_when_pending,
        trailers: None,
        is_finished: false,
    })
}

/// A stream of one error.
struct Failed(Option<BoxError>);

impl futures_core::Stream for Failed {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Err))
    }
}

struct Encoded {
    body: Body,
    encoder: Encoder,
    /// The rest of a large piece.
    rest: Bytes,
    /// Whether the encoder contains bytes that were not written.
    is_unflushed: bool,
    /// Whether to flush the encoder when no more data is available.
    flushes_when_pending: bool,
    trailers: Option<HeaderMap>,
    is_finished: bool,
}

impl Encoded {
    /// Returns the next piece of the content; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        while self.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(frame) => {
                    self.trailers = frame.into_trailers().ok();
                    return Poll::Ready(None);
                }
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(MAX_PIECE));
        Poll::Ready(Some(Ok(piece)))
    }
}

impl Segments for Encoded {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        let mut out = BytesMut::new();
        while !self.is_finished {
            match self.poll_piece(cx)? {
                Poll::Ready(Some(piece)) => {
                    self.encoder.encode(&piece, &mut out)?;
                    self.is_unflushed = true;
                }
                Poll::Ready(None) => {
                    self.encoder.finish(&mut out)?;
                    self.is_finished = true;
                }
                Poll::Pending if self.flushes_when_pending && self.is_unflushed => {
                    self.encoder.flush(&mut out)?;
                    self.is_unflushed = false;
                    if out.is_empty() {
                        return Poll::Pending;
                    }
                }
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Segment::Bytes(out.freeze()))));
            }
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Segment::Trailers(trailers))))
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        self.body.drive(cx);
    }

    fn is_end(&self) -> bool {
        self.is_finished && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
