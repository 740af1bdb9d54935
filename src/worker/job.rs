//! A request on its way through the pool, and the future of its answer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::sync::OwnedSemaphorePermit;

use super::{queue::Pool, stream::Stream};
use crate::{
    Request, Response,
    error::{BoxError, Error},
};

pub(super) type Answer = Result<Response, BoxError>;

/// A request, shared by its caller, the queue, a worker and the watch.
///
/// ```text
/// Queued --begin--> Begun --answer--> Answered --poll--> Over
///   |  \--refuse---------------------/
///   \--leave--> Over <--leave-- Begun (the work goes on, nobody waits)
/// ```
pub(super) struct Job {
    /// Not begun by then, it is never run.
    pub(super) queue_until: Instant,
    /// The caller's own deadline.
    pub(super) deadline: Option<Instant>,
    cell: Mutex<Cell>,
}

struct Cell {
    phase: Phase,
    caller: Option<Waker>,
    /// The place in the pool; given back when the work has truly ended.
    permit: Option<OwnedSemaphorePermit>,
    /// The body that a worker is still sending.
    stream: Option<Arc<Stream>>,
}

#[allow(clippy::large_enum_variant, reason = "it lives in one allocation, beside the lock")]
enum Phase {
    Queued(Request),
    Begun,
    Answered(Answer),
    Over,
}

impl Job {
    pub(super) fn new(
        request: Request,
        permit: OwnedSemaphorePermit,
        queue_until: Instant,
        deadline: Option<Instant>,
    ) -> Arc<Self> {
        let phase = Phase::Queued(request);
        let cell = Cell { phase, caller: None, permit: Some(permit), stream: None };
        Arc::new(Self { queue_until, deadline, cell: Mutex::new(cell) })
    }

    /// The request, once, for the worker that begins it; `None` if nobody waits for it any more.
    pub(super) fn begin(&self) -> Option<Request> {
        let mut cell = self.lock();
        match std::mem::replace(&mut cell.phase, Phase::Begun) {
            Phase::Queued(request) => Some(request),
            other @ (Phase::Begun | Phase::Answered(_) | Phase::Over) => {
                cell.phase = other;
                None
            }
        }
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.lock().phase, Phase::Queued(_))
    }

    /// Answers the caller. Only the first answer counts; if the caller has left, none does.
    pub(super) fn answer(&self, answer: Answer) {
        let mut cell = self.lock();
        if !matches!(cell.phase, Phase::Begun | Phase::Queued(_)) {
            drop(cell);
            return; // and drops the answer, with no lock held
        }
        let before = std::mem::replace(&mut cell.phase, Phase::Answered(answer));
        let caller = cell.caller.take();
        drop(cell);
        drop(before);
        if let Some(w) = caller {
            w.wake();
        }
    }

    /// Answers a request that will not be run, and gives its place back.
    pub(super) fn refuse(&self, error: Error) {
        drop(self.take_permit());
        self.answer(Err(error.into()));
    }

    /// From here on the body is sent through `stream`.
    pub(super) fn set_stream(&self, stream: Arc<Stream>) {
        self.lock().stream = Some(stream);
    }

    /// Ends the exchange over the worker's head: the answer if there is none yet, else the body.
    pub(super) fn cut(&self, error: impl Fn() -> Error) {
        self.answer(Err(error().into()));
        let stream = self.lock().stream.take();
        if let Some(s) = stream {
            s.abort(error());
        }
    }

    pub(super) fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.lock().permit.take()
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Answer> {
        let mut cell = self.lock();
        match std::mem::replace(&mut cell.phase, Phase::Over) {
            Phase::Answered(answer) => Poll::Ready(answer),
            other @ (Phase::Queued(_) | Phase::Begun | Phase::Over) => {
                cell.phase = other;
                match &mut cell.caller {
                    Some(w) => w.clone_from(cx.waker()),
                    None => cell.caller = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// The caller waits no more. True if the request was still queued: it will not be run.
    fn leave(&self) -> bool {
        let mut cell = self.lock();
        let before = std::mem::replace(&mut cell.phase, Phase::Over);
        let queued = matches!(before, Phase::Queued(_));
        let permit = if queued { cell.permit.take() } else { None };
        drop(cell);
        drop((before, permit));
        queued
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        // Nothing panics while the lock is held, so a poisoned one is still whole.
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future of [`Threads`](super::Threads).
///
/// Dropped before a worker began the request, the request is never run. Dropped later, the work
/// goes on to its end, and counts until then.
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
            && job.leave()
        {
            pool.forget_one();
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
