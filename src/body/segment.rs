//! A body in segments, some of them in files, which a server sends without reading them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::{Body, FileSlice, Kind, Pipe};
use crate::{budget::Budget, error::BoxError};

/// A part of a body, as a server sends it.
pub(crate) enum Segment {
    Bytes(Bytes),
    File(FileSlice),
    /// Only of a body that accepts pipes, [of its own](Body::accept_pipes) or [of its
    /// sender](Body::accept_sent_pipes).
    Pipe(Pipe),
    Trailers(HeaderMap),
}

impl Segment {
    /// Returns the number of data bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.len(),
            Self::Pipe(pipe) => pipe.len() as u64,
            Self::Trailers(_) => 0,
        }
    }
}

/// A source of segments. As an `http_body::Body`, for other code than this crate's server, its segments in
/// files and pipes are read step by step.
pub(crate) trait Segments: Send {
    /// As [`http_body::Body::poll_frame`].
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment;
    /// As [`Body::drive`]. Does nothing by default.
    fn drive(&mut self, _cx: &mut Context<'_>) {}
    /// As [`Body::accept_pipes`]. Does nothing by default: then no segment is a pipe.
    fn accept_pipes(&mut self, _budget: &Budget) {}
    /// As [`Body::accept_sent_pipes`].
    fn accept_sent_pipes(&self) {}
    /// As [`http_body::Body::is_end_stream`].
    fn is_end(&self) -> bool;
    /// As [`http_body::Body::size_hint`].
    fn size_hint(&self) -> SizeHint;
}

pub(crate) type PollSegment = Poll<Option<Result<Segment, BoxError>>>;

/// A body in segments, and the rest of a segment that is being read.
pub(crate) struct SegmentedBody {
    inner: Box<dyn Segments>,
    /// Boxed because it is rare, and every layer moves the body.
    rest: Option<Box<Rest>>,
}

/// The rest of a segment that is being read.
enum Rest {
    File(FileSlice),
    Pipe(Pipe),
}

impl Rest {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self {
            Self::File(file) => file.poll_next(cx).map(Option::transpose),
            Self::Pipe(pipe) => Poll::Ready(pipe.read_next()),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Pipe(pipe) => pipe.len() as u64,
        }
    }
}

impl SegmentedBody {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        match self.rest.take().filter(|rest| rest.len() > 0).map(|rest| *rest) {
            Some(Rest::File(file)) => Poll::Ready(Some(Ok(Segment::File(file)))),
            Some(Rest::Pipe(pipe)) => Poll::Ready(Some(Ok(Segment::Pipe(pipe)))),
            None => self.inner.poll_segment(cx),
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(rest) = &mut self.rest {
                match ready!(rest.poll_next(cx)?) {
                    Some(read) => return Poll::Ready(Some(Ok(Frame::data(read)))),
                    None => self.rest = None,
                }
            }
            let rest = match ready!(self.inner.poll_segment(cx)?) {
                None => return Poll::Ready(None),
                Some(Segment::Bytes(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Segment::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(Segment::File(file)) => Rest::File(file),
                Some(Segment::Pipe(pipe)) => Rest::Pipe(pipe),
            };
            self.rest = Some(Box::new(rest));
        }
    }

    fn pending_len(&self) -> u64 {
        self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    pub(super) fn is_end(&self) -> bool {
        self.pending_len() == 0 && self.inner.is_end()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let more = self.pending_len();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + more);
        }
        hint.set_lower(hint.lower() + more);
        hint
    }
}

impl Body {
    /// Creates a body in segments.
    pub(crate) fn segmented(inner: impl Segments + 'static) -> Self {
        Self(Kind::Segmented(SegmentedBody { inner: Box::new(inner), rest: None }))
    }

    /// Makes the progress that needs no reader, while the reader waits for its peer: the response of a proxied request sends
    /// the rest of the request. A client may send all of it before it reads the response. The task is woken for more.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        if let Kind::Segmented(s) = &mut self.0 {
            s.inner.drive(cx);
        }
    }

    /// Lets the body return segments in pipes, which count in `budget`, since its reader can move them to a socket.
    pub(crate) fn accept_pipes(&mut self, budget: &Budget) {
        if let Kind::Segmented(s) = &mut self.0 {
            s.inner.accept_pipes(budget);
        }
    }

    /// Lets a channel return segments in pipes, which its sender counts in a budget; also one with a guard. Other bodies
    /// return none.
    pub(crate) fn accept_sent_pipes(&self) {
        match &self.0 {
            Kind::Channel(channel) => channel.accept_pipes(),
            Kind::Segmented(s) => s.inner.accept_sent_pipes(),
            Kind::Empty | Kind::Bytes(_) | Kind::File(_) | Kind::Boxed(_) => {}
        }
    }

    /// Polls the next segment of any body.
    pub(crate) fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        match &mut self.0 {
            Kind::Segmented(s) => s.poll_segment(cx),
            Kind::File(_) => match std::mem::take(&mut self.0) {
                Kind::File(file) if !file.is_empty() => Poll::Ready(Some(Ok(Segment::File(*file)))),
                _ => Poll::Ready(None),
            },
            Kind::Channel(c) => c.poll_segment(cx),
            Kind::Empty | Kind::Bytes(_) | Kind::Boxed(_) => {
                let frame = ready!(http_body::Body::poll_frame(Pin::new(self), cx)?);
                Poll::Ready(frame.and_then(|frame| match frame.into_data() {
                    Ok(data) => Some(Ok(Segment::Bytes(data))),
                    Err(frame) => Some(Ok(Segment::Trailers(frame.into_trailers().ok()?))),
                }))
            }
        }
    }
}
