//! `threads` and `ThreadsBuilder`: settings of a pool of worker threads.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    error::NoWorkers,
    executor::thread::{Factory, ThreadExecutor},
    pool::Pool,
    supervisor,
    threads::Threads,
};
use crate::{
    HttpService,
    error::{BoxError, Error, Kind},
    policy::{
        backoff::Backoff,
        restart::{Config, Recycle, Scale},
    },
};

/// Default number of requests that may wait for each worker: 64. At 10 ms for each, the last one waits
/// 0.6 s; a longer queue only produces answers whose callers have left.
pub const QUEUE_PER_WORKER: usize = 64;

/// Default of [`ThreadsBuilder::queue_timeout`]: 10 s, about as long as a person waits before they reload the
/// page.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of `idle_timeout` of pools whose size follows the demand: a minute, in which a burst of requests is
/// likely to be followed by another.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Default of [`ThreadsBuilder::request_timeout`]: 30 s, as Gunicorn's.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after the request timeout a worker is abandoned. An application that awaits ends at once;
/// 50 ms covers a thread that is scheduled late.
const GRACE: Duration = Duration::from_millis(50);

/// Pauses between restarts that fail: from 100 ms, which a restarting database does not notice, to
/// 10 s, after which a repaired one is noticed soon enough.
pub(super) const RESTART_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// A pool of `n` worker threads. Each builds an instance of the application with `factory`, on its own
/// thread: the application need not be `Send`. See [`Threads`] for the contract.
///
/// The application is any [`HttpService`], such as an `axum::Router`, or a
/// [`blocking`](super::blocking()) function. For a factory that can fail there is [`try_threads`].
///
/// ```
/// use vestibule::{Response, worker};
///
/// let threads = worker::threads(8, || worker::blocking(|_request| Response::new("hello"))).start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
pub fn threads<F, A>(n: usize, factory: F) -> ThreadsBuilder<A>
where
    F: Fn() -> A + Send + Sync + 'static,
    A: HttpService + 'static,
{
    ThreadsBuilder::new(n, Arc::new(move || Ok(factory())))
}

/// A pool of `n` worker threads, as [`threads`], whose factory returns a `Result`.
///
/// An error at the start is the source of the error of [`ThreadsBuilder::start`]. A worker that cannot be
/// built later is tried again, with growing pauses.
///
/// ```
/// use std::fs;
/// use vestibule::{Response, worker};
///
/// let threads = worker::try_threads(2, || {
///     let greeting = fs::read_to_string("no/such/file")?;
///     Ok::<_, std::io::Error>(worker::blocking(move |_request| Response::new(greeting.clone())))
/// });
/// let error = threads.start().unwrap_err();
/// assert!(error.to_string().contains("No such file"));
/// ```
pub fn try_threads<F, A, E>(n: usize, factory: F) -> ThreadsBuilder<A>
where
    F: Fn() -> Result<A, E> + Send + Sync + 'static,
    A: HttpService + 'static,
    E: Into<BoxError>,
{
    ThreadsBuilder::new(n, Arc::new(move || factory().map_err(Into::into)))
}

/// Settings for [`Threads`]; made by [`threads`] and [`try_threads`].
///
/// ```
/// use std::time::Duration;
/// use vestibule::{Response, worker};
///
/// let threads = worker::threads(8, || worker::blocking(|_request| Response::new("hello")))
///     .queue(100)
///     .queue_timeout(Duration::from_secs(5))
///     .request_timeout(Duration::from_secs(60))
///     .max_abandoned(2)
///     .start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
#[must_use = "nothing runs before start()"]
pub struct ThreadsBuilder<A> {
    factory: Arc<Factory<A>>,
    settings: Settings,
}

#[derive(Debug)]
struct Settings {
    workers: usize,
    scale: Scale,
    /// `None`: by the number of workers.
    queue: Option<usize>,
    queue_timeout: Duration,
    request_timeout: Duration,
    max_abandoned: Option<usize>,
}

