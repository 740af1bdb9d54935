//! `Compression`: responses in the coding that the client prefers.

mod body;
mod codec;
mod fields;
mod padding;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_TYPE, IF_NONE_MATCH, RANGE},
};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

pub(in crate::layer) use self::codec::Decoder;
use self::{
    codec::Encoder,
    fields::{add_vary, announced_len, can_be_encoded, mark_as_encoded, mark_not_modified},
};
use crate::{
    Body, HttpService, Request,
    body::HttpBody,
    semantics::negotiate::{Accepts, Coding},
};

/// Default minimum size: 1,024 bytes. A smaller response fits into one packet without compression.
pub const MIN_SIZE: u64 = 1024;

/// The trade-off between CPU time and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// gzip 1, brotli 1, zstd 1.
    Fast,
    /// gzip 5, brotli 4, zstd 3: for content that is compressed while it is sent.
    #[default]
    Default,
    /// gzip 9, brotli 9, zstd 12: for content that a cache stores.
    Best,
}

/// Selects the level by the `Content-Type`; `None` leaves the response unchanged.
type SelectLevel = dyn Fn(&str) -> Option<Level> + Send + Sync;

/// Wraps a service in [`Compression`].
#[derive(Clone)]
pub struct CompressionLayer {
    options: Arc<Options>,
}

#[derive(Clone)]
struct Options {
    codings: Vec<Coding>,
    min_size: u64,
    level: Arc<SelectLevel>,
    skip_while: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    max_padding: u16,
}

impl CompressionLayer {
    /// Creates a layer for zstd, brotli and gzip, in this order of preference among those that a client accepts
    /// equally, and for [compressible](is_compressible) types from [`MIN_SIZE`] on.
    pub fn new() -> Self {
        let level = |content_type: &str| is_compressible(content_type).then_some(Level::Default);
        Self {
            options: Arc::new(Options {
                codings: vec![Coding::Zstd, Coding::Brotli, Coding::Gzip],
                min_size: MIN_SIZE,
                level: Arc::new(level),
                skip_while: None,
                max_padding: 0,
            }),
        }
    }

    /// Sets the codings, in order of preference.
    #[must_use]
    pub fn codings(mut self, codings: impl IntoIterator<Item = Coding>) -> Self {
        let encodes = |coding: &Coding| *coding != Coding::Identity;
        self.options_mut().codings = codings.into_iter().filter(encodes).collect();
        self
    }

    /// Sets the minimum size in bytes, for responses whose size is known. Defaults to [`MIN_SIZE`].
    #[must_use]
    pub fn min_size(mut self, bytes: u64) -> Self {
        self.options_mut().min_size = bytes;
        self
    }

    /// Sets a function that selects the level by the `Content-Type` of a response; `None` leaves it unchanged.
    /// Defaults to [`Level::Default`] for [compressible](is_compressible) types.
    ///
    /// ```
    /// use vestibule::layer::{CompressionLayer, compression::{Level, is_compressible}};
    ///
    /// let layer = CompressionLayer::new().level(|content_type| match content_type {
    ///     "text/css" | "text/javascript" => Some(Level::Best), // a cache keeps them
    ///     other => is_compressible(other).then_some(Level::Fast),
    /// });
    /// # drop(layer);
    /// ```
    #[must_use]
    pub fn level(mut self, select: impl Fn(&str) -> Option<Level> + Send + Sync + 'static) -> Self {
        self.options_mut().level = Arc::new(select);
        self
    }

    /// Leaves responses unchanged while `is_busy` returns `true`, for example while the CPU is overloaded.
    ///
    /// Inside a [`CacheLayer`](crate::cache::CacheLayer), a response that is left unchanged is stored so: all clients with the
    /// same `Accept-Encoding` get it without compression until it is fetched again. A validation by a 304 does not compress it.
    #[must_use]
    pub fn skip_while(mut self, is_busy: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.options_mut().skip_while = Some(Arc::new(is_busy));
        self
    }

    /// Adds a random number of bytes, 1 to `max`, to each compressed response, so that its length reveals less about its content
    /// (BREACH). Defaults to 0, which adds none. Only gzip can be padded in a way that all browsers accept, so other codings
    /// are not used with padding.
    ///
    /// An attacker who repeats a request can average the lengths; each doubling of `max` requires four times as many requests.
    /// So padding does not replace a rate limit and a token that changes with each response. A stored response keeps its
    /// padding: do not cache such pages.
    #[must_use]
    pub fn random_padding(mut self, max: u16) -> Self {
        self.options_mut().max_padding = max;
        self
    }

    fn options_mut(&mut self) -> &mut Options {
        Arc::make_mut(&mut self.options)
    }
}

impl Default for CompressionLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CompressionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { codings, min_size, .. } = &*self.options;
        f.debug_struct("CompressionLayer")
            .field("codings", codings)
            .field("min_size", min_size)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for CompressionLayer {
    type Service = Compression<S>;

    fn layer(&self, inner: S) -> Compression<S> {
        Compression { inner, options: self.options.clone() }
    }
}

