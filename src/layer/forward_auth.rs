//! `ForwardAuth`: authorizes requests by another service, as nginx's `auth_request`.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService, Request,
    body::{Body, HttpBody},
    error::BoxError,
    peer::{Deadline, Peer},
    semantics::{
        forwarded::{AuthorizedRequest, X_FORWARDED_METHOD, X_FORWARDED_URI},
        hop, lookalike,
        target::OriginalUri,
    },
    service::Readiness,
};

/// The fields that are not copied to the subrequest, since they describe the content or apply to the original resource.
const NOT_SENT: [HeaderName; 12] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::EXPECT,
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::ACCEPT_ENCODING,
    header::MAX_FORWARDS,
];

const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Authorizes each request by a subrequest to an authorization service, as nginx's `auth_request`, Caddy's `forward_auth` and
/// Traefik's `ForwardAuth` do. The authorization service is any service: an [`Upstream`](crate::upstream), a worker pool, a
/// function.
///
/// The subrequest is a GET for [the given path](Self::new), with the fields of the request, without its content, and with
/// `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`. An upstream or a worker pool keeps them, whatever it
/// [trusts](crate::semantics::forwarded::Trust) in other requests. `X-Forwarded-Uri` is the target as the client sent it: an
/// authorization service that decides by the path must decode it, as `/%61dmin` is `/admin`. Fields that the client names in
/// `Connection` are removed from both requests, since an upstream server would not receive them.
/// - A 2xx allows the request. The fields set by [`copy`](Self::copy) are copied from this response to the request; a client
///   cannot set them itself.
/// - Any other response is sent to the client, for example a redirect to a login page, or a 401.
/// - An error of the authorization service is returned as the error of the request.
///
/// A cache inside of this layer stores the responses for all clients that are allowed: a response for one of them needs
/// `Cache-Control: private`, or `Vary` with a copied field.
///
/// The request's [`Deadline`] applies to the subrequest too, and to both waits for readiness. That of the inner service is
/// awaited after the subrequest, so that no permit is held during it. The layer belongs outside buffers, since it does not need
/// the content.
///
/// ```
/// use http::HeaderName;
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::ForwardAuthLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let authorizer = service_fn(async |subrequest: Request| {
///     assert_eq!(subrequest.headers()["x-forwarded-uri"], "/account?tab=1");
///     let is_known = subrequest.headers().get("cookie").is_some_and(|c| c == "session=1");
///     let response = Response::builder().status(if is_known { 204 } else { 401 });
///     Ok::<_, BoxError>(response.header("x-user", "alice").body(Body::empty())?)
/// });
/// let auth = ForwardAuthLayer::new(authorizer, "/check").copy(HeaderName::from_static("x-user"));
/// let site = auth.layer(service_fn(async |request: Request| {
///     Ok::<_, BoxError>(Response::new(Body::from(request.headers()["x-user"].to_str()?.to_owned())))
/// }));
/// let get = |cookie| {
///     let request = http::Request::get("/account?tab=1").header("cookie", cookie);
///     request.header("x-user", "mallory").body(Body::empty())
/// };
/// assert_eq!(site.clone().oneshot(get("session=2")?).await?.status(), 401);
/// let response = site.oneshot(get("session=1")?).await?;
/// assert_eq!(response.body().as_bytes().unwrap(), "alice");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct ForwardAuthLayer<A> {
    authorizer: A,
    options: Arc<Options>,
}

#[derive(Debug, Clone)]
struct Options {
    path: Uri,
    copied: Vec<HeaderName>,
}

impl<A> ForwardAuthLayer<A> {
    /// Creates a layer that sends subrequests for `path`, which may have a query, to `authorizer`.
    ///
    /// # Panics
    /// If `path` is not a path.
    pub fn new(authorizer: A, path: &str) -> Self {
        assert!(path.starts_with('/'), "{path:?} is not a path");
        let path = path.parse().unwrap_or_else(|e| panic!("{path:?} is not a path: {e}"));
        Self { authorizer, options: Arc::new(Options { path, copied: Vec::new() }) }
    }

    /// Copies a field of the authorization response to the request. Fields of this name from the client are removed, and fields
    /// that [CGI confuses](lookalike) with it, such as `X_User` for `X-User`.
    #[must_use]
    pub fn copy(mut self, name: HeaderName) -> Self {
        Arc::make_mut(&mut self.options).copied.push(name);
        self
    }
}

impl<S, A: Clone> Layer<S> for ForwardAuthLayer<A> {
    type Service = ForwardAuth<S, A>;

    fn layer(&self, inner: S) -> ForwardAuth<S, A> {
        ForwardAuth { inner, layer: self.clone() }
    }
}

/// Authorizes each request by a subrequest. See [`ForwardAuthLayer`].
#[derive(Debug, Clone)]
pub struct ForwardAuth<S, A> {
    inner: S,
    layer: ForwardAuthLayer<A>,
}

impl<S, A, B> Service<Request<B>> for ForwardAuth<S, A>
where
    S: HttpService<B> + Clone + Send + 'static,
    S::Future: Send,
    A: HttpService + Clone + Send + 'static,
    A::Future: Send,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let mut inner = self.inner.clone();
        let ForwardAuthLayer { mut authorizer, options } = self.layer.clone();
        ResponseFuture(Box::pin(async move {
            let mut request = request;
            // Both services decide by the same fields. The server has removed them, unless it is that of another crate.
            hop::remove_named(request.headers_mut());
            let subrequest = options.subrequest(&request);
            let mut readiness = Readiness::new(request.extensions());
            poll_fn(|cx| readiness.poll(&mut authorizer, cx)).await?;
            let authorization = authorizer.call(subrequest).await.map_err(Into::into)?;
            if !authorization.status().is_success() {
                return Ok(authorization.map(Body::new));
            }
            options.copy(authorization.headers(), request.headers_mut());
            drop(authorization);
            poll_fn(|cx| readiness.poll(&mut inner, cx)).await?;
            drop(readiness);
            let response = inner.call(request).await.map_err(Into::into)?;
            Ok(response.map(Body::new))
        }))
    }
}

