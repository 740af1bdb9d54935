//! `Threads`: the handle of a pool of worker threads, and its builder.

use std::{
    fmt,
    future::Future,
    io, mem,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, TryAcquireError};
use tower_service::Service;

use super::{
    error::{FactoryPanicked, StillRunning},
    job::{Job, ResponseFuture},
    queue::{Pool, Spawn, after, closed, queue_timeout},
    state::{Options, Stats},
    thread as worker, watch,
};
use crate::{
    Request, Response,
    error::{BoxError, Error, Kind},
    net::Gate,
    peer::Deadline,
};

/// Requests that may wait for each worker, unless set otherwise: 64. At 10 ms for each, the last
/// one waits 0.6 s; a longer queue only makes answers that nobody waits for any more.
pub const QUEUE_PER_WORKER: usize = 64;

/// How long a request may wait for a worker, unless set otherwise: 10 s, about as long as a person
/// waits before reloading the page.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the application may take over a request, unless set otherwise: 30 s, as Gunicorn's.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of `n` worker threads, at least one. Each has its own instance of the application, made
/// by `factory` on its own thread: it need not be `Send`. See [`Threads`].
///
/// The application is any `Service` from [`Request`] to a response with any body of [`Bytes`],
/// such as an `axum::Router`, or what [`blocking`](super::blocking()) makes of a plain function.
pub fn threads<F>(n: usize, factory: F) -> Builder<F> {
    let workers = n.max(1);
    let options = Options {
        workers,
        queue: workers.saturating_mul(QUEUE_PER_WORKER),
        queue_timeout: QUEUE_TIMEOUT,
        request_timeout: REQUEST_TIMEOUT,
        max_written_off: workers,
    };
    Builder { options, factory }
}

/// Settings for [`Threads`]; made by [`threads`].
#[must_use = "nothing runs before start()"]
pub struct Builder<F> {
    options: Options,
    factory: F,
}

impl<F> Builder<F> {
    /// How many requests may wait for a worker; [`QUEUE_PER_WORKER`] for each if not set.
    pub fn queue(mut self, len: usize) -> Self {
        self.options.queue = len;
        self
    }

    /// How long a request may wait for a place and a worker; [`QUEUE_TIMEOUT`] if not set. One
    /// that was not begun by then is never run.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.options.queue_timeout = timeout;
        self
    }

    /// How long the application may take, a streamed body included; [`REQUEST_TIMEOUT`] if not
    /// set.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.options.request_timeout = timeout;
        self
    }

    /// How many stuck threads may be replaced at a time; as many as there are workers if not set.
    /// It bounds the threads: there are never more than `n + max`.
    pub fn max_written_off(mut self, max: usize) -> Self {
        self.options.max_written_off = max;
        self
    }

    /// Starts the threads, and returns when each has built its application: it blocks this thread
    /// for as long as the factory takes.
    ///
    /// # Errors
    /// [`Kind::Internal`] with [`FactoryPanicked`] if one could not be built, or with the
    /// [`io::Error`] if a thread could not be started. No thread is left behind.
    pub fn start<A, B>(self) -> Result<Threads, Error>
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Service<Request, Response = Response<B>>,
        A::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let factory = Arc::new(self.factory);
        let spawn: Box<Spawn> = Box::new(move |pool, id, started| {
            let factory = factory.clone();
            let thread = thread::Builder::new().name(format!("worker-{id}"));
            thread.spawn(move || worker::run(pool, id, &*factory, started))
        });
        let owner = Owner(Pool::new(self.options, spawn));
        start(&owner.0).inspect_err(|_| {
            owner.0.close();
            join(&owner.0);
        })?;
        Ok(Threads { owner: Arc::new(owner), place: Place::None })
    }
}

impl<F> fmt::Debug for Builder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}

fn start(pool: &Arc<Pool>) -> Result<(), Error> {
    let internal = |e: io::Error| Error::new(Kind::Internal, e);
    let (tx, started) = mpsc::channel();
    for _ in 0..pool.options.workers {
        let id = pool.lock().joined();
        match (pool.spawn)(pool.clone(), id, Some(tx.clone())) {
            Ok(handle) => pool.lock().handles.push(handle),
            Err(e) => {
                pool.left(id, true);
                return Err(internal(e));
            }
        }
    }
    drop(tx);
    for _ in 0..pool.options.workers {
        let built = started
            .recv()
            .unwrap_or_else(|_| Err(FactoryPanicked { message: "its thread ended".to_owned() }));
        built.map_err(|e| Error::new(Kind::Internal, e))?;
    }
    let watched = pool.clone();
    let watch = thread::Builder::new().name("worker-watch".to_owned());
    pool.lock().threads += 1;
    let watch = watch.spawn(move || watch::run(&watched)).map_err(|e| {
        pool.thread_ended();
        internal(e)
    })?;
    pool.lock().handles.push(watch);
    Ok(())
}

/// Waits for threads that are about to end.
fn join(pool: &Pool) {
    let handles = mem::take(&mut pool.lock().handles);
    for handle in handles {
        // A panic of a thread was logged and answered for when it happened.
        let _ = handle.join();
    }
}

