//! `RequestDecompression`: decodes request bodies, with limits.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, HeaderName},
};
use http_body::{Frame, SizeHint};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{called_or_answered::CalledOrAnswered, compression::Decoder};
use crate::{
    Body, BoxError, HttpService, Request,
    body::HttpBody,
    error::{Error, Kind},
    semantics::{
        negotiate::Coding,
        problem::{self, Format},
    },
};

/// Default maximum size of a decoded body: 8 MiB.
pub const MAX_DECODED: u64 = 8 << 20;

/// Default maximum ratio of decoded to encoded bytes: 100. JSON and forms stay below 30; a decompression bomb has
/// 1,000.
pub const MAX_RATIO: u64 = 100;

/// Decoded bytes up to which the ratio is not checked: 64 KiB, since a few repeated bytes can have any ratio.
const RATIO_FROM: u64 = 64 << 10;

/// Bytes that are decoded at a time: 64 KiB.
const STEP: usize = 64 << 10;

/// A decoded body exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Bomb {
    /// It is larger than the maximum.
    #[error("the decoded body is larger than {0} bytes")]
    TooLarge(u64),
    /// The ratio of decoded to encoded bytes exceeds the maximum.
    #[error("the decoded body is more than {0} times larger than the encoded one")]
    Ratio(u64),
}

/// Wraps a service in [`RequestDecompression`].
#[derive(Debug, Clone, Copy)]
pub struct RequestDecompressionLayer {
    bounds: Bounds,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    max_decoded: u64,
    max_ratio: u64,
}

impl RequestDecompressionLayer {
    /// Creates a layer with [`MAX_DECODED`] and [`MAX_RATIO`].
    pub fn new() -> Self {
        Self { bounds: Bounds { max_decoded: MAX_DECODED, max_ratio: MAX_RATIO } }
    }

    /// Sets the maximum size of a decoded body in bytes. Defaults to [`MAX_DECODED`].
    #[must_use]
    pub fn max_decoded(mut self, bytes: u64) -> Self {
        self.bounds.max_decoded = bytes;
        self
    }

    /// Sets the maximum ratio of decoded to encoded bytes. Defaults to [`MAX_RATIO`].
    #[must_use]
    pub fn max_ratio(mut self, ratio: u64) -> Self {
        self.bounds.max_ratio = ratio;
        self
    }
}

impl Default for RequestDecompressionLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RequestDecompressionLayer {
    type Service = RequestDecompression<S>;

    fn layer(&self, inner: S) -> RequestDecompression<S> {
        RequestDecompression { inner, bounds: self.bounds }
    }
}

/// Decodes request bodies in gzip, brotli or zstd, also of several members or frames, and removes `Content-Encoding` and
/// `Content-Length`.
///
/// A request in another coding, or in several, is answered with 415 and the accepted codings (RFC 9110 section
/// 15.5.16). A body beyond a limit fails with [`Kind::TooLarge`] (413), a malformed one with [`Kind::BadRequest`]. A
/// body is decoded as it is read, at most 72 KiB at a time.
///
/// Put it outside of the [request buffer](super::RequestBuffer), so that the limits of the buffer apply to the
/// decoded bytes.
///
/// Readiness passes through.
#[derive(Debug, Clone)]
pub struct RequestDecompression<S> {
    inner: S,
    bounds: Bounds,
}

impl<S, B> Service<Request<B>> for RequestDecompression<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        let mut lines = request.headers().get_all(CONTENT_ENCODING).iter();
        let coding = match (lines.next(), lines.next()) {
            (None, _) => Some(Coding::Identity),
            (Some(value), None) => coding(value),
            (Some(_), Some(_)) => None,
        };
        let Some(coding) = coding else {
            self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
            return ResponseFuture(CalledOrAnswered::answered(refusal(&request)));
        };
        if let Some(decoder) = Decoder::new(coding) {
            for name in &OF_THE_CODED_CONTENT {
                request.headers_mut().remove(name);
            }
            let bounds = self.bounds;
            request = request.map(|body| Body::new(Decoded::new(body, decoder, bounds)));
        }
        ResponseFuture(CalledOrAnswered::Called(self.inner.call(request)))
    }
}

/// The fields of the coded content, which do not apply to what was decoded (RFC 9530 section 2).
const OF_THE_CODED_CONTENT: [HeaderName; 5] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
];

/// Returns the coding that a field names; `None` if it is unknown or there are several.
fn coding(value: &HeaderValue) -> Option<Coding> {
    let name = value.as_bytes().trim_ascii();
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("identity") || name.is_empty() {
        Some(Coding::Identity)
    } else if is("gzip") || is("x-gzip") {
        Some(Coding::Gzip)
    } else if is("br") {
        Some(Coding::Brotli)
    } else if is("zstd") {
        Some(Coding::Zstd)
    } else {
        None
    }
}

fn refusal(request: &Request) -> Response<Body> {
    let format = Format::of(request.method(), request.headers());
    let mut response = problem::response(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, format);
    let accepted = HeaderValue::from_static("gzip, br, zstd");
    response.headers_mut().insert(ACCEPT_ENCODING, accepted);
    response
}

/// A body that is decoded as it is read.
struct Decoded {
    body: Body,
    decoder: Decoder,
    bounds: Bounds,
    /// Received bytes that are not yet decoded.
    input: Bytes,
    received: u64,
    decoded: u64,
    has_ended: bool,
}

impl Decoded {
    fn new(body: Body, decoder: Decoder, bounds: Bounds) -> Self {
        let (received, decoded) = (0, 0);
        Self { body, decoder, bounds, input: Bytes::new(), received, decoded, has_ended: false }
    }

    /// Decodes received bytes, up to [`STEP`] bytes of output.
    fn decode(&mut self) -> Result<Bytes, BoxError> {
        let mut out = BytesMut::new();
        let malformed = |error| Error::new(Kind::BadRequest, error);
        let used = self.decoder.decode(&self.input, &mut out, STEP).map_err(malformed)?;
        self.input = self.input.split_off(used);
        self.decoded += out.len() as u64;
        let Bounds { max_decoded, max_ratio } = self.bounds;
        let bomb = if self.decoded > max_decoded {
            Some(Bomb::TooLarge(max_decoded))
        } else if self.decoded > RATIO_FROM.max(self.received.saturating_mul(max_ratio)) {
            Some(Bomb::Ratio(max_ratio))
        } else {
            None
        };
        match bomb {
            Some(bomb) => Err(Error::new(Kind::TooLarge, bomb).into()),
            None => Ok(out.freeze()),
        }
    }
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if this.has_ended {
                return Poll::Ready(None);
            }
            let out = match this.decode() {
                Ok(out) => out,
                Err(error) => {
                    this.has_ended = true;
                    this.body = Body::empty(); // the rest is not read
                    return Poll::Ready(Some(Err(error)));
                }
            };
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)?) else {
                this.has_ended = true;
                if this.decoder.is_done() || this.received == 0 {
                    return Poll::Ready(None);
                }
                let cause = "the encoded body ends too early";
                return Poll::Ready(Some(Err(Error::new(Kind::BadRequest, cause).into())));
            };
            match frame.into_data() {
                Ok(data) => {
                    this.received += data.len() as u64;
                    this.input = if this.input.is_empty() {
                        data
                    } else {
                        [&this.input[..], &data[..]].concat().into()
                    };
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The future of [`RequestDecompression`].
#[pin_project]
pub struct ResponseFuture<F>(#[pin] CalledOrAnswered<F>);

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
