//! `Https`: redirects plain HTTP to HTTPS, and adds HSTS.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri,
    header::{HOST, LOCATION, STRICT_TRANSPORT_SECURITY},
    uri::Scheme,
};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::called_or_answered::CalledOrAnswered;
use crate::{
    HttpService, Request,
    body::{Body, HttpBody},
    peer::Peer,
    semantics::{
        problem::{self, Format},
        target::OriginalUri,
    },
};

/// The usual `max-age` of HSTS: one year. The browsers' preload list demands as much, and also `includeSubDomains` and
/// `preload`, which a service can set by a field of its own.
pub const HSTS_MAX_AGE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Wraps a service in [`Https`].
#[derive(Debug, Clone, Default)]
pub struct HttpsLayer {
    port: Option<u16>,
    hsts: Option<HeaderValue>,
}

impl HttpsLayer {
    /// Creates a layer that redirects to the default port, without HSTS.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the port to redirect to. Defaults to that of HTTPS, 443.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port).filter(|port| *port != 443);
        self
    }

    /// Adds `Strict-Transport-Security` to responses over HTTPS (RFC 6797): for `max_age`, browsers use only HTTPS
    /// for this host, and allow no exception for an invalid certificate. [`HSTS_MAX_AGE`] is usual; begin with
    /// minutes. A field that the service sets is kept.
    #[must_use]
    pub fn hsts(mut self, max_age: Duration) -> Self {
        let value = format!("max-age={}", max_age.as_secs());
        self.hsts = Some(HeaderValue::from_str(&value).expect("digits are valid"));
        self
    }
}

impl<S> Layer<S> for HttpsLayer {
    type Service = Https<S>;

    fn layer(&self, inner: S) -> Https<S> {
        Https { inner, layer: self.clone() }
    }
}

/// Redirects requests over plain HTTP, and adds HSTS to responses over HTTPS.
///
/// The scheme is that of the request's [`Peer`], so behind a proxy that terminates TLS this layer must be inside of
/// [`TrustedProxyLayer`](crate::layer::TrustedProxyLayer). GET and HEAD are redirected with 301, other methods with
/// 308, which preserves them. A request without `Host` is answered with 400. Requests below
/// `/.well-known/acme-challenge/` are served, since ACME sends them over plain HTTP (RFC 8555 section 8.3). The redirect is to
/// the target that the client sent, also inside of a nested router. The scheme of an absolute target does not count, so
/// `GET https://a/` over plain HTTP is redirected too (RFC 9110 section 7.4).
///
/// One stack serves both ports:
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use tower::Layer;
/// use vestibule::{Router, layer::{HttpsLayer, https::HSTS_MAX_AGE}, serve, tls};
///
/// let site = HttpsLayer::new().hsts(HSTS_MAX_AGE).layer(Router::new());
/// let plain = serve("0.0.0.0:80", site.clone());
/// let secure = serve("0.0.0.0:443", site).tls(tls::Server::pem_files("site.pem", "site.key")?);
/// tokio::try_join!(plain.into_future(), secure.into_future())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Https<S> {
    inner: S,
    layer: HttpsLayer,
}

impl<S, B> Service<Request<B>> for Https<S>
where
    S: HttpService<B> + Clone,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let scheme = request.extensions().get::<Peer>().map(Peer::scheme);
        let is_https = scheme == Some(Scheme::HTTPS);
        let path = client_uri(&request).path();
        if !is_https && !path.starts_with("/.well-known/acme-challenge/") {
            self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
            let redirect = CalledOrAnswered::answered(self.layer.redirect(&request));
            return ResponseFuture { inner: redirect, hsts: None };
        }
        let hsts = self.layer.hsts.clone().filter(|_| is_https);
        ResponseFuture { inner: CalledOrAnswered::Called(self.inner.call(request)), hsts }
    }
}

