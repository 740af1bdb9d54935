//! `ResponseFuture`: the future of a response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    pool::Pool,
    queue::job::{Answer, Cancelled, Job},
};
use crate::error::{BoxError, Error};

/// The future of [`Threads`](super::Threads).
///
/// **Cancellation.** If it is dropped before a worker has begun the request, the request is never run
/// and its permit is free at once. If it is dropped later, the worker finishes the request, and the
/// permit is free after that.
///
/// # Panics
/// When it is polled after it was ready with the error of a refused request.
pub struct ResponseFuture(State);

enum State {
    Refused(Option<BoxError>),
    Waiting { job: Arc<Job>, pool: Arc<Pool> },
}

impl ResponseFuture {
    pub(super) fn refused(error: Error) -> Self {
        Self(State::Refused(Some(error.into())))
    }

    pub(super) fn waiting(job: Arc<Job>, pool: Arc<Pool>) -> Self {
        Self(State::Waiting { job, pool })
    }
}

impl Future for ResponseFuture {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match &mut self.0 {
            State::Refused(e) => Poll::Ready(Err(e.take().expect("not polled after its end"))),
            State::Waiting { job, .. } => job.poll(cx),
        }
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        if let State::Waiting { job, pool } = &self.0
            && let was @ (Cancelled::Queued | Cancelled::Ahead) = job.cancel()
        {
            pool.on_cancelled(job, was);
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