impl<A: HttpService + 'static> ThreadsBuilder<A> {
    fn new(workers: usize, factory: Arc<Factory<A>>) -> Self {
        let settings = Settings {
            workers,
            scale: Scale { idle_timeout: IDLE_TIMEOUT, ..Scale::FIXED },
            queue: None,
            queue_timeout: QUEUE_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            max_abandoned: None,
        };
        Self { factory, settings }
    }

    /// Sets how many workers there may be. The default is `n`: a pool of one size.
    ///
    /// Below that number a worker is added when a request waits, or when fewer than
    /// [`spare_workers`](Self::spare_workers) are idle. No more start at a time than are ready. A worker that had
    /// no request for [`idle_timeout`](Self::idle_timeout) ends if others are idle, and `n` are left.
    ///
    /// ```
    /// use vestibule::{Response, worker};
    ///
    /// let app = || worker::blocking(|_request| Response::new("hello"));
    /// let threads = worker::threads(2, app).max_workers(32).spare_workers(1).start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn max_workers(mut self, max: usize) -> Self {
        self.settings.scale.max = max;
        self
    }

    /// Sets how many workers should be idle, as far as [`max_workers`](Self::max_workers) allows. The default is
    /// 0: a worker is added when a request waits.
    pub fn spare_workers(mut self, n: usize) -> Self {
        self.settings.scale.spare = n;
        self
    }

    /// Sets how long a worker beyond `n` and the spare ones has no request before it ends. It ends after half as
    /// long again, at most. The default is [`IDLE_TIMEOUT`].
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.scale.idle_timeout = timeout;
        self
    }

    /// Sets how many requests may wait for a worker. The default is [`QUEUE_PER_WORKER`] for each that there
    /// may be.
    pub fn queue(mut self, len: usize) -> Self {
        self.settings.queue = Some(len);
        self
    }

    /// Sets how long a request may wait for a permit and a worker. The default is [`QUEUE_TIMEOUT`].
    /// A request that no worker has begun by then is never run.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// Sets how long the application may take for a request, a streamed body included. The default is
    /// [`REQUEST_TIMEOUT`].
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Sets how many threads may be abandoned at a time: threads that are stuck in a request past its
    /// timeout, and have been replaced. The default is as many as there may be workers.
    ///
    /// It bounds the threads: there are never more than workers and `max`. At the bound a further stuck worker
    /// is not replaced: its caller gets [`Kind::Timeout`], and it takes no other request until it
    /// returns. It is abandoned and replaced as soon as an abandoned thread has exited. While all
    /// workers are stuck in this way, requests wait in the queue until the queue timeout.
    pub fn max_abandoned(mut self, max: usize) -> Self {
        self.settings.max_abandoned = Some(max);
        self
    }

    /// Starts the threads and blocks until each has built its application.
    ///
    /// # Errors
    /// [`Kind::Internal`]; no thread is left behind. Its source is the factory's error,
    /// [`FactoryPanicked`](super::FactoryPanicked), an [`io::Error`](std::io::Error) if a thread or its
    /// runtime could not be started, or [`NoWorkers`] if `n` is 0.
    pub fn start(self) -> Result<Threads, Error> {
        let Settings { workers, scale, queue, queue_timeout, request_timeout, max_abandoned } =
            self.settings;
        let most = workers.max(scale.max);
        if workers == 0 {
            return Err(Error::new(Kind::Internal, NoWorkers));
        }
        let config = Config {
            workers,
            scale,
            max_abandoned: max_abandoned.unwrap_or(most),
            request_timeout,
            grace: GRACE,
            backoff: RESTART_BACKOFF,
            start_timeout: None,
            give_up: None,
            stable_after: None,
            recycle: Recycle::NEVER,
        };
        let queue = queue.unwrap_or_else(|| most.saturating_mul(QUEUE_PER_WORKER));
        let pool = Pool::new(config, queue, queue_timeout);
        let executor = ThreadExecutor::new(pool.clone(), self.factory);
        let supervisor = supervisor::start(&pool, executor)?;
        Ok(Threads::new(pool, supervisor))
    }
}

impl<A> fmt::Debug for ThreadsBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadsBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}