impl HttpsLayer {
    fn redirect<B>(&self, request: &Request<B>) -> Response<Body> {
        let Some(location) = self.location(request) else {
            let format = Format::of(request.method(), request.headers());
            return problem::response(StatusCode::BAD_REQUEST, Some("no valid Host"), format);
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = match *request.method() {
            Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
            _ => StatusCode::PERMANENT_REDIRECT,
        };
        response.headers_mut().insert(LOCATION, location);
        response
    }

    fn location<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let uri = client_uri(request);
        // The host of an absolute target overrides `Host` (RFC 9112 section 3.2.2).
        let host = uri.host().or_else(|| host(request.headers()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path } else { "/" };
        let location = match self.port {
            None => format!("https://{host}{path}"),
            Some(port) => format!("https://{host}:{port}{path}"),
        };
        HeaderValue::from_str(&location).ok()
    }
}

/// Returns the target that the client sent, before a router or a rewrite has changed it.
fn client_uri<B>(request: &Request<B>) -> &Uri {
    request.extensions().get::<OriginalUri>().map_or_else(|| request.uri(), |OriginalUri(uri)| uri)
}

/// Returns the host of `Host` without its port. It must be a valid host, since it becomes part of a `Location`.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || b".-_[]:".contains(&b);
    (!name.is_empty() && name.bytes().all(is_valid)).then_some(name)
}

/// The future of [`Https`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: CalledOrAnswered<F>,
    /// The value of `Strict-Transport-Security`, if it is to be added.
    hsts: Option<HeaderValue>,
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(hsts) = this.hsts.take() {
            response.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert(hsts);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::peer::Tls;

    async fn send(
        layer: HttpsLayer,
        peer: Peer,
        request: http::request::Builder,
    ) -> Response<Body> {
        let app =
            service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::from("served"))));
        let request = request.extension(peer).body(Body::empty()).unwrap();
        layer.layer(app).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn plain_request_is_redirected_and_keeps_its_path_and_method() {
        for (method, host, path, port, status, location) in [
            ("GET", "a.example:8080", "/x?y=1", 443, 301, "https://a.example/x?y=1"),
            ("HEAD", "[::1]:80", "/", 8443, 301, "https://[::1]:8443/"),
            ("POST", "a", "//evil.example/", 443, 308, "https://a//evil.example/"),
            ("OPTIONS", "a", "*", 443, 308, "https://a/"),
        ] {
            let request = Request::builder().method(method).uri(path).header(HOST, host);
            let layer = HttpsLayer::new().port(port).hsts(HSTS_MAX_AGE);
            let response = send(layer, Peer::memory(), request).await;
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[LOCATION], location);
            assert!(!response.headers().contains_key(STRICT_TRANSPORT_SECURITY));
        }
    }

    #[tokio::test]
    async fn redirect_is_to_the_target_that_the_client_sent() {
        for (uri, original, location) in [
            ("/x?y", Some("/a/x?y"), "https://host/a/x?y"),
            ("/", Some("/a"), "https://host/a"),
            ("/x", Some("http://target:81/a/x"), "https://target/a/x"),
            // RFC 9112 section 3.2.2.
            ("http://target:81/x", None, "https://target/x"),
        ] {
            let mut request = Request::builder().uri(uri).header(HOST, "host");
            if let Some(original) = original {
                request = request.extension(OriginalUri(original.parse().unwrap()));
            }
            let response = send(HttpsLayer::new(), Peer::memory(), request).await;
            assert_eq!(response.headers()[LOCATION], location, "{uri}");
        }
    }

    #[tokio::test]
    async fn plain_request_without_valid_host_is_refused() {
        for host in ["", "a b", "a@b", "a/b", "a%2f", "\u{e4}", ":80"] {
            let request = Request::builder().header(HOST, HeaderValue::from_str(host).unwrap());
            let response = send(HttpsLayer::new(), Peer::memory(), request).await;
            assert_eq!(response.status(), 400, "{host}");
        }
        assert_eq!(send(HttpsLayer::new(), Peer::memory(), Request::builder()).await.status(), 400);
    }

    #[tokio::test]
    async fn secure_response_has_hsts_and_acme_challenge_is_served_in_plain() {
        let secure = Peer::memory().secured(Tls::new("TLSv1.3"));
        let layer = HttpsLayer::new().hsts(Duration::from_secs(60));
        let response = send(layer.clone(), secure.clone(), Request::builder()).await;
        assert_eq!(response.headers()[STRICT_TRANSPORT_SECURITY], "max-age=60");
        let response = send(HttpsLayer::new(), secure, Request::builder()).await;
        assert!(!response.headers().contains_key(STRICT_TRANSPORT_SECURITY));
        let acme = Request::builder().uri("/.well-known/acme-challenge/x");
        let response = send(layer, Peer::memory(), acme).await;
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key(STRICT_TRANSPORT_SECURITY));
    }
}
