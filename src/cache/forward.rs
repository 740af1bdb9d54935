//! `Forward`: a request on its way to the origin, and how the response is used.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use pin_project::pin_project;

use super::{bypass, head_fetch::HeadFetch, key::Key, leader::Lead, shared::Shared};
use crate::{
    Body, HttpService, Request, Response,
    error::BoxError,
    semantics::cache::status::{CacheStatus, Forwarded},
};

/// The future of a forwarded request: its response, after the cache has used it.
#[pin_project]
pub(super) struct Forward<S: HttpService> {
    #[pin]
    call: Call<S>,
    shared: Arc<Shared>,
    then: Then,
}

/// The use of a response.
#[allow(clippy::large_enum_variant, reason = "it is a part of the boxed future of a request")]
pub(super) enum Then {
    /// It is not for the store.
    Pass(Forwarded),
    /// It invalidates the stored responses of this key, and those that it names.
    Invalidate(Key),
    /// It updates a stored response.
    UpdateHead(Box<HeadFetch>),
    /// It is stored if that is permitted.
    Store(Lead),
}

impl<S: HttpService + Clone> Forward<S> {
    /// Calls `inner` at once if it is ready. Otherwise the future waits with it, and leaves a clone.
    pub(super) fn new(shared: &Arc<Shared>, inner: &mut S, request: Request, then: Then) -> Self {
        let call = match inner.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Call::Called(inner.call(request)),
            Poll::Ready(Err(error)) => {
                *inner = inner.clone(); // one that has failed is not used again
                Call::Failed(Some(error.into()))
            }
            Poll::Pending => {
                // It may have a place in a queue now, so it is the one that is polled again, with the waker of the task.
                let next = inner.clone();
                let polled = std::mem::replace(inner, next);
                Call::Unready(Some(Box::new((polled, request))))
            }
        };
        Self { call, shared: shared.clone(), then }
    }
}

impl<S: HttpService> Future for Forward<S> {
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.call.poll(cx));
        let shared = &*this.shared;
        Poll::Ready(match this.then {
            Then::Pass(reason) => result.map(|mut response| {
                shared.add_status(response.headers_mut(), CacheStatus::forwarded(*reason));
                response
            }),
            Then::Invalidate(target) => result.map(|mut response| {
                bypass::invalidate(shared, target, &response);
                shared
                    .add_status(response.headers_mut(), CacheStatus::forwarded(Forwarded::Method));
                response
            }),
            Then::UpdateHead(fetch) => result.map(|response| fetch.finish(shared, response)),
            Then::Store(lead) => lead.finish(shared, cx, result),
        })
    }
}

/// The call of a service.
#[pin_project(project = CallProj)]
enum Call<S: HttpService> {
    /// The service is not ready. `None` after an error.
    Unready(Option<Box<(S, Request)>>),
    Called(#[pin] S::Future),
    /// The service has failed before the call. `None` after the error.
    Failed(Option<BoxError>),
}

impl<S: HttpService> Future for Call<S> {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const ENDED: &str = "not polled after an error";
        if let CallProj::Unready(waiting) = self.as_mut().project() {
            let (service, _) = &mut **waiting.as_mut().expect(ENDED);
            let result = ready!(service.poll_ready(cx));
            let (mut service, request) = *waiting.take().expect(ENDED);
            result.map_err(Into::into)?;
            let future = service.call(request);
            self.set(Self::Called(future));
        }
        match self.project() {
            CallProj::Called(future) => {
                future.poll(cx).map_ok(|response| response.map(Body::new)).map_err(Into::into)
            }
            CallProj::Failed(error) => Poll::Ready(Err(error.take().expect(ENDED))),
            CallProj::Unready(_) => unreachable!("it was called above"),
        }
    }
}
