//! `Steps`: a stream of the results of an asynchronous step.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

type Step<T, S> = Pin<Box<dyn Future<Output = (Option<T>, S)> + Send>>;

/// Calls a step repeatedly with a state. The step returns an item and the next state; without an item the stream
/// ends.
pub(super) struct Steps<T, S> {
    step: fn(S) -> Step<T, S>,
    state: Option<S>,
    running: Option<Step<T, S>>,
}

impl<T, S> Steps<T, S> {
    pub(super) fn new(state: S, step: fn(S) -> Step<T, S>) -> Self {
        Self { step, state: Some(state), running: None }
    }
}

impl<T, S: Unpin> Stream for Steps<T, S> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        if let Some(state) = this.state.take() {
            this.running = Some((this.step)(state));
        }
        let Some(running) = &mut this.running else { return Poll::Ready(None) };
        let (item, state) = ready!(running.as_mut().poll(cx));
        this.running = None;
        if item.is_some() {
            this.state = Some(state);
        }
        Poll::Ready(item)
    }
}
