//! `PurgeService`: invalidation over HTTP, for deployments, content management systems and other fronts of the site.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tower_service::Service;

use super::{handle::CacheHandle, store::Purge};
use crate::{
    Body,
    body::HttpBody,
    error::BoxError,
    semantics::{
        constant_time::is_equal,
        problem::{self, Format},
    },
};

/// The minimum length of a token, 16 bytes.
pub const MIN_TOKEN: usize = 16;

/// A service that invalidates stored responses. Created by [`CacheHandle::purge_service`]. Mount it at a path of its own, and
/// expose it only over TLS or on a private network.
///
/// Each request is a POST with `Authorization: Bearer TOKEN` and without content. The query has exactly one of
///
/// | query | invalidates |
/// |---|---|
/// | `?url=https://example.com/news` | all variants of a URL |
/// | `?prefix=https://example.com/news/` | all URLs with this prefix |
/// | `?group=front-page` | all responses of a [group](CacheHandle::invalidate) |
/// | `?all` | everything |
///
/// Values may be percent-encoded; `&`, `+` and `%` must be. With `&soft`, responses become [stale](Purge::Soft) instead of
/// being removed. With `&wait`, the response is sent after memory was freed and files were removed. The status is 204; 401
/// without the token, which is compared in constant time; 405 for another method; 400 for any other query.
///
/// ```
/// use tower::{Service, ServiceExt};
/// use vestibule::{Body, BoxError, Request, cache::CacheLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let layer = CacheLayer::new();
/// let purge = layer.handle().purge_service("a token of the site");
/// let request = http::Request::post("/purge?group=front-page&soft");
/// let request = request.header("authorization", "Bearer a token of the site");
/// assert_eq!(purge.clone().oneshot(request.body(Body::empty())?).await?.status(), 204);
/// let request = http::Request::post("/purge?all").body(Body::empty())?;
/// assert_eq!(purge.oneshot(request).await?.status(), 401);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PurgeService {
    cache: CacheHandle,
    token: Arc<[u8]>,
}

impl PurgeService {
    pub(super) fn new(cache: CacheHandle, token: &str) -> Self {
        assert!(token.len() >= MIN_TOKEN, "the token is shorter than {MIN_TOKEN} bytes");
        Self { cache, token: token.as_bytes().into() }
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return false };
        let Some((scheme, token)) = field.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && is_equal(token, &self.token)
    }

    /// Executes a request. Returns whether the response waits for the sweep.
    fn purge(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<bool, StatusCode> {
        if !self.is_authorized(headers) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        if method != Method::POST {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let (mut target, mut purge, mut waits) = (None, Purge::Hard, false);
        for parameter in uri.query().unwrap_or_default().split('&') {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = decode(value).ok_or(StatusCode::BAD_REQUEST)?;
            match (name, value.is_empty()) {
                ("soft", true) => purge = Purge::Soft,
                ("wait", true) => waits = true,
                // More than one target is ambiguous.
                ("url" | "prefix" | "group", false) | ("all", true) if target.is_none() => {
                    target = Some((name, value));
                }
                _ => return Err(StatusCode::BAD_REQUEST),
            }
        }
        match target.ok_or(StatusCode::BAD_REQUEST)? {
            ("url", url) => {
                let key = self.cache.key_of_url(&url).ok_or(StatusCode::BAD_REQUEST)?;
                self.cache.delete(&key, purge);
            }
            ("prefix", prefix) => self.cache.delete_prefix(&prefix, purge),
            ("group", group) => self.cache.invalidate(&group, purge),
            _ => self.cache.delete_all(purge),
        }
        Ok(waits)
    }
}

/// Decodes a percent-encoded value; `None` if it is malformed or not UTF-8.
fn decode(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => return None, // ambiguous: a space in forms, a plus elsewhere
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

impl<B: HttpBody> Service<Request<B>> for PurgeService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let result = self.purge(request.method(), request.uri(), request.headers());
        let (cache, format) = (self.cache.clone(), Format::of(request.headers()));
        Box::pin(async move {
            let mut response = match result {
                Ok(waits) => {
                    if waits {
                        cache.swept().await;
                    }
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::NO_CONTENT;
                    response
                }
                Err(status) => problem::response(status, None, format),
            };
            let (name, value) = match response.status() {
                StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Bearer"),
                StatusCode::METHOD_NOT_ALLOWED => (header::ALLOW, "POST"),
                _ => (header::CACHE_CONTROL, "no-store"),
            };
            response.headers_mut().insert(name, HeaderValue::from_static(value));
            Ok(response)
        })
    }
}

impl fmt::Debug for PurgeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PurgeService").field("cache", &self.cache).finish_non_exhaustive()
    }
}
