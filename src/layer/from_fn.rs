//! `from_fn`: a layer from an async function.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Request, Response,
    body::{Body, HttpBody},
    error::BoxError,
    service::HttpService,
};

/// Creates a layer from an async function, which is called with each request and the [`Next`] service.
///
/// The function may change the request, refuse it, or change the response. It may respond with any
/// body and fail with any error. The service that the layer makes accepts requests with any body,
/// wraps any [`HttpService`] that is `Clone + Send + Sync`, and fails with [`BoxError`].
///
/// The service is ready when the inner service is. A permit that the inner service's readiness reserves is
/// held while the function runs, until it calls [`Next::run`] or drops `Next`. Put a function that reads the
/// request's body inside a
/// [`RequestBufferLayer`](super::RequestBufferLayer), so that no slow client holds a permit.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer, layer::Next};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let authenticate = layer::from_fn(|request: Request, next: Next| async move {
///     if !request.headers().contains_key("authorization") {
///         return Ok(Response::builder().status(401).body(Body::empty())?);
///     }
///     let mut response = next.run(request).await?;
///     response.headers_mut().insert("cache-control", "private".parse()?);
///     Ok::<_, BoxError>(response)
/// });
/// let app = authenticate.layer(service_fn(async |_: Request| {
///     Ok::<_, BoxError>(Response::new(Body::from("secret")))
/// }));
///
/// assert_eq!(app.clone().oneshot(Request::new(Body::empty())).await?.status(), 401);
/// let request = http::Request::get("/").header("authorization", "x").body(Body::empty())?;
/// assert_eq!(app.oneshot(request).await?.headers()["cache-control"], "private");
/// # Ok(()) }
/// ```
pub fn from_fn<F, Fut, B, E>(f: F) -> FromFnLayer<F>
where
    F: Fn(Request, Next) -> Fut,
    Fut: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    FromFnLayer { f }
}

/// Wraps a service in [`FromFn`]; made by [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFnLayer<F> {
    f: F,
}

impl<S, F: Clone> Layer<S> for FromFnLayer<F> {
    type Service = FromFn<S, F>;

    fn layer(&self, inner: S) -> FromFn<S, F> {
        FromFn { inner, f: self.f.clone() }
    }
}

impl<F> fmt::Debug for FromFnLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFnLayer").finish_non_exhaustive()
    }
}

/// Calls an async function with each request and the inner service. See [`from_fn`].
#[derive(Clone)]
pub struct FromFn<S, F> {
    inner: S,
    f: F,
}

impl<S, F, Fut, A, B, E> Service<Request<A>> for FromFn<S, F>
where
    S: HttpService + Clone + Send + Sync + 'static,
    S::Future: Send,
    F: Fn(Request, Next) -> Fut,
    Fut: Future<Output = Result<Response<B>, E>>,
    A: HttpBody,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<Fut>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // Calls the instance that was polled ready; the clone is not ready.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let next = Next(Box::new(ready));
        ResponseFuture { future: (self.f)(request.map(Body::new), next) }
    }
}

impl<S: fmt::Debug, F> fmt::Debug for FromFn<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// The inner service of a [`FromFn`], for one request.
///
/// It was polled ready before the function was called. A clone, as for a retry, waits for its own
/// readiness.
pub struct Next(Box<dyn Inner>);

impl Next {
    /// Waits until the service is ready, calls it, and returns its response.
    ///
    /// # Errors
    /// The error of the service's readiness or call.
    ///
    /// ```
    /// # use vestibule::{BoxError, Request, Response, layer::Next};
    /// async fn count(request: Request, next: Next) -> Result<Response, BoxError> {
    ///     let response = next.run(request).await?;
    ///     println!("{}", response.status());
    ///     Ok(response)
    /// }
    /// # drop(vestibule::layer::from_fn(count));
    /// ```
    pub async fn run(self, request: Request) -> Result<Response, BoxError> {
        self.0.run(request).await
    }
}

impl Clone for Next {
    fn clone(&self) -> Self {
        Self(self.0.boxed_clone())
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

type BoxFuture = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

/// A type-erased service, so that [`Next`] has no type parameter.
trait Inner: Send + Sync {
    fn run(self: Box<Self>, request: Request) -> BoxFuture;
    fn boxed_clone(&self) -> Box<dyn Inner>;
}

impl<S> Inner for S
where
    S: HttpService + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn run(mut self: Box<Self>, request: Request) -> BoxFuture {
        Box::pin(async move {
            // Returns at once for the instance that was polled ready before.
            poll_fn(|cx| self.poll_ready(cx)).await.map_err(Into::into)?;
            let response = self.call(request).await.map_err(Into::into)?;
            Ok(response.map(Body::new))
        })
    }

    fn boxed_clone(&self) -> Box<dyn Inner> {
        Box::new(self.clone())
    }
}

/// The future of [`FromFn`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    future: F,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.project().future.poll(cx));
        Poll::Ready(result.map(|response| response.map(Body::new)).map_err(Into::into))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