impl Options {
    /// Returns the subrequest.
    fn subrequest<B>(&self, request: &Request<B>) -> Request<Body> {
        let mut headers = request.headers().clone();
        hop::strip(&mut headers);
        for name in &NOT_SENT {
            headers.remove(name);
        }
        for name in &self.copied {
            lookalike::remove(&mut headers, name);
        }
        let original = request.extensions().get::<OriginalUri>();
        let uri = original.map_or_else(|| request.uri(), |OriginalUri(uri)| uri);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let peer = request.extensions().get::<Peer>();
        let scheme = peer.map(|peer| peer.scheme().to_string());
        let client = peer.and_then(Peer::ip).map(|ip| ip.to_string());
        // The authority of the target overrides `Host` (RFC 9112 section 3.2.2).
        let host = match uri.authority() {
            Some(authority) => Some(authority.as_str().to_owned()),
            None => request.headers().get(header::HOST).and_then(|h| Some(h.to_str().ok()?.into())),
        };
        let authorized = AuthorizedRequest::new(request.method(), target);
        for (name, value) in [(HOST, host), (PROTO, scheme), (CLIENT, client)] {
            // The client's own values are removed even if there is no new one.
            headers.remove(&name);
            let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        for name in [X_FORWARDED_METHOD, X_FORWARDED_URI] {
            headers.remove(name);
        }
        authorized.add_fields(&mut headers);
        let mut subrequest = Request::new(Body::empty());
        *subrequest.method_mut() = Method::GET;
        *subrequest.uri_mut() = self.path.clone();
        *subrequest.headers_mut() = headers;
        let extensions = subrequest.extensions_mut();
        extensions.insert(authorized);
        if let Some(peer) = peer {
            extensions.insert(peer.clone());
        }
        if let Some(deadline) = request.extensions().get::<Deadline>() {
            extensions.insert(*deadline);
        }
        subrequest
    }

    /// Copies fields from the authorization response to the request.
    fn copy(&self, authorization: &HeaderMap, request: &mut HeaderMap) {
        for name in &self.copied {
            lookalike::remove(request, name);
            for value in authorization.get_all(name) {
                request.append(name, value.clone());
            }
        }
    }
}

/// The future of [`ForwardAuth`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Boxed);

type Boxed = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tower::{ServiceExt, service_fn};

