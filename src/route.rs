//! `Router`: by host, path and path prefix.

mod children;
mod erased;
mod hosts;
mod nested;
mod params;
mod paths;
mod pattern;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use tower_service::Service;

pub use self::params::PathParams;
use self::{
    erased::{ResponseFuture, Route, erase},
    hosts::HostTable,
    paths::{Entry, Mode, PathTable},
    pattern::Pattern,
};
use crate::{
    body::{Body, HttpBody},
    error::BoxError,
    semantics::{
        problem::{self, Format},
        target,
    },
    service::HttpService,
};

/// Sends each request to a service, by its host and its path.
///
/// Any [`HttpService`] is accepted: another router, a service of this crate, an `axum::Router`. It
/// is cloned for each request, and its readiness is awaited inside the response's future, so the
/// router itself is always ready. The router accepts requests with any body, so it also fits into
/// an `axum::Router` (`fallback_service(router.infallible())`, see
/// [`RescueExt`](crate::layer::RescueExt)).
///
/// | method | pattern | matches | the service sees |
/// |---|---|---|---|
/// | [`route`](Self::route) | `/users` | `/users` only | the URI |
/// | | `/users/{id}` | `/users/7`, not `/users/` or `/users/7/x` | the URI, and `id` in [`PathParams`] |
/// | | `/files/{*path}` | `/files/a`, `/files/a/b`, not `/files/` | the URI, and `path` in [`PathParams`] |
/// | [`nest`](Self::nest) | `/app` | `/app`, `/app/`, `/app/x/y`, not `/apple` | the URI without `/app`, and [`OriginalUri`](crate::OriginalUri) |
/// | [`prefix`](Self::prefix) | `/app` | the same | the URI |
/// | [`host`](Self::host) | `example.com` | this host, all paths | the URI |
/// | | `*.example.com` | hosts below it, at any depth | the URI |
/// | [`fallback`](Self::fallback) | | all that nothing else matches | the URI |
///
/// # Precedence
///
/// The order of registration is irrelevant. The host decides first: an exact name, then the longest
/// wildcard. A host's service gets all of the host's requests; the other entries are for all other
/// hosts. Paths are compared segment by segment. At the first difference a literal segment precedes
/// a `{param}`, a `{param}` precedes a `{*rest}`, and a `{*rest}` precedes a prefix that ends there.
/// So the longest prefix wins, and a route wins over a prefix of the same path. If nothing matches
/// below a segment, the next candidate is tried: with the prefix `/a` and the route `/a/b/c`,
/// `/a/b/d` goes to the prefix. Without a match and without a fallback, the response is 404.
///
/// # The path is compared in its normal form
///
/// The path is decoded [once](target::normalize) before it is compared, and `%2F` never separates
/// segments. A path with `..`, a broken escape or a control character is refused with 400, so a
/// service behind `/public` never sees `/public/..%2fadmin`. Upper and lower case differ. Patterns
/// may have escapes: `/caf%C3%A9` and `/café` are the same pattern, and a percent sign is written
/// `%25`. The service sees the path as the client sent it.
///
/// # Differences from axum
///
/// - A service decides on methods itself; the router never answers 405. To route by method put an
///   `axum::Router` at the entry.
/// - Patterns overlap freely: `/{page}`, `/{*path}` and `prefix("/", ..)` may stand together.
///   Only two patterns that match the same paths are a conflict.
/// - A parameter is a whole segment: there is no `/v{version}`.
/// - `nest` and `prefix` accept `/`, and ignore a slash at the end of the prefix.
/// - A nested router answers 404 itself; it does not inherit the outer fallback.
///
/// # Performance
///
/// The time of a lookup does not depend on the number of entries: it hashes each segment of the
/// path, and each label of the host, at most once. Adding an entry to a router that shares its
/// table with a clone copies the table first.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use tower::ServiceExt;
/// use vestibule::{Body, Router};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), vestibule::BoxError> {
/// let path = tower::service_fn(|request: Request<Body>| async move {
///     Ok::<_, Infallible>(Response::new(Body::from(request.uri().path().to_owned())))
/// });
/// let router = Router::new()
///     .route("/users/{id}", path)
///     .prefix("/api", path)
///     .nest("/v1", path)
///     .host("*.example.com", Router::new().fallback(path));
///
/// let ask = |uri: &str| router.clone().oneshot(Request::get(uri).body(Body::empty()).unwrap());
/// assert_eq!(ask("/users/7").await?.body().as_bytes().unwrap(), "/users/7");
/// assert_eq!(ask("/api/time").await?.body().as_bytes().unwrap(), "/api/time");
/// assert_eq!(ask("/v1/time").await?.body().as_bytes().unwrap(), "/time");
/// assert_eq!(ask("http://a.example.com/x").await?.body().as_bytes().unwrap(), "/x");
/// assert_eq!(ask("/apix").await?.status(), 404);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
#[must_use = "a router does nothing unless it is served or called"]
pub struct Router(Arc<Table>);

