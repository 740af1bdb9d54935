//! A body in stretches, of which some lie in a file: a server sends those without reading them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::{Body, FileSlice, Kind};
use crate::error::BoxError;

/// The next of a body, as a server sends it.
pub(crate) enum Stretch {
    Bytes(Bytes),
    File(FileSlice),
    Trailers(HeaderMap),
}

#[cfg(feature = "files")]
impl Stretch {
    /// How many bytes of data it is.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.len(),
            Self::Trailers(_) => 0,
        }
    }
}

/// What comes in stretches. To everybody but our own server it is an [`http_body::Body`]: the
/// stretches in files are read then, step by step.
pub(crate) trait Stretches: Send {
    /// As [`http_body::Body::poll_frame`].
    fn poll_stretch(&mut self, cx: &mut Context<'_>) -> PollStretch;
    /// As [`http_body::Body::is_end_stream`].
    fn is_end(&self) -> bool;
    /// As [`http_body::Body::size_hint`].
    fn size_hint(&self) -> SizeHint;
}

pub(crate) type PollStretch = Poll<Option<Result<Stretch, BoxError>>>;

/// Stretches, and what of one in a file somebody has begun to read.
pub(crate) struct Stretched {
    of: Box<dyn Stretches>,
    file: Option<FileSlice>,
}

impl Stretched {
    fn poll_stretch(&mut self, cx: &mut Context<'_>) -> PollStretch {
        match self.file.take() {
            Some(file) if !file.is_empty() => Poll::Ready(Some(Ok(Stretch::File(file)))),
            _ => self.of.poll_stretch(cx),
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(file) = &mut self.file {
                match ready!(file.poll_next(cx)) {
                    Some(read) => return Poll::Ready(Some(Ok(Frame::data(read?)))),
                    None => self.file = None,
                }
            }
            return Poll::Ready(match ready!(self.of.poll_stretch(cx)?) {
                None => None,
                Some(Stretch::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Stretch::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Stretch::File(file)) => {
                    self.file = Some(file);
                    continue;
                }
            });
        }
    }

    fn in_file(&self) -> u64 {
        self.file.as_ref().map_or(0, FileSlice::len)
    }

    pub(super) fn is_end(&self) -> bool {
        self.in_file() == 0 && self.of.is_end()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let mut hint = self.of.size_hint();
        let more = self.in_file();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + more);
        }
        hint.set_lower(hint.lower() + more);
        hint
    }
}

impl Body {
    /// A body in stretches.
    pub(crate) fn stretches(of: impl Stretches + 'static) -> Self {
        Self(Kind::Stretched(Stretched { of: Box::new(of), file: None }))
    }

    /// The next stretch of any body.
    pub(crate) fn poll_stretch(&mut self, cx: &mut Context<'_>) -> PollStretch {
        match &mut self.0 {
            Kind::Stretched(s) => s.poll_stretch(cx),
            Kind::File(_) => match std::mem::take(&mut self.0) {
                Kind::File(file) if !file.is_empty() => Poll::Ready(Some(Ok(Stretch::File(file)))),
                _ => Poll::Ready(None),
            },
            Kind::Empty | Kind::Bytes(_) | Kind::Channel(_) | Kind::Boxed(_) => {
                let frame = ready!(http_body::Body::poll_frame(Pin::new(self), cx)?);
                Poll::Ready(frame.and_then(|frame| match frame.into_data() {
                    Ok(data) => Some(Ok(Stretch::Bytes(data))),
                    Err(frame) => Some(Ok(Stretch::Trailers(frame.into_trailers().ok()?))),
                }))
            }
        }
    }
}