    use super::*;

    const USER: HeaderName = HeaderName::from_static("x-user");

    type Seen = Arc<Mutex<Vec<HeaderMap>>>;

    /// Sends a request through the layer. Returns the response, and the fields of the requests that the application received.
    async fn send(
        request: http::request::Builder,
        authorizer: impl Fn(Request) -> Result<Response<Body>, BoxError> + Clone + Send + Sync + 'static,
    ) -> (Result<Response<Body>, BoxError>, Vec<HeaderMap>) {
        let seen = Seen::default();
        let kept = seen.clone();
        let app = service_fn(move |request: Request| {
            kept.lock().unwrap().push(request.headers().clone());
            async { Ok::<_, BoxError>(Response::new(Body::from("app"))) }
        });
        let authorizer = service_fn(move |request| std::future::ready(authorizer(request)));
        let layer = ForwardAuthLayer::new(authorizer, "/check?a=b").copy(USER);
        let response = layer.layer(app).oneshot(request.body(Body::from("content")).unwrap()).await;
        let seen = seen.lock().unwrap().clone();
        (response, seen)
    }

    #[tokio::test]
    async fn subrequest_has_no_content_and_no_forwarded_fields_of_the_client() {
        let address: std::net::SocketAddr = "192.0.2.1:5".parse().unwrap();
        let mut request = Request::post("/x?y=1").extension(Peer::tcp(address, address));
        for (name, value) in [
            ("host", "site.example"),
            ("cookie", "c=1"),
            ("content-length", "7"),
            ("connection", "x-hop, x-user"),
            ("x-hop", "1"),
            ("if-none-match", "*"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-method", "GET"),
            ("x-user", "mallory"),
            ("x_user", "mallory"),
        ] {
            request = request.header(name, value);
        }
        let (response, seen) = send(request, |subrequest| {
            let mut fields: Vec<_> = subrequest.headers().iter().collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            let fields: Vec<_> =
                fields.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            assert_eq!(
                fields,
                [
                    "cookie: c=1",
                    "host: site.example",
                    "x-forwarded-for: 192.0.2.1",
                    "x-forwarded-host: site.example",
                    "x-forwarded-method: POST",
                    "x-forwarded-proto: http",
                    "x-forwarded-uri: /x?y=1",
                ]
            );
            assert_eq!(
                (subrequest.method(), subrequest.uri()),
                (&Method::GET, &"/check?a=b".parse().unwrap())
            );
            Ok(Response::new(Body::empty()))
        })
        .await;
        assert_eq!(response.unwrap().body().as_bytes().unwrap(), "app");
        // The client's field is removed although the authorization response does not have it.
        assert!(!seen[0].contains_key(USER) && seen[0]["content-length"] == "7");
        assert!(!seen[0].contains_key("x_user"));
        // A copied field would be removed from a forwarded request if `Connection` still named it.
        assert!(!seen[0].contains_key("x-hop") && !seen[0].contains_key("connection"));
    }

    #[tokio::test]
    async fn success_of_the_subrequest_alone_allows_the_request() {
        for (status, is_allowed) in
            [(200, true), (204, true), (302, false), (401, false), (500, false)]
        {
            let (response, seen) = send(Request::get("/"), move |_| {
                let response = Response::builder().status(status).header(USER, "alice");
                Ok(response.header("location", "/login").body(Body::from("authorizer"))?)
            })
            .await;
            let response = response.unwrap();
            assert_eq!(seen.len(), usize::from(is_allowed), "{status}");
            if is_allowed {
                assert_eq!(seen[0][USER], "alice");
                assert!(!response.headers().contains_key("location"));
            } else {
                assert_eq!(response.status(), status);
                assert_eq!(response.headers()["location"], "/login");
                assert_eq!(response.body().as_bytes().unwrap(), "authorizer");
            }
        }
        let (response, seen) =
            send(Request::get("/"), |_| Err("the authorizer is down".into())).await;
        assert!(response.is_err() && seen.is_empty());
    }
}
