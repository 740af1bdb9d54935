//! `Rescue`: turns errors into responses by one table.

use std::{
    convert::Infallible,
    error::Error as _,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::buffer::request::BodyTooLarge;
use crate::{
    Body, HttpService, Request, Response,
    body::HttpBody,
    conn::{RequestInfo, log_error},
    error::{BoxError, Error},
    semantics::problem::{self, Accept},
};

pub use crate::semantics::problem::Format;

/// Returns the response for an error, by the table that [`Rescue`] uses by default.
///
/// Its status is that of the error's kind ([`problem::status`]); an error of another crate is 500. With
/// 429 and 503 it has a `retry-after`: the time of a [`RateLimited`](problem::RateLimited) source in
/// seconds, rounded up and at least 1, or 1 without such a source.
///
/// The [`Error`] is searched in the whole chain of causes. The body is that of [`problem::response`] and
/// never contains the cause.
///
/// ```
/// use vestibule::{BoxError, Error, error::Kind, layer::rescue::{self, Format}};
///
/// let error: BoxError = Error::new(Kind::Overloaded, "the queue is full").into();
/// let response = rescue::response(&error, Format::Text);
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["retry-after"], "1");
/// assert_eq!(response.body().as_bytes().unwrap(), "503 Service Unavailable\n");
/// ```
pub fn response(error: &BoxError, format: Format) -> Response {
    respond(error, format, false)
}

/// Makes the response for the error of a service, for [`Rescue`].
///
/// Implemented for every `Fn(&BoxError, Format) -> Response`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make responses from errors",
    note = "expected a `Fn(&BoxError, Format) -> Response`"
)]
pub trait Responder {
    /// Returns the response for `error`, in the format that the client prefers.
    fn respond(&self, error: &BoxError, format: Format) -> Response;
}

impl<F: Fn(&BoxError, Format) -> Response> Responder for F {
    fn respond(&self, error: &BoxError, format: Format) -> Response {
        self(error, format)
    }
}

/// The [`Responder`] that [`Rescue`] uses by default: the table of [`response`].
#[derive(Debug, Clone, Copy, Default)]
pub struct StatusTable;

impl Responder for StatusTable {
    fn respond(&self, error: &BoxError, format: Format) -> Response {
        respond(error, format, false)
    }
}

/// The [`Responder`] of [`RescueLayer::tell_limits`]: the table of [`response`], with the limit that a body
/// exceeds as the response's detail.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatusTableWithLimits;

impl Responder for StatusTableWithLimits {
    fn respond(&self, error: &BoxError, format: Format) -> Response {
        respond(error, format, true)
    }
}

fn respond(error: &BoxError, format: Format, with_limits: bool) -> Response {
    let source = Error::find(&**error).and_then(Error::source);
    let limit = source.and_then(|e| e.downcast_ref::<BodyTooLarge>());
    let detail = limit.filter(|_| with_limits).map(ToString::to_string);
    problem::of_error(&**error, detail.as_deref(), format)
}

/// Wraps a service in [`Rescue`]. Put it outermost, except for a
/// [`TrustedProxyLayer`](super::TrustedProxyLayer).
#[derive(Clone, Copy, Default)]
pub struct RescueLayer<R = StatusTable> {
    responder: R,
}

impl RescueLayer {
    /// Creates a layer with the table of [`response`].
    pub fn new() -> Self {
        Self { responder: StatusTable }
    }

    /// Adds the limit that a body exceeds to the response, as its detail: `the body is larger than 1048576
    /// bytes`. Off by default; the log always has it.
    pub fn tell_limits(self) -> RescueLayer<StatusTableWithLimits> {
        RescueLayer { responder: StatusTableWithLimits }
    }
}

impl<R: Responder + Clone> RescueLayer<R> {
    /// Creates a layer with this `responder`, which may fall back to [`response`].
    ///
    /// ```
    /// use vestibule::layer::{RescueLayer, rescue::{self, Format}};
    ///
    /// let layer = RescueLayer::with(|error: &vestibule::BoxError, format: Format| {
    ///     let mut response = rescue::response(error, format);
    ///     response.headers_mut().insert("cache-control", "no-store".parse().unwrap());
    ///     response
    /// });
    /// # drop(layer);
    /// ```
    pub fn with(responder: R) -> Self {
        Self { responder }
    }
}

impl<R> fmt::Debug for RescueLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RescueLayer").finish_non_exhaustive()
    }
}

impl<S, R: Clone> Layer<S> for RescueLayer<R> {
    type Service = Rescue<S, R>;

