//! A service for tests that asserts tower's contract: `poll_ready` before every call.

use std::{
    future::Future,
    task::{Context, Poll},
};

use tower_service::Service;

/// Calls `f`; panics if this instance was not polled ready before.
pub(crate) struct AssertReady<F> {
    ready: bool,
    f: F,
}

impl<F> AssertReady<F> {
    pub(crate) fn new(f: F) -> Self {
        Self { ready: false, f }
    }
}

impl<F: Clone> Clone for AssertReady<F> {
    fn clone(&self) -> Self {
        Self::new(self.f.clone())
    }
}

impl<R, F, Fut, T, E> Service<R> for AssertReady<F>
where
    F: FnMut(R) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Fut {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        (self.f)(request)
    }
}