/// Returns whether compression makes content of this type smaller: text, JSON, XML, scripts, SVG, uncompressed fonts,
/// WebAssembly, and event streams.
pub fn is_compressible(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    const OTHERS: [&str; 14] = [
        "application/javascript",
        "application/json",
        "application/ld+json",
        "application/manifest+json",
        "application/wasm",
        "application/x-javascript",
        "application/x-ndjson",
        "application/xhtml+xml",
        "application/xml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/svg+xml",
        "image/x-icon",
    ];
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || OTHERS.contains(&&*essence)
}

/// Compresses responses with the coding that the client prefers (RFC 9110 section 12.5.3).
///
/// A response is left unchanged if its type is not compressible, it is small, already encoded, partial or without
/// content, if it has `no-transform`, or if the request has `Range`, since ranges refer to the original content. All
/// responses of compressible types get `Vary: Accept-Encoding`.
///
/// A strong entity tag becomes weak, since the compressed content is equivalent but not identical, also in a 304 to a client
/// that has the compressed content. Digests of the content and `Accept-Ranges` are removed. The `Vary` of a 304 gets
/// `Accept-Encoding`, since it replaces that of the response that a cache has stored.
///
/// A response that is written piece by piece is flushed whenever no more data is available, so that event streams and
/// slowly written pages are not delayed.
///
/// Content is compressed on the thread that sends it, 64 KiB at a time. Inside of a
/// [`CacheLayer`](crate::cache::CacheLayer), each response is compressed once per coding.
///
/// Do not compress responses over TLS that contain both a secret and text that another site can choose (BREACH), or at least
/// with [`random_padding`](CompressionLayer::random_padding).
///
/// Readiness passes through.
#[derive(Debug, Clone)]
pub struct Compression<S> {
    inner: S,
    options: Arc<Options>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("codings", &self.codings).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for Compression<S>
where
    S: HttpService<B>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_whole = !request.headers().contains_key(RANGE);
        let accepts = request.headers().contains_key(ACCEPT_ENCODING);
        let coding =
            (is_whole && accepts).then(|| self.options.select(request.headers())).flatten();
        let is_head = request.method() == Method::HEAD;
        let known = request.headers().get_all(IF_NONE_MATCH).iter().cloned().collect();
        let options = self.options.clone();
        ResponseFuture { inner: self.inner.call(request), coding, is_head, known, options }
    }
}

impl Options {
    /// Returns the coding that the client prefers to `identity`, if there is one.
    fn select(&self, request: &HeaderMap) -> Option<Coding> {
        let mut available = self.codings.clone();
        available.retain(|coding| self.max_padding == 0 || *coding == Coding::Gzip);
        available.push(Coding::Identity);
        Accepts::of(request).best(&available).filter(|coding| *coding != Coding::Identity)
    }

    /// Compresses a response, unless it must be left unchanged.
    fn apply(
        &self,
        response: Response<Body>,
        coding: Option<Coding>,
        is_head: bool,
    ) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        let level = if can_be_encoded(parts.status, &parts.headers) {
            let content_type = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
            content_type.and_then(|content_type| (self.level)(content_type))
        } else {
            None
        };
        let Some(level) = level else { return Response::from_parts(parts, body) };
        add_vary(&mut parts.headers);
        let len = match announced_len(&parts.headers) {
            Some(len) if is_head => Some(len),
            // A service may leave the removal of the content to the server.
            _ => body.len().filter(|len| !is_head || *len > 0),
        };
        let is_small = len.is_some_and(|len| len < self.min_size);
        let is_busy = self.skip_while.as_ref().is_some_and(|is_busy| is_busy());
        let encoder = coding.filter(|_| !is_small && !is_busy);
        let Some(coding) = encoder else { return Response::from_parts(parts, body) };
        let Some(mut encoder) = Encoder::new(coding, level) else {
            return Response::from_parts(parts, body);
        };
        if self.max_padding > 0 {
            encoder.pad(padding::random_len(self.max_padding));
        }
        mark_as_encoded(&mut parts.headers, coding);
        // The length of an encoded content is not known without it.
        let body = if is_head { Body::empty() } else { body::encoded(body, encoder) };
        Response::from_parts(parts, body)
    }
}

/// The future of [`Compression`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    coding: Option<Coding>,
    is_head: bool,
    /// The values of `If-None-Match`.
    known: Vec<HeaderValue>,
    options: Arc<Options>,
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?.map(Body::new);
        if response.status() == StatusCode::NOT_MODIFIED {
            mark_not_modified(response.headers_mut(), this.known);
        }
        Poll::Ready(Ok(this.options.apply(response, *this.coding, *this.is_head)))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("coding", &self.coding).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
