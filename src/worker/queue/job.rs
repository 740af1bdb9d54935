//! `Job`: a request in the pool, and its response.

use std::{
    sync::{Arc, OnceLock, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    super::error::DeadlineExceeded,
    ahead::{Lookahead, NotSent},
    queue_timeout,
    streamed::Streamed,
};
use crate::{
    Request, Response,
    conn::RequestInfo,
    error::{BoxError, Error, Kind},
    policy::restart::after,
    sync::{Mutex, MutexGuard},
};

/// The result of a request for its caller.
pub(crate) type Answer = Result<Response, BoxError>;

/// The state of a job when its caller disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// In the queue: it is never run.
    Queued,
    /// Sent ahead to a worker: it is run if it cannot be taken back.
    Ahead,
    /// Begun or ended.
    Begun,
}

/// A request that its caller, the queue, a worker and the supervisor share.
///
/// ```text
/// Queued --begin--> Running --answer--> Answered --poll--> Ended
///   ^------requeue-----/
///   |  \--answer (refused)---------------^                  ^
///   \--cancel-----------------------------------------------|
///                     Running --cancel (the worker continues)---/
/// ```
///
/// A queued job may have been sent ahead to a busy worker. It remains queued while it can be taken back; if it
/// cannot, the worker has begun it.
pub(crate) struct Job {
    request: RequestInfo,
    times: Times,
    /// The end of its queue timeout after it was queued again.
    again_until: OnceLock<Instant>,
    cell: Mutex<Cell>,
}

/// The limits of a job's time in the queue.
pub(crate) struct Times {
    pub(crate) queued_at: Instant,
    /// The time at which its queue timeout passes.
    pub(crate) queue_until: Instant,
    /// The [`Deadline`](crate::peer::Deadline) of the request.
    pub(crate) deadline: Option<Instant>,
}

/// Why the answer of a worker is not needed any more.
#[cfg(feature = "process")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// The caller has left.
    CallerLeft,
    /// The job was [aborted](Job::abort): it took too long.
    Aborted,
}

struct Cell {
    phase: Phase,
    /// Whether the request was sent ahead to a busy worker and not taken back.
    is_ahead: bool,
    caller: Option<Waker>,
    /// Woken when the caller leaves, and when the job is aborted.
    worker: Option<Waker>,
    /// Returned to the pool when the work has ended.
    permit: Option<OwnedSemaphorePermit>,
    /// The body that a worker is sending.
    body: Option<Arc<Streamed>>,
    /// Whether its worker is abandoned unless it ends it soon.
    is_overdue: bool,
    is_aborted: bool,
    /// The number of workers that may have received the request and did not answer.
    failed_attempts: u8,
}

impl Cell {
    /// Registers the waker of the worker.
    #[cfg(feature = "process")]
    fn register_worker(&mut self, cx: &Context<'_>) {
        match &mut self.worker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.worker = Some(cx.waker().clone()),
        }
    }
}

/// Time that an idle worker has for taking a job whose queue timeout has passed: 1 s, a multiple of the time that a woken
/// thread takes on a busy machine. So a job with a short timeout is not refused while its worker is on its way.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// Maximum number of workers to which a request that may have been received is sent: 2, since a request that crashes
/// its worker must not crash all of them.
const MAX_ATTEMPTS: u8 = 2;

#[allow(clippy::large_enum_variant, reason = "it lives in one allocation, beside the lock")]
enum Phase {
    Queued(Request),
    /// The caller has left, and the request was sent ahead to a worker.
    Orphaned(Request),
    Running,
    Answered(Answer),
    Ended,
}

impl Job {
    pub(crate) fn new(request: Request, permit: OwnedSemaphorePermit, times: Times) -> Arc<Self> {
        let info = RequestInfo::from_request(&request);
        let phase = Phase::Queued(request);
        let permit = Some(permit);
        let (caller, worker) = (None, None);
        let cell = Cell {
            phase,
            is_ahead: false,
            caller,
            worker,
            permit,
            body: None,
            is_overdue: false,
            is_aborted: false,
            failed_attempts: 0,
        };
        let again_until = OnceLock::new();
        Arc::new(Self { request: info, times, again_until, cell: Mutex::new(cell) })
    }

    /// Returns the identity of the request for log lines.
    pub(crate) fn request(&self) -> &RequestInfo {
        &self.request
    }

    pub(crate) fn queued_at(&self) -> Instant {
        self.times.queued_at
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.times.deadline
    }

