//! `Threads`: the handle of a pool of worker threads.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::Duration,
};

use tower_service::Service;

use super::{future::ResponseFuture, handle::PoolHandle, pool::Pool, stats::Stats};
use crate::{
    Body, Request, Response,
    body::HttpBody,
    error::{BoxError, Error},
    net::Gate,
    semantics::lookalike,
};

/// The handle of a pool of worker threads: a [`Service`], cheap to clone.
///
/// **Permits.** The pool has one for each worker and one for each slot of the queue. `poll_ready` reserves one for this
/// handle; a clone starts without. `call` spends it, and it is free again when the work has ended:
/// after the last byte of a streamed body, and not when a client leaves. If there is none,
/// `poll_ready` waits, at most for the queue timeout; then it is ready and the next `call` is answered
/// with [`Kind::Overloaded`]. `poll_ready` never fails. A handle that is ready and not called keeps its
/// permit until it is dropped. Waiting in `poll_ready` needs a tokio runtime with time enabled.
///
/// **Queue.** An idle worker takes the oldest request. So a request never waits for a busy worker while
/// another one is idle. A request that no worker has begun within the queue timeout is answered with
/// [`Kind::Overloaded`], and one whose [`Deadline`] passes before with [`Kind::Timeout`]. Neither is
/// run, nor is a request whose caller has left.
///
/// **Timeout.** A request that takes longer than the request timeout, or its [`Deadline`], is answered
/// with [`Kind::Timeout`]. An application that awaits is dropped at that moment. One that blocks cannot
/// be interrupted: past the request timeout its thread is abandoned and another one takes its place.
/// When the abandoned thread returns, it exits. [`max_abandoned`](super::ThreadsBuilder::max_abandoned) bounds
/// their number.
///
/// **Panics.** One costs one answer, [`Kind::Internal`]. The instance is dropped and its thread exits;
/// a new one is started. That is immediate, unless no request was completed since the last restart: then
/// the pauses grow from 100 ms to 10 s, as they do while an application cannot be built. Other workers
/// are not affected.
///
/// **Bodies.** Bytes and files are passed on whole. Any other body is sent by the worker, which is busy
/// until the body has ended, the client has left, or the request timeout has passed since the request
/// began. With a [`ResponseBufferLayer`](crate::layer::ResponseBufferLayer) in front, slow clients do
/// not prolong that.
///
/// **Fields.** [Lookalikes](crate::semantics::lookalike) of framing and forwarding fields are dropped,
/// since applications that come from CGI or WSGI take them for those.
///
/// **Runtime.** Each worker has a tokio runtime of its own. Tasks that the application spawns on it go
/// on between requests, and end with the instance. A task that blocks delays the next request.
///
/// **Shutdown.** When the last handle is dropped, the pool is closed: queued requests are still run,
/// then the threads exit. [`shutdown`](Self::shutdown) waits for that.
///
/// ```
/// use tower::ServiceExt;
/// use vestibule::{Body, Request, Response, worker};
///
/// let threads = worker::threads(2, || worker::blocking(|_request| Response::new("hello"))).start()?;
/// # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// # rt.block_on(async {
/// let response = threads.oneshot(Request::new(Body::empty())).await.unwrap();
/// assert_eq!(response.body().as_bytes().unwrap(), "hello");
/// # });
/// # Ok::<_, vestibule::Error>(())
/// ```
///
/// [`Deadline`]: crate::peer::Deadline
/// [`Kind::Internal`]: crate::error::Kind::Internal
/// [`Kind::Overloaded`]: crate::error::Kind::Overloaded
/// [`Kind::Timeout`]: crate::error::Kind::Timeout
#[derive(Clone)]
pub struct Threads(pub(super) PoolHandle);

impl Threads {
    pub(super) fn new(pool: Arc<Pool>, supervisor: JoinHandle<()>) -> Self {
        Self(PoolHandle::new(pool, supervisor))
    }

    /// Returns the figures of the pool at this moment.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Returns a gate that is open while there is a permit: for
    /// [`Serve::gate`](crate::serve::Serve::gate), so that clients wait in the kernel while workers and
    /// queue are full. It does not keep the pool alive.
    pub fn gate(&self) -> Gate {
        self.0.gate()
    }

    /// Closes the pool for all handles: calls are answered with [`Kind::Overloaded`](crate::error::Kind::Overloaded). Queued requests
    /// are still run, then the threads exit.
    pub fn close(&self) {
        self.0.close();
    }

    /// [Closes](Self::close) the pool and waits until all threads have exited, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`](crate::error::Kind::Timeout) with [`StillRunning`](super::StillRunning) when that time has passed. Requests that are queued then
    /// are answered with [`Kind::Overloaded`](crate::error::Kind::Overloaded) and not run; running ones go on, and their threads exit
    /// after them.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.0.shutdown(within).await
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<B: HttpBody> Service<Request<B>> for Threads {
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.0.poll_reserve(cx));
        Poll::Ready(Ok(()))
    }

    /// Queues the request. A handle that is not ready takes a permit if one is free; otherwise the
    /// answer is [`Kind::Overloaded`](crate::error::Kind::Overloaded).
    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        lookalike::strip(request.headers_mut());
        self.0.submit(request.map(Body::new))
    }
}
