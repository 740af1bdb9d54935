//! One type for all services behind a router.

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};

use super::Router;
use crate::{
    body::Body,
    error::BoxError,
    service::{HttpService, Readiness},
};

/// A service behind a router.
pub(super) trait Route: Send + Sync {
    fn call(&self, request: Request<Body>) -> ResponseFuture;
}

/// Erases the type of a service. A router is called directly, without a second box.
pub(super) fn erase<S>(service: S) -> Arc<dyn Route>
where
    S: HttpService + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    match (&service as &dyn Any).downcast_ref::<Router>() {
        Some(router) => Arc::new(router.clone()),
        None => Arc::new(Erased(service)),
    }
}

impl Route for Router {
    fn call(&self, request: Request<Body>) -> ResponseFuture {
        self.dispatch(request)
    }
}

struct Erased<S>(S);

impl<S> Route for Erased<S>
where
    S: HttpService + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn call(&self, request: Request<Body>) -> ResponseFuture {
        let mut service = self.0.clone();
        ResponseFuture(State::Boxed(Box::pin(async move {
            // Readiness belongs to the clone that is called (see `Service::poll_ready`).
            let mut readiness = Readiness::new(request.extensions());
            poll_fn(|cx| readiness.poll(&mut service, cx)).await?;
            drop(readiness);
            let response = service.call(request).await.map_err(Into::into)?;
            Ok(response.map(Body::new))
        })))
    }
}

/// The response of a [`Router`].
pub struct ResponseFuture(State);

enum State {
    Boxed(Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>),
    /// The router's own response; `None` once it was returned. Boxed, since it is rare.
    Ready(Option<Box<Response<Body>>>),
}

impl ResponseFuture {
    pub(super) fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(Some(Box::new(response))))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Boxed(future) => future.as_mut().poll(cx),
            State::Ready(response) => {
                Poll::Ready(Ok(*response.take().expect("polled after it was complete")))
            }
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
