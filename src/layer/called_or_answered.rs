//! `CalledOrAnswered`: the future of the inner service, or a response of the layer itself.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project::pin_project;

use crate::{
    body::{Body, HttpBody},
    semantics::problem::LocalReply,
};

/// The future of a layer that answers some requests itself and calls the inner service for all others.
#[pin_project(project = Proj)]
pub(super) enum CalledOrAnswered<F> {
    Called(#[pin] F),
    /// Boxed, so that it does not make the future larger. `None` once it was returned.
    Answered(Option<Box<Response<Body>>>),
}

impl<F> CalledOrAnswered<F> {
    /// Creates a future that returns `response`, marked as [`LocalReply`].
    pub(super) fn answered(mut response: Response<Body>) -> Self {
        response.extensions_mut().insert(LocalReply);
        Self::Answered(Some(Box::new(response)))
    }
}

impl<F, R, E> Future for CalledOrAnswered<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Proj::Called(future) => {
                Poll::Ready(ready!(future.poll(cx)).map(|response| response.map(Body::new)))
            }
            Proj::Answered(response) => {
                Poll::Ready(Ok(*response.take().expect("not polled after completion")))
            }
        }
    }
}