/// The handle of a pool of worker threads: a `Service`, cheap to clone.
///
/// **Places.** There are as many as workers and queue together. `poll_ready` reserves one for this
/// handle, a clone has none; `call` spends it, and it is free again when the work has truly ended:
/// after the last byte of a streamed body, and not when a client leaves. When there is none,
/// `poll_ready` waits; after the queue timeout it is ready all the same and the next `call`
/// answers with [`Kind::Overloaded`]. `poll_ready` never fails. A handle that is ready and not
/// called keeps its place until it is dropped.
///
/// **Waiting.** Workers take requests in the order they came. One that no worker began within the
/// queue timeout, or before its [`Deadline`], is never run and answered with
/// [`Kind::Overloaded`]; nor is one whose caller is gone.
///
/// **Working.** A request that takes longer than the request timeout, or its [`Deadline`], is
/// answered with [`Kind::Timeout`]. An application that awaits is dropped at that moment. One that
/// blocks cannot be: past the request timeout its thread is written off and a new one takes its
/// place. When it comes back, it ends. At most `max_written_off` are replaced at a time.
///
/// **Panics.** One costs one answer, [`Kind::Internal`]. The instance is dropped and built anew
/// on the same thread, with growing pauses if that fails; the other workers do not notice.
///
/// **Bodies.** Bytes and files are handed over whole. Any other body is sent by the worker, which
/// is busy until it has ended, the client is gone, or the request timeout has passed since it
/// began: put a [`ResponseBufferLayer`](crate::layer::ResponseBufferLayer) in front, and slow
/// clients do not count.
///
/// **Runtime.** Each worker runs a tokio runtime of its own for one request at a time. Tasks that
/// the application spawned there go on between requests, and end with the instance.
///
/// **End.** When the last handle is dropped, the pool is closed: what is queued is done, then the
/// threads end. [`shutdown`](Self::shutdown) also waits for that.
pub struct Threads {
    pub(super) owner: Arc<Owner>,
    place: Place,
}

/// All handles together; closes the pool with the last of them.
pub(super) struct Owner(pub(super) Arc<Pool>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What `poll_ready` has got for the next call.
#[derive(Default)]
enum Place {
    #[default]
    None,
    Waiting(Waiting),
    /// With what is left of the queue timeout.
    Held(OwnedSemaphorePermit, Duration),
    /// There was none in time.
    Refused(Error),
}

struct Waiting {
    since: Instant,
    acquire: Pin<Box<Acquire>>,
}

/// `None` when the time is over.
type Acquire =
    dyn Future<Output = Option<Result<OwnedSemaphorePermit, AcquireError>>> + Send + Sync;

impl Threads {
    /// How the pool is doing now.
    pub fn stats(&self) -> Stats {
        self.owner.0.stats()
    }

    /// Open while there is a place: for [`Serve::gate`](crate::serve::Serve::gate), so that clients
    /// wait in the kernel while workers and queue are full. It does not keep the pool alive.
    pub fn gate(&self) -> Gate {
        Gate::new(self.owner.0.places.clone())
    }

    /// Takes no more work from any handle: calls are answered with [`Kind::Overloaded`]. What is
    /// queued is still done, then the threads end.
    pub fn close(&self) {
        self.owner.0.close();
    }

    /// [Closes](Self::close) the pool and waits until all threads have ended, at most for
    /// `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`] with [`StillRunning`] when that time is over. What is still queued then
    /// is answered and not run; threads at work end when they are done.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        let pool = &self.owner.0;
        pool.close();
        if tokio::time::timeout(within, pool.ended()).await.is_ok() {
            join(pool); // they have nothing left to do
            return Ok(());
        }
        pool.refuse_queued();
        Err(Error::new(Kind::Timeout, StillRunning { threads: pool.lock().threads }))
    }

    /// A place at once, if there is one.
    fn try_reserve(&self) -> Place {
        let pool = &self.owner.0;
        match pool.places.clone().try_acquire_owned() {
            Ok(permit) => Place::Held(permit, pool.options.queue_timeout),
            Err(TryAcquireError::Closed) => Place::Refused(closed()),
            Err(TryAcquireError::NoPermits) => Place::None,
        }
    }

    fn wait(&self) -> Waiting {
        let pool = &self.owner.0;
        let acquire = pool.places.clone().acquire_owned();
        let acquire = tokio::time::timeout(pool.options.queue_timeout, acquire);
        Waiting { since: Instant::now(), acquire: Box::pin(async { acquire.await.ok() }) }
    }
}

impl Clone for Threads {
    fn clone(&self) -> Self {
        Self { owner: self.owner.clone(), place: Place::None }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Service<Request> for Threads {
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if matches!(self.place, Place::None) {
            self.place = self.try_reserve();
        }
        if matches!(self.place, Place::None) {
            self.place = Place::Waiting(self.wait());
        }
        if let Place::Waiting(waiting) = &mut self.place {
            let got = ready!(waiting.acquire.as_mut().poll(cx));
            let left = self.owner.0.options.queue_timeout.saturating_sub(waiting.since.elapsed());
            self.place = match got {
                Some(Ok(permit)) => Place::Held(permit, left),
                Some(Err(_)) => Place::Refused(closed()),
                None => Place::Refused(queue_timeout()),
            };
        }
        Poll::Ready(Ok(()))
    }

    /// A handle that was not ready gets a place if there is one, or [`Kind::Overloaded`].
    fn call(&mut self, request: Request) -> ResponseFuture {
        let mut place = mem::take(&mut self.place);
        if matches!(place, Place::None | Place::Waiting(_)) {
            place = self.try_reserve();
        }
        let (permit, left) = match place {
            Place::Held(permit, left) => (permit, left),
            Place::Refused(e) => return ResponseFuture::refused(e),
            Place::None | Place::Waiting(_) => return ResponseFuture::refused(queue_timeout()),
        };
        let allowed = after(Instant::now(), left);
        let deadline = request.extensions().get::<Deadline>().map(|d| d.0);
        let queue_until = deadline.map_or(allowed, |d| d.min(allowed));
        let job = Job::new(request, permit, queue_until, deadline);
        let pool = &self.owner.0;
        pool.push(&job);
        ResponseFuture::waiting(job, pool.clone())
    }
}
