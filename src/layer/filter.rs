//! `HeadFilter`: the common part of layers that inspect or change the head of a request and its response, without waiting.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Response, request};
use pin_project::pin_project;
use tower_service::Service;

use crate::{
    HttpService, Request,
    body::{Body, HttpBody},
    semantics::problem::LocalReply,
};

/// A synchronous rule for the heads of requests and responses. [`Filtered`] applies it to a service.
///
/// [`AccessLayer`](super::AccessLayer), [`BasicAuthLayer`](super::BasicAuthLayer) and other layers of this module are built on
/// it. For asynchronous rules use [`from_fn`](super::from_fn()).
///
/// ```
/// use http::{Response, request};
/// use tower::{ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, layer::{Filtered, HeadFilter}};
///
/// /// Refuses all methods but GET.
/// #[derive(Clone)]
/// struct ReadOnly;
///
/// impl HeadFilter for ReadOnly {
///     type Memo = ();
///
///     fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
///         if head.method == http::Method::GET {
///             return Ok(());
///         }
///         let mut refusal = Response::new(Body::empty());
///         *refusal.status_mut() = http::StatusCode::METHOD_NOT_ALLOWED;
///         Err(Box::new(refusal))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let app = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty())));
/// let site = Filtered::new(app, ReadOnly);
/// let request = http::Request::post("/").body(Body::empty())?;
/// assert_eq!(site.oneshot(request).await?.status(), 405);
/// # Ok(()) }
/// ```
pub trait HeadFilter: Clone + Send + Sync + 'static {
    /// The value that is passed from [`on_request`](Self::on_request) to [`on_response`](Self::on_response).
    type Memo: Send;

    /// Inspects and changes the head of a request, or answers the request.
    ///
    /// # Errors
    /// The response, if the service is not called. It is boxed, since it is large and rare. It is marked as a
    /// [`LocalReply`].
    fn on_request(&self, head: &mut request::Parts) -> Result<Self::Memo, Box<Response<Body>>>;

    /// Changes the response of the service. Does nothing by default.
    fn on_response(&self, memo: Self::Memo, response: Response<Body>) -> Response<Body> {
        let _ = memo;
        response
    }
}

/// Applies a [`HeadFilter`] to the requests and responses of a service. Ready when the inner service is.
#[derive(Clone)]
pub struct Filtered<S, F> {
    inner: S,
    filter: F,
}

impl<S, F> Filtered<S, F> {
    /// Wraps a service.
    pub fn new(inner: S, filter: F) -> Self {
        Self { inner, filter }
    }
}

impl<S, F, B> Service<Request<B>> for Filtered<S, F>
where
    S: HttpService<B> + Clone,
    F: HeadFilter,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, F>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        match self.filter.on_request(&mut head) {
            Ok(memo) => {
                let future = self.inner.call(Request::from_parts(head, body));
                let filter = self.filter.clone();
                ResponseFuture(State::Called { future, called: Some((filter, memo)) })
            }
            Err(mut response) => {
                response.extensions_mut().insert(LocalReply);
                self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
                ResponseFuture(State::Answered(Some(response)))
            }
        }
    }
}

impl<S: fmt::Debug, F> fmt::Debug for Filtered<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The future of [`Filtered`].
#[pin_project]
pub struct ResponseFuture<T, F: HeadFilter>(#[pin] State<T, F>);

#[pin_project(project = StateProj)]
enum State<T, F: HeadFilter> {
    Called {
        #[pin]
        future: T,
        called: Option<(F, F::Memo)>,
    },
    Answered(Option<Box<Response<Body>>>),
}

impl<T, F, R, E> Future for ResponseFuture<T, F>
where
    T: Future<Output = Result<Response<R>, E>>,
    F: HeadFilter,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Called { future, called } => {
                let response = ready!(future.poll(cx))?.map(Body::new);
                let (filter, memo) = called.take().expect("not polled after completion");
                Poll::Ready(Ok(filter.on_response(memo, response)))
            }
            StateProj::Answered(response) => {
                let response = response.take().expect("not polled after completion");
                Poll::Ready(Ok(*response))
            }
        }
    }
}

impl<T, F: HeadFilter> fmt::Debug for ResponseFuture<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