    /// Returns the time at which the job is refused if no worker has begun it.
    pub(crate) fn expires_at(&self) -> Instant {
        self.limited(self.queue_until())
    }

    /// Returns the time at which the job is refused if an idle worker was woken for it and has not begun it.
    pub(super) fn expires_with_idle_at(&self) -> Instant {
        self.limited(after(self.queue_until(), IDLE_GRACE))
    }

    /// Returns the deadline, or `until` if that is earlier.
    fn limited(&self, until: Instant) -> Instant {
        self.times.deadline.map_or(until, |deadline| deadline.min(until))
    }

    fn queue_until(&self) -> Instant {
        *self.again_until.get().unwrap_or(&self.times.queue_until)
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        now >= self.expires_at()
    }

    /// Returns the error of an expired job: a timeout if its deadline was first, else overload.
    pub(crate) fn expiry(&self) -> Error {
        match self.times.deadline {
            Some(deadline) if deadline <= self.queue_until() => {
                Error::new(Kind::Timeout, DeadlineExceeded)
            }
            _ => queue_timeout(),
        }
    }

    /// Takes the request out for the worker that runs it. Returns `None` if the job was cancelled.
    pub(super) fn begin(&self) -> Option<Request> {
        let mut cell = self.lock();
        match std::mem::replace(&mut cell.phase, Phase::Running) {
            Phase::Queued(request) => Some(request),
            other @ (Phase::Orphaned(_) | Phase::Running | Phase::Answered(_) | Phase::Ended) => {
                cell.phase = other;
                None
            }
        }
    }

    /// Sends the queued request ahead to a busy worker. Returns its id there.
    ///
    /// # Errors
    /// Those of [`Lookahead::send_ahead`].
    pub(super) fn send_ahead(&self, to: &dyn Lookahead, now: Instant) -> Result<u32, NotSent> {
        let mut cell = self.lock();
        let Phase::Queued(request) = &cell.phase else { return Err(NotSent::Unsuitable) };
        let id = to.send_ahead(request, now)?;
        cell.is_ahead = true;
        Ok(id)
    }

    /// Records that the request was taken back from the worker. Returns whether the job is queued: otherwise its caller
    /// has left, and the job has ended.
    pub(super) fn take_back(&self) -> bool {
        let mut cell = self.lock();
        cell.is_ahead = false;
        match std::mem::replace(&mut cell.phase, Phase::Ended) {
            Phase::Orphaned(request) => {
                let permit = cell.permit.take();
                drop(cell);
                drop((request, permit));
                false
            }
            other @ (Phase::Queued(_) | Phase::Running | Phase::Answered(_) | Phase::Ended) => {
                cell.phase = other;
                true
            }
        }
    }

    /// Returns whether the request was sent ahead and not taken back or begun.
    pub(super) fn is_ahead(&self) -> bool {
        self.lock().is_ahead
    }

    /// Takes the request out for the worker to which it was sent ahead. Returns `None` if it was taken back.
    pub(super) fn begin_ahead(&self) -> Option<Request> {
        let mut cell = self.lock();
        if !std::mem::take(&mut cell.is_ahead) {
            return None;
        }
        let (after, request) = match std::mem::replace(&mut cell.phase, Phase::Ended) {
            Phase::Queued(request) => (Phase::Running, Some(request)),
            Phase::Orphaned(request) => (Phase::Ended, Some(request)),
            other @ (Phase::Running | Phase::Answered(_) | Phase::Ended) => (other, None),
        };
        cell.phase = after;
        request
    }

    /// Queues the request again after a worker could not answer it. If the worker may have received it, the queue timeout
    /// ends at `sent_until`: the time that the worker had it is not time in the queue. Returns `false` if the caller was
    /// answered or has left, or if the request has failed too often.
    pub(crate) fn requeue(&self, request: Request, sent_until: Option<Instant>) -> bool {
        let mut cell = self.lock();
        cell.failed_attempts += u8::from(sent_until.is_some());
        if !matches!(cell.phase, Phase::Running) || cell.failed_attempts >= MAX_ATTEMPTS {
            drop(cell);
            return false; // and drops the request without the lock
        }
        cell.phase = Phase::Queued(request);
        if let Some(until) = sent_until {
            let _ = self.again_until.set(until); // only once, by `MAX_ATTEMPTS`
        }
        true
    }