    fn layer(&self, inner: S) -> Rescue<S, R> {
        Rescue { inner, responder: self.responder.clone(), ready_error: None }
    }
}

/// Makes any service infallible, as `axum` requires. ([`serve`](crate::serve()) accepts errors.)
///
/// ```
/// use vestibule::{Router, layer::RescueExt};
///
/// let site: axum::Router = axum::Router::new().fallback_service(Router::new().infallible());
/// # drop(site);
/// ```
pub trait RescueExt: Sized {
    /// Wraps the service in [`Rescue`], with the table of [`response`].
    fn infallible(self) -> Rescue<Self> {
        Rescue::new(self)
    }
}

impl<S> RescueExt for S {}

/// Turns every error of the inner service into a response, so that its own error is
/// [`Infallible`], and every response body into a [`Body`].
///
/// The response is text, or `application/problem+json` (RFC 9457) for a client that
/// [prefers JSON](Format::of).
///
/// `poll_ready` never fails: an error of the inner service is stored, and the next `call` returns its
/// response. Clones do not copy a stored error.
pub struct Rescue<S, R = StatusTable> {
    inner: S,
    responder: R,
    /// The error of the inner `poll_ready`, for the next call.
    ready_error: Option<BoxError>,
}

impl<S> Rescue<S> {
    /// Wraps `inner`, with the table of [`response`].
    pub fn new(inner: S) -> Self {
        RescueLayer::new().layer(inner)
    }
}

impl<S: Clone, R: Clone> Clone for Rescue<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), responder: self.responder.clone(), ready_error: None }
    }
}

impl<S: fmt::Debug, R> fmt::Debug for Rescue<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rescue").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Rescue<S, R>
where
    S: HttpService<B>,
    R: Responder + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.ready_error.is_none()
            && let Err(e) = ready!(self.inner.poll_ready(cx))
        {
            self.ready_error = Some(e.into());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let info = RequestInfo::from_request(&request);
        let accept = Accept::of(request.headers());
        let state = match self.ready_error.take() {
            Some(e) => State::Failed(Some(e)),
            None => State::Inner(self.inner.call(request)),
        };
        ResponseFuture { state, request: info, accept, responder: self.responder.clone() }
    }
}

