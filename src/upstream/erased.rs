//! `ErasedService`: services of several types as one type.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{attempt::Attempt, error::AttemptError};
use crate::{
    HttpService,
    body::{Body, HttpBody},
};

/// A service with an erased type, for a [`Balance`](super::Balance) over services of several types.
///
/// The future is allocated for each request. Endpoints of the same type do not need this.
///
/// Always ready: the readiness of the service is awaited after `call`, for up to
/// [`READY_TIMEOUT`](super::READY_TIMEOUT). Cheap to clone; each request is sent to a clone of the
/// service.
///
/// ```
/// use std::convert::Infallible;
/// use tower::{ServiceExt, service_fn};
/// use vestibule::{Body, Request, Response, upstream::{ErasedService, Remote}};
///
/// let closure = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
/// let services = [ErasedService::new(closure), ErasedService::new(Remote::new("10.0.0.2:3000")?)];
/// # drop(services);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct ErasedService(Arc<dyn ErasedCall>);

/// The future of [`ErasedService`].
pub struct ResponseFuture(BoxFuture);

type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, AttemptError>> + Send>>;

/// The object-safe form of a service.
trait ErasedCall: Send + Sync {
    fn send(&self, request: Request<Body>) -> BoxFuture;
}

struct Erased<S>(S);

impl<S> ErasedCall for Erased<S>
where
    S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
{
    fn send(&self, request: Request<Body>) -> BoxFuture {
        Box::pin(Attempt::new(self.0.clone(), request))
    }
}

impl ErasedService {
    /// Erases the type of `service`.
    pub fn new<S>(service: S) -> Self
    where
        S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    {
        Self(Arc::new(Erased(service)))
    }
}

impl<B: HttpBody> Service<Request<B>> for ErasedService {
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture(self.0.send(request.map(Body::new)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ErasedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedService").finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