    /// Returns whether a worker runs it and its caller waits for the result.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.lock().phase, Phase::Running)
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.lock().phase, Phase::Queued(_))
    }

    /// Sends the result to the caller. Only the first result has an effect, and none after the caller has left.
    pub(crate) fn answer(&self, answer: Answer) {
        let mut cell = self.lock();
        if !matches!(cell.phase, Phase::Running | Phase::Queued(_)) {
            drop(cell);
            return; // and drops the answer without the lock
        }
        let before = std::mem::replace(&mut cell.phase, Phase::Answered(answer));
        let caller = cell.caller.take();
        drop(cell);
        drop(before);
        if let Some(waker) = caller {
            waker.wake();
        }
    }

    /// Refuses a job that is not run and not ahead, and returns its permit. Calls `count` before the caller is woken,
    /// and not at all if the caller has left.
    pub(crate) fn refuse(&self, error: Error, count: impl FnOnce()) {
        let mut cell = self.lock();
        let permit = cell.permit.take();
        if !matches!(cell.phase, Phase::Queued(_)) {
            drop(cell);
            return;
        }
        let before = std::mem::replace(&mut cell.phase, Phase::Answered(Err(error.into())));
        let caller = cell.caller.take();
        drop(cell);
        count();
        drop((before, permit));
        if let Some(waker) = caller {
            waker.wake();
        }
    }

    /// Announces that the rest of the response is sent through `body`.
    pub(crate) fn set_body(&self, body: Arc<Streamed>) {
        self.lock().body = Some(body);
    }

    /// Returns whether the head of a response was sent whose body is not complete.
    #[cfg(feature = "process")]
    pub(crate) fn has_body(&self) -> bool {
        self.lock().body.is_some()
    }

    /// Ends the exchange instead of the worker: returns the error, or aborts the body.
    pub(crate) fn abort(&self, error: impl Fn() -> Error) {
        self.answer(Err(error().into()));
        let mut cell = self.lock();
        cell.is_aborted = true;
        let (body, worker) = (cell.body.take(), cell.worker.take());
        drop(cell);
        if let Some(body) = body {
            body.abort(error());
        }
        if let Some(waker) = worker {
            waker.wake();
        }
    }

    /// Waits until the job is [aborted](Self::abort) or its caller has left. The worker is woken for an abort also after the
    /// caller has left.
    #[cfg(feature = "process")]
    pub(crate) fn poll_departure(&self, cx: &Context<'_>) -> Poll<Departure> {
        let mut cell = self.lock();
        if cell.is_aborted {
            return Poll::Ready(Departure::Aborted);
        }
        cell.register_worker(cx);
        let has_left = matches!(cell.phase, Phase::Ended);
        if has_left { Poll::Ready(Departure::CallerLeft) } else { Poll::Pending }
    }

    pub(crate) fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.lock().permit.take()
    }

    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Answer> {
        let mut cell = self.lock();
        match std::mem::replace(&mut cell.phase, Phase::Ended) {
            Phase::Answered(answer) => Poll::Ready(answer),
            other @ (Phase::Queued(_) | Phase::Orphaned(_) | Phase::Running | Phase::Ended) => {
                cell.phase = other;
                match &mut cell.caller {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => cell.caller = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// Records that its worker is abandoned unless it ends it soon. Must be called before [`abort`](Self::abort), after which
    /// the caller leaves.
    pub(crate) fn set_overdue(&self) {
        self.lock().is_overdue = true;
    }

    /// Returns whether its worker is abandoned unless it ends it soon.
    #[cfg(feature = "process")]
    pub(crate) fn is_overdue(&self) -> bool {
        self.lock().is_overdue
    }

    /// Waits until the caller of a running job has left.
    #[cfg(feature = "process")]
    pub(crate) fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        let mut cell = self.lock();
        if matches!(cell.phase, Phase::Ended) {
            return Poll::Ready(());
        }
        cell.register_worker(cx);
        Poll::Pending
    }

    /// Cancels the job, whose caller has left.
    pub(crate) fn cancel(&self) -> Cancelled {
        let mut cell = self.lock();
        let before = match std::mem::replace(&mut cell.phase, Phase::Ended) {
            Phase::Queued(request) if cell.is_ahead => {
                cell.phase = Phase::Orphaned(request);
                return Cancelled::Ahead;
            }
            before => before,
        };
        let was_queued = matches!(before, Phase::Queued(_));
        let permit = if was_queued { cell.permit.take() } else { None };
        let worker = cell.worker.take();
        drop(cell);
        drop((before, permit));
        if let Some(waker) = worker {
            waker.wake();
        }
        if was_queued { Cancelled::Queued } else { Cancelled::Begun }
    }

    fn lock(&self) -> MutexGuard<'_, Cell> {
        // Nothing panics while the lock is held.
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod models;