/// The future of [`Rescue`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F, R> {
    #[pin]
    state: State<F>,
    request: RequestInfo,
    accept: Accept,
    responder: R,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F> {
    Inner(#[pin] F),
    Failed(Option<BoxError>),
}

impl<F, R, E, B> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody,
    R: Responder,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            StateProj::Inner(f) => match ready!(f.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response.map(Body::new))),
                Err(e) => e.into(),
            },
            StateProj::Failed(e) => e.take().expect("a future is not polled after its end"),
        };
        log_error(this.request, &error);
        Poll::Ready(Ok(this.responder.respond(&error, this.accept.format())))
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::{super::assert_ready::AssertReady, *};
    use crate::{error::Kind, semantics::problem::RateLimited};

    #[test]
    fn response_has_the_status_of_the_kind_and_does_not_reveal_the_cause() {
        for (kind, status) in [
            (Kind::BadRequest, 400),
            (Kind::ClientGone, 400),
            (Kind::ClientTimeout, 408),
            (Kind::TooLarge, 413),
            (Kind::TooManyRequests, 429),
            (Kind::Overloaded, 503),
            (Kind::Timeout, 504),
            (Kind::BadGateway, 502),
            (Kind::Internal, 500),
        ] {
            let r = response(&Error::new(kind, "secret").into(), Format::Text);
            assert_eq!(r.status(), status, "{kind:?}");
            let again = matches!(kind, Kind::Overloaded | Kind::TooManyRequests);
            assert_eq!(r.headers().get("retry-after").is_some_and(|v| v == "1"), again);
            assert_eq!(r.headers()["content-type"], "text/plain; charset=utf-8");
            let text = String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap();
            let phrase = r.status().canonical_reason().unwrap();
            assert_eq!(text, format!("{status} {phrase}\n"), "as in the status line");
            assert_eq!(r.headers()["vary"], "accept");
            let json = response(&Error::new(kind, "secret").into(), Format::Json);
            let want = format!(r#"{{"status":{status},"title":"{phrase}"}}"#);
            assert_eq!((json.status(), json.body().as_bytes().unwrap()), (r.status(), want.into()));
        }
        assert_eq!(response(&"a foreign error".into(), Format::Text).status(), 500);
    }

    #[test]
    fn retry_after_of_rate_limit_is_in_whole_seconds() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_900, "60")] {
            let retry_after = std::time::Duration::from_millis(millis);
            let error = Error::new(Kind::TooManyRequests, RateLimited { retry_after });
            let r = response(&std::io::Error::other(error).into(), Format::Text);
            assert_eq!(
                (r.status().as_u16(), &r.headers()["retry-after"]),
                (429, &seconds.parse().unwrap())
            );
        }
    }

    #[test]
    fn error_is_found_in_the_chain_of_another_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("foreign")]
        struct Foreign(#[source] Error);
        let error: BoxError = Foreign(Error::new(Kind::TooLarge, "x")).into();
        assert_eq!(response(&error, Format::Text).status(), 413);
    }

    #[tokio::test]
    async fn error_of_call_becomes_response_and_response_is_passed_on() {
        let rescue = RescueLayer::new().layer(AssertReady::new(async |r: Request| {
            if r.uri().path() == "/bad" {
                return Err(Error::new(Kind::BadGateway, "refused"));
            }
            Ok(Response::new(Body::from("fine")))
        }));
        let bad = Request::builder().uri("/bad").body(Body::empty()).unwrap();
        assert_eq!(rescue.clone().oneshot(bad).await.unwrap().status(), 502);
        let good = rescue.oneshot(Request::default()).await.unwrap();
        assert_eq!(good.body().as_bytes().unwrap(), "fine");
    }

    /// A service whose first `poll_ready` fails.
    #[derive(Debug)]
    struct Unready(bool);

    impl Service<Request> for Unready {
        type Response = Response;
        type Error = Error;
        type Future = std::future::Ready<Result<Response, Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
            if std::mem::replace(&mut self.0, true) {
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(Error::new(Kind::Overloaded, "full")))
        }

        fn call(&mut self, _: Request) -> Self::Future {
            std::future::ready(Ok(Response::default()))
        }
    }

    #[tokio::test]
    async fn error_of_readiness_answers_the_next_call_and_no_other() {
        let mut rescue = Rescue::new(Unready(false));
        let first = rescue.ready().await.unwrap().call(Request::default()).await.unwrap();
        assert_eq!(first.status(), 503);
        let second = rescue.ready().await.unwrap().call(Request::default()).await.unwrap();
        assert_eq!(second.status(), 200);
    }

    #[tokio::test]
    async fn responder_of_the_user_replaces_the_table() {
        let layer = RescueLayer::with(|_: &BoxError, _: Format| {
            Response::builder().status(418).body(Body::empty()).expect("a valid response")
        });
        let rescue = layer.layer(AssertReady::new(async |_: Request| {
            Err::<Response, _>(Error::new(Kind::Timeout, "t"))
        }));
        assert_eq!(rescue.oneshot(Request::default()).await.unwrap().status(), 418);
    }

    /// Returns the response to `error` for a client with this `accept`.
    async fn rescued<R: Responder + Clone>(
        layer: RescueLayer<R>,
        error: fn() -> Error,
        accept: &'static str,
    ) -> Response {
        let failing =
            AssertReady::new(move |_: Request| std::future::ready(Err::<Response, _>(error())));
        let request = Request::builder().header("accept", accept).body(Body::empty()).unwrap();
        layer.layer(failing).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn client_that_prefers_json_is_answered_with_it() {
        let error = || Error::new(Kind::BadGateway, "refused");
        let json = rescued(RescueLayer::new(), error, "application/json").await;
        assert_eq!(json.headers()["content-type"], "application/problem+json");
        assert_eq!(json.body().as_bytes().unwrap(), r#"{"status":502,"title":"Bad Gateway"}"#);
        let text = rescued(RescueLayer::new(), error, "text/html, */*").await;
        assert_eq!(text.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(text.body().as_bytes().unwrap(), "502 Bad Gateway\n");
    }

    #[tokio::test]
    async fn tell_limits_adds_the_limit_to_the_response() {
        let error = || Error::new(Kind::TooLarge, BodyTooLarge { limit: 9 });
        let text = |r: Response| String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap();
        let untold = rescued(RescueLayer::new(), error, "*/*").await;
        assert_eq!(text(untold), "413 Payload Too Large\n");
        let told = rescued(RescueLayer::new().tell_limits(), error, "*/*").await;
        assert_eq!(text(told), "413 Payload Too Large\nthe body is larger than 9 bytes\n");
        let json = rescued(RescueLayer::new().tell_limits(), error, "application/json").await;
        let want = r#"{"status":413,"title":"Payload Too Large","detail":"the body is larger than 9 bytes"}"#;
        assert_eq!(text(json), want);
        assert_eq!(error().to_string(), "request too large: the body is larger than 9 bytes");
    }
}
