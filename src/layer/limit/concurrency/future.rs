//! The future of a request: releases its permit at the end of the response, and records a sample of the latency.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;

use super::{
    super::response_guard::attach_guard,
    permits::{Permit, SampleStart},
};
use crate::{
    Body, Response,
    body::HttpBody,
    error::{BoxError, Error, Kind},
};

/// The future of [`ConcurrencyLimit`](super::ConcurrencyLimit).
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(state: State<F>) -> Self {
        Self { state }
    }
}

#[pin_project(project = StateProj)]
pub(super) enum State<F> {
    Inner {
        #[pin]
        future: F,
        permit: Option<Permit>,
        /// `None` for a fixed limit.
        sample: Option<SampleStart>,
    },
    Refused(Option<Error>),
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Inner { future, permit, sample } => {
                let answer = ready!(future.poll(cx));
                let answer = answer.map(|r| r.map(Body::new)).map_err(Into::into);
                let permit = permit.take().expect("not polled after completion");
                permit.permits().on_response(sample.take().filter(|_| is_latency_sample(&answer)));
                // With an error the permit is released here.
                Poll::Ready(answer.map(|response| attach_guard(response, permit)))
            }
            StateProj::Refused(e) => {
                Poll::Ready(Err(e.take().expect("not polled after completion").into()))
            }
        }
    }
}

/// Returns whether the result is a sample of the service's latency. Quick errors would make it seem fast.
fn is_latency_sample(answer: &Result<Response, BoxError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(e) => Error::find(&**e).is_some_and(|e| e.kind() == Kind::Timeout),
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
