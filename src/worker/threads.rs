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

/// The handle of a pool of worker threads: a `tower::Service`, cheap to clone.
///
/// **Permits.** The pool has a permit for each worker and each slot of the queue. `poll_ready` reserves one for
/// this handle; a clone has none. `call` uses it, and it is released when the work has ended:
/// after the last byte of a streamed body, and not when the client disconnects. If no permit is free,
/// `poll_ready` waits for one up to the queue timeout; then it is ready, and the next `call` returns
/// [`Kind::Overloaded`]. `poll_ready` never fails. A handle that is ready and not called keeps its
/// permit until it is dropped. Waiting in `poll_ready` needs a Tokio runtime with time enabled.
///
/// **Queue.** An idle worker takes the oldest request, so a request never waits for a busy worker while
/// another one is idle. A request that waits longer than the queue timeout fails with
/// [`Kind::Overloaded`], and one whose [`Deadline`] passes in the queue with [`Kind::Timeout`]. Neither is
/// run, and neither is a request whose future was dropped.
///
/// **Timeout.** A request that takes longer than the request timeout, or its [`Deadline`], fails with
/// [`Kind::Timeout`]. If the application awaits, its future is dropped at that time. If it blocks, it cannot be
/// interrupted: after the request timeout its thread is abandoned and replaced, and exits when the call returns.
/// [`max_abandoned`](super::ThreadsBuilder::max_abandoned) limits the number of such threads.
///
/// **Panics.** A panic fails one request with [`Kind::Internal`]. The instance is dropped, its thread exits, and a
/// new one is started: at once, or after a delay from 100 ms to 10 s if no request was completed since the last
/// restart, or if the application cannot be built. Other workers are not affected.
///
/// **Replacement.** A worker that has reached a limit (`recycle_...`) and all workers in a [`reload`](Self::reload)
/// continue until their replacements are built; then they finish their request and exit. No request is refused or lost.
///
/// **Bodies.** Bytes and files are passed on as a whole. For any other body the worker is busy until the body has
/// ended, the client has disconnected, or the request timeout has passed since the request began. With a
/// [`ResponseBufferLayer`](crate::layer::ResponseBufferLayer) outside of the pool, slow clients do not extend that.
///
/// **Fields.** [Lookalikes](crate::semantics::lookalike) of framing and forwarding fields are removed,
/// since CGI and WSGI applications cannot tell them from those fields.
///
/// **Runtime.** Each worker has its own Tokio runtime. Tasks that the application spawns on it continue
/// between requests, and end with the instance. A task that blocks delays the next request.
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

    /// Returns the current figures of the pool.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Returns a gate that is open while a permit is free. With [`Serve::gate`](crate::serve::Serve::gate), clients
    /// wait in the kernel while workers and queue are full. It does not keep the pool alive.
    pub fn gate(&self) -> Gate {
        self.0.gate()
    }

    /// Replaces all workers: the factory builds a new application on a new thread for each. All of them are built before
    /// the first old worker exits, so there are twice as many during a reload. Workers of the generation before may still
    /// finish their requests; while those of two generations do, the next reload waits for them.
    ///
    /// A reload continues if the future is dropped.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal) with [`ReloadFailed`](super::ReloadFailed): the factory has failed,
    /// or not all new workers were built within `within` after their start. They are discarded, and the old ones continue
    /// to serve requests. A factory that blocks is not interrupted. While one of an earlier reload blocks, so that not all new
    /// workers can be started, a reload fails after `within`.
    ///
    /// ```
    /// use std::{fs, time::Duration};
    /// use vestibule::{Response, worker};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let file = dir.path().join("greeting");
    /// # fs::write(&file, "hello")?;
    /// let path = file.clone();
    /// let threads = worker::try_threads(2, move || {
    ///     let greeting = fs::read_to_string(&path)?;
    ///     Ok::<_, std::io::Error>(worker::blocking(move |_request| Response::new(greeting.clone())))
    /// })
    /// .start()?;
    /// # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # rt.block_on(async {
    /// fs::write(&file, "good morning")?;
    /// threads.reload(Duration::from_secs(10)).await?;
    /// assert_eq!(threads.stats().generation, 1);
    /// # Ok::<_, vestibule::BoxError>(())
    /// # })?;
    /// # Ok::<_, vestibule::BoxError>(())
    /// ```
    pub async fn reload(&self, within: Duration) -> Result<(), Error> {
        self.0.reload(within).await
    }

    /// Closes the pool for all handles: further calls return
    /// [`Kind::Overloaded`](crate::error::Kind::Overloaded). Queued requests are still run, then the threads exit.
    pub fn close(&self) {
        self.0.close();
    }

    /// [Closes](Self::close) the pool and waits until all threads have exited, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`](crate::error::Kind::Timeout) with [`StillRunning`](super::StillRunning) when that time has
    /// passed. Requests that are still queued fail with [`Kind::Overloaded`](crate::error::Kind::Overloaded) and are
    /// not run. Running requests continue, and their threads exit after them.
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

    /// Queues the request. A handle that is not ready takes a permit if one is free; otherwise the result is
    /// [`Kind::Overloaded`](crate::error::Kind::Overloaded).
    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        lookalike::strip(request.headers_mut());
        self.0.submit(request.map(Body::new))
    }
}