#[derive(Clone, Default)]
struct Table {
    hosts: HostTable,
    paths: PathTable,
    fallback: Option<Arc<dyn Route>>,
}

impl Router {
    /// Returns a router that answers 404 to every request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends requests whose whole path matches `path` to `service`.
    ///
    /// `{name}` matches one segment that is not empty, `{*name}` at the end all that is left, at
    /// least one byte; both are in the request's [`PathParams`]. Literal braces are written `{{`
    /// and `}}`. `/a` and `/a/` are different paths.
    ///
    /// # Panics
    /// If the pattern is invalid, or matches the same paths as one that is registered.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use vestibule::{Body, BoxError, Router};
    /// # let service = tower::service_fn(async |_: Request<Body>| {
    /// #     Ok::<_, BoxError>(Response::new(Body::empty()))
    /// # });
    /// let router = Router::new().route("/users/{id}", service).route("/users/me", service);
    /// ```
    #[track_caller]
    pub fn route<S>(self, path: &str, service: S) -> Self
    where
        S: HttpService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        match Pattern::parse(path) {
            Ok(parsed) => self.insert(path, &parsed, Mode::Exact, erase(service)),
            Err(reason) => panic!("invalid path pattern `{path}`: {reason}"),
        }
    }

    /// Sends requests for `prefix` and for paths below it to `service`, which sees the path below
    /// `prefix` only.
    ///
    /// Nested at `/static`, the service sees `/static/a.css?x` as `/a.css?x`, and both `/static`
    /// and `/static/` as `/`. The URI that the client sent is in the request's extensions as
    /// [`OriginalUri`](crate::OriginalUri). The prefix may have `{name}` segments. A slash at its
    /// end is ignored; nested at `/`, a service sees the URI unchanged.
    ///
    /// # Panics
    /// If the prefix is invalid, or a prefix that matches the same paths is registered.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use vestibule::{Body, BoxError, Router};
    /// # let service = tower::service_fn(async |_: Request<Body>| {
    /// #     Ok::<_, BoxError>(Response::new(Body::empty()))
    /// # });
    /// let articles = Router::new().route("/{article}", service);
    /// let router = Router::new().nest("/{language}/articles", articles);
    /// ```
    #[track_caller]
    pub fn nest<S>(self, prefix: &str, service: S) -> Self
    where
        S: HttpService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        match Pattern::parse_prefix(prefix) {
            Ok(parsed) => {
                let mode = Mode::Nest { segments: parsed.segments().len() };
                self.insert(prefix, &parsed, mode, erase(service))
            }
            Err(reason) => panic!("invalid path prefix `{prefix}`: {reason}"),
        }
    }

    /// Sends the same requests as [`nest`](Self::nest) to `service`, with their URI unchanged.
    ///
    /// It is for applications that know their place, and for servers behind a proxy.
    ///
    /// # Panics
    /// If the prefix is invalid, or a prefix that matches the same paths is registered.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use vestibule::{Body, BoxError, Router};
    /// # let api = tower::service_fn(async |_: Request<Body>| {
    /// #     Ok::<_, BoxError>(Response::new(Body::empty()))
    /// # });
    /// let router = Router::new().prefix("/api", api); // sees `/api/time` as `/api/time`
    /// ```
    #[track_caller]
    pub fn prefix<S>(self, prefix: &str, service: S) -> Self
    where
        S: HttpService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        match Pattern::parse_prefix(prefix) {
            Ok(parsed) => self.insert(prefix, &parsed, Mode::Prefix, erase(service)),
            Err(reason) => panic!("invalid path prefix `{prefix}`: {reason}"),
        }
    }

    /// Sends all requests for `host` to `service`, often another router.
    ///
    /// Upper and lower case are the same, and ports are ignored. `*.example.com` matches all names
    /// below `example.com`, at any depth, and not `example.com` itself. The request's host is the
    /// one in its URI if there is one, else its `Host` field (RFC 9112 section 3.2.2).
    ///
    /// # Panics
    /// If the pattern is no host name (with a port, say, or with a star elsewhere), or is
    /// registered already.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use vestibule::{Body, BoxError, Router};
    /// # let service = tower::service_fn(async |_: Request<Body>| {
    /// #     Ok::<_, BoxError>(Response::new(Body::empty()))
    /// # });
    /// let router = Router::new()
    ///     .host("example.com", Router::new().prefix("/api", service))
    ///     .host("*.example.com", service)
    ///     .fallback(service); // all other hosts
    /// ```
    #[track_caller]
    pub fn host<S>(mut self, host: &str, service: S) -> Self
    where
        S: HttpService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        if let Err(reason) = Arc::make_mut(&mut self.0).hosts.insert(host, erase(service)) {
            panic!("invalid host pattern `{host}`: {reason}");
        }
        self
    }

    /// Sends all requests that nothing else matches to `service`, instead of answering 404. A
    /// second fallback replaces the first.
    ///
    /// Requests without a path (`OPTIONS *`, `CONNECT`) are among them.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use vestibule::{Body, BoxError, Router};
    /// # let service = tower::service_fn(async |_: Request<Body>| {
    /// #     Ok::<_, BoxError>(Response::new(Body::empty()))
    /// # });
    /// let router = Router::new().nest("/static", service).fallback(service);
    /// ```
    pub fn fallback<S>(mut self, service: S) -> Self
    where
        S: HttpService + Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        Arc::make_mut(&mut self.0).fallback = Some(erase(service));
        self
    }

    #[track_caller]
    fn insert(
        mut self,
        pattern: &str,
        parsed: &Pattern,
        mode: Mode,
        service: Arc<dyn Route>,
    ) -> Self {
        let paths = &mut Arc::make_mut(&mut self.0).paths;
        if let Err(known) = paths.insert(pattern, parsed, mode, service) {
            panic!(
                "path pattern `{pattern}` conflicts with `{known}`, which is registered already"
            );
        }
        self
    }

    fn dispatch(&self, mut request: Request<Body>) -> ResponseFuture {
        if let Some(service) = self.0.hosts.find(&request) {
            return service.call(request);
        }
        match self.0.find(request.uri().path()) {
            Ok(Some((entry, params))) => {
                if !params.is_empty() {
                    let known = request.extensions_mut().get_or_insert_default::<PathParams>();
                    known.append(params);
                }
                nested::strip(&mut request, entry.nested_segments());
                entry.service.call(request)
            }
            Ok(None) => match &self.0.fallback {
                Some(service) => service.call(request),
                None => refuse(&request, StatusCode::NOT_FOUND),
            },
            Err(_bad_target) => refuse(&request, StatusCode::BAD_REQUEST),
        }
    }
}

impl Table {
    fn find(&self, path: &str) -> Result<Option<(&Entry, PathParams)>, target::BadTarget> {
        if !path.starts_with('/') {
            return Ok(None); // asterisk-form or authority-form (RFC 9112 section 3.2)
        }
        // The only place where a path is read for routing: the table never sees the raw form.
        let normal = target::normalize(path)?;
        Ok(self.paths.find(&normal).map(|entry| (entry, entry.capture(&normal))))
    }
}

fn refuse(request: &Request<Body>, status: StatusCode) -> ResponseFuture {
    ResponseFuture::ready(problem::response(
        status,
        None,
        Format::of(request.method(), request.headers()),
    ))
}

impl<B: HttpBody> Service<Request<B>> for Router {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.dispatch(request.map(Body::new))
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("hosts", &self.0.hosts)
            .field("paths", &self.0.paths)
            .field("fallback", &self.0.fallback.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests;
