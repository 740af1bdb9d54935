//! `Router`: by host and path prefix.

mod entry;
mod erased;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use tower_service::Service;

use self::{
    entry::{Host, Prefix, host_of},
    erased::{ResponseFuture, Route, erase},
};
use crate::{
    body::Body,
    error::BoxError,
    semantics::target::{self, OriginalUri},
};

/// Sends each request to a service, by its host and by the longest path prefix.
///
/// Any tower service of requests with our [`Body`] is taken, whatever its body and error types:
/// another router, a service of this crate, an `axum::Router`. It is cloned for each request and
/// waited for inside the response's future, so the router itself is always ready.
///
/// The path is brought into its normal form once, before it is compared: escapes are decoded, and
/// a path with `..` or a broken escape in it is answered with 400, so a service behind `/public`
/// is never handed `/public/..%2fadmin`. Prefixes match whole segments: `/api` is for `/api` and
/// `/api/x`, not for `/apix`. Nothing that matches, and no [`fallback`](Self::fallback): 404.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use tower::ServiceExt;
/// use vestibule::{Body, Router};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), vestibule::BoxError> {
/// let api = tower::service_fn(|request: Request<Body>| async move {
///     Ok::<_, Infallible>(Response::new(Body::from(request.uri().path().to_owned())))
/// });
/// let router = Router::new()
///     .route("/api", api)
///     .mount("/v1", api)
///     .host("*.example.com", Router::new().fallback(api));
///
/// let ask = |uri: &str| router.clone().oneshot(Request::get(uri).body(Body::empty()).unwrap());
/// assert_eq!(ask("/api/time").await?.body().as_bytes().unwrap(), "/api/time");
/// assert_eq!(ask("/v1/time").await?.body().as_bytes().unwrap(), "/time");
/// assert_eq!(ask("http://a.example.com/x").await?.body().as_bytes().unwrap(), "/x");
/// assert_eq!(ask("/apix").await?.status(), 404);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct Router(Arc<Table>);

#[derive(Clone, Default)]
struct Table {
    /// Exact names first, then wildcards, the longest first.
    hosts: Vec<(Host, Arc<dyn Route>)>,
    /// The longest first.
    paths: Vec<Entry>,
    fallback: Option<Arc<dyn Route>>,
}

#[derive(Clone)]
struct Entry {
    prefix: Prefix,
    mode: Mode,
    service: Arc<dyn Route>,
}

/// What the service is shown of a path.
#[derive(Clone, Copy)]
enum Mode {
    Whole,
    BelowPrefix,
}

impl Router {
    /// A router that answers 404 to everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends everything for `host` to `service`, often another router. The router's own routes
    /// are for all other hosts.
    ///
    /// Upper and lower case are the same, ports are ignored. `*.example.com` is for all names
    /// below `example.com`, at any depth, and not for `example.com`; an exact name wins over a
    /// wildcard, a longer wildcard over a shorter one. A name given again replaces the first.
    /// The request's host is the one in its URI if there is one, else its `Host` field (RFC 9112
    /// section 3.2.2).
    #[must_use]
    pub fn host<S, B>(mut self, host: &str, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let host = Host::new(host);
        let hosts = &mut Arc::make_mut(&mut self.0).hosts;
        hosts.retain(|(h, _)| *h != host);
        let at = hosts.partition_point(|(h, _)| h.rank() > host.rank());
        hosts.insert(at, (host, erase(service)));
        self
    }

    /// Sends requests for `prefix` and for paths below it to `service`, their URI as it is.
    ///
    /// The prefix is written plainly, without escapes; a slash at its end means nothing, `/` is a
    /// prefix of everything. A prefix given again replaces the first.
    #[must_use]
    pub fn route<S, B>(self, prefix: &str, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.add(prefix, Mode::Whole, erase(service))
    }

    /// As [`route`](Self::route), with the prefix taken off the URI: mounted at `/static`, the
    /// service sees `/static/a.css?x` as `/a.css?x`, and `/static` as `/`. The URI as it came is
    /// in the request's extensions as [`OriginalUri`].
    #[must_use]
    pub fn mount<S, B>(self, prefix: &str, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.add(prefix, Mode::BelowPrefix, erase(service))
    }

    /// Sends to `service` what no prefix matches, instead of answering 404. Requests without a
    /// path (`OPTIONS *`) come here too.
    #[must_use]
    pub fn fallback<S, B>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Arc::make_mut(&mut self.0).fallback = Some(erase(service));
        self
    }

    fn add(mut self, prefix: &str, mode: Mode, service: Arc<dyn Route>) -> Self {
        let prefix = Prefix::new(prefix);
        let paths = &mut Arc::make_mut(&mut self.0).paths;
        paths.retain(|entry| entry.prefix != prefix);
        let at = paths.partition_point(|entry| entry.prefix.len() > prefix.len());
        paths.insert(at, Entry { prefix, mode, service });
        self
    }

    fn dispatch(&self, mut request: Request<Body>) -> ResponseFuture {
        if let Some(service) = self.0.by_host(&request) {
            return service.call(request);
        }
        match self.0.by_path(request.uri().path()) {
            Ok(Some(entry)) => {
                if let Mode::BelowPrefix = entry.mode {
                    take_off(&entry.prefix, &mut request);
                }
                entry.service.call(request)
            }
            Ok(None) => match &self.0.fallback {
                Some(service) => service.call(request),
                None => answer(StatusCode::NOT_FOUND, "Not Found\n"),
            },
            Err(_bad_target) => answer(StatusCode::BAD_REQUEST, "Bad Request\n"),
        }
    }
}

impl Table {
    fn by_host(&self, request: &Request<Body>) -> Option<&dyn Route> {
        if self.hosts.is_empty() {
            return None;
        }
        let asked = host_of(request)?;
        self.hosts.iter().find(|(host, _)| host.matches(asked)).map(|(_, service)| &**service)
    }

    fn by_path(&self, path: &str) -> Result<Option<&Entry>, target::BadTarget> {
        if !path.starts_with('/') {
            return Ok(None); // asterisk-form or authority-form (RFC 9112 section 3.2)
        }
        // The one place where a path is read for routing: no matcher sees the raw form.
        let normal = target::normalize(path)?;
        Ok(self.paths.iter().find(|entry| entry.prefix.covers(&normal)))
    }
}

/// Shortens the request's URI by `prefix` and keeps the original.
fn take_off(prefix: &Prefix, request: &mut Request<Body>) {
    let below = prefix.below(request.uri());
    let original = std::mem::replace(request.uri_mut(), below);
    // The outermost mount saw what the client sent.
    let extensions = request.extensions_mut();
    if extensions.get::<OriginalUri>().is_none() {
        extensions.insert(OriginalUri(original));
    }
}

fn answer(status: StatusCode, text: &'static str) -> ResponseFuture {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    ResponseFuture::ready(response)
}

impl Service<Request<Body>> for Router {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        self.dispatch(request)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.0.hosts.iter().map(|(host, _)| host).collect();
        let paths: Vec<_> = self.0.paths.iter().map(|entry| &entry.prefix).collect();
        f.debug_struct("Router")
            .field("hosts", &hosts)
            .field("paths", &paths)
            .field("fallback", &self.0.fallback.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests;
