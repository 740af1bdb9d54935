//! `PurgeService`: invalidation over HTTP, for deployments, content management systems and other fronts of the site.

mod command;
#[cfg(feature = "redis")]
mod redis;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tower_service::Service;

use self::command::Command;
#[cfg(feature = "redis")]
pub use self::redis::{
    PURGE_CHANNEL, PURGE_PAUSE, PURGE_PING, PurgeChannel, PurgeChannelBuilder, PurgeChannelError,
    PurgeChannelStats,
};
use super::handle::CacheHandle;
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
/// | `?key=https://example.com/news` | the same, by the text of its [key](super::Key::as_str) |
/// | `?prefix=https://example.com/news/` | all URLs with this prefix, in any spelling; it must have a scheme and a host |
/// | `?group=front-page` | all responses of a [group](CacheHandle::invalidate) |
/// | `?all` | everything |
///
/// Values may be percent-encoded; `&`, `+` and `%` must be. With `&soft`, responses become [stale](super::Purge::Soft) instead of
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
    fan_out: Option<Arc<dyn FanOut>>,
}

/// Sends commands to the other fronts.
trait FanOut: Send + Sync {
    fn publish(&self, command: String) -> Published;
}

type Published = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl PurgeService {
    pub(super) fn new(cache: CacheHandle, token: &str) -> Self {
        assert!(token.len() >= MIN_TOKEN, "the token is shorter than {MIN_TOKEN} bytes");
        Self { cache, token: token.as_bytes().into(), fan_out: None }
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return false };
        let Some((scheme, token)) = field.as_bytes().split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && is_equal(token, &self.token)
    }

    /// Returns the command of a request, or the status of a refusal.
    fn command(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Command, StatusCode> {
        if !self.is_authorized(headers) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        if method != Method::POST {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        let query = uri.query().unwrap_or_default();
        let command = Command::parse(query, &self.cache);
        command.and_then(Command::with_url_prefix).ok_or(StatusCode::BAD_REQUEST)
    }
}

impl<B: HttpBody> Service<Request<B>> for PurgeService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let command = self.command(request.method(), request.uri(), request.headers());
        // At once, so that it is done if this future is dropped.
        let _ = command.as_ref().map(|command| command.apply(&self.cache));
        let fan_out = self.fan_out.clone();
        let (cache, format) = (self.cache.clone(), Format::of(request.method(), request.headers()));
        Box::pin(async move {
            let published = match (&fan_out, command) {
                (Some(fan_out), Ok(command)) => match fan_out.publish(command.encode()).await {
                    Ok(()) => Ok(command),
                    Err(error) => {
                        tracing::warn!(%error, "cannot send an invalidation to the other fronts");
                        Err(StatusCode::SERVICE_UNAVAILABLE)
                    }
                },
                (_, command) => command,
            };
            let mut response = match published {
                Ok(command) => {
                    if command.waits {
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
