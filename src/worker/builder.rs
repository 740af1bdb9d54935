//! `threads` and `ThreadsBuilder`: settings of a pool of worker threads.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    executor::thread::{Factory, ThreadExecutor},
    settings::PoolSettings,
    supervisor,
    threads::Threads,
};
use crate::{
    HttpService,
    error::{BoxError, Error},
    policy::restart::{Config, Recycle},
};

/// Time between the request timeout and the abandonment of a worker: 50 ms. An application that awaits ends at
/// once; the grace period is for a thread that is scheduled late.
const GRACE: Duration = Duration::from_millis(50);

/// Creates a pool of `n` worker threads. Each builds an instance of the application with `factory`, on its own
/// thread, so the application need not be `Send`. See [`Threads`] for the contract.
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

/// Creates a pool of `n` worker threads like [`threads`], with a factory that returns a `Result`.
///
/// An error during the start is the source of the error of [`ThreadsBuilder::start`]. After that, a failed build is
/// retried with growing pauses.
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

/// Settings of [`Threads`], created by [`threads`] and [`try_threads`].
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
    settings: PoolSettings,
    recycle: Recycle,
}

impl<A: HttpService + 'static> ThreadsBuilder<A> {
    fn new(workers: usize, factory: Arc<Factory<A>>) -> Self {
        let recycle = Recycle { at_a_time: 1, ..Recycle::NEVER };
        Self { factory, settings: PoolSettings::new(workers), recycle }
    }

    /// Sets the maximum number of workers. The default is `n`: a pool of constant size.
    ///
    /// Up to this number, a worker is added when a request waits or fewer than
    /// [`spare_workers`](Self::spare_workers) are idle. At most as many workers start at a time as are ready. A
    /// worker without a request for [`idle_timeout`](Self::idle_timeout) exits if others are idle and `n` remain.
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

    /// Sets the number of idle workers to keep, within [`max_workers`](Self::max_workers). The default is 0: a
    /// worker is added only when a request waits.
    pub fn spare_workers(mut self, n: usize) -> Self {
        self.settings.scale.spare = n;
        self
    }

    /// Sets the idle time after which a worker beyond `n` and the spare ones exits. It exits after 1.5 times this
    /// time at the latest. The default is [`IDLE_TIMEOUT`](super::IDLE_TIMEOUT).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.scale.idle_timeout = timeout;
        self
    }

    /// Sets how many requests may wait for a worker. The default is [`QUEUE_PER_WORKER`](super::QUEUE_PER_WORKER) times the maximum number
    /// of workers.
    pub fn queue(mut self, len: usize) -> Self {
        self.settings.queue = Some(len);
        self
    }

    /// Sets how long a request may wait for a permit and a worker. The default is [`QUEUE_TIMEOUT`](super::QUEUE_TIMEOUT).
    /// A request that no worker has begun by then is never run.
    /// With a timeout of zero, a request is refused unless a worker is idle.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// Sets how long the application may take for a request, a streamed body included. The default is
    /// [`REQUEST_TIMEOUT`](super::REQUEST_TIMEOUT).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Sets how many threads may be abandoned at a time. A thread is abandoned, and replaced, when its request
    /// exceeds the request timeout and does not return. The default is the maximum number of workers; with 0 none is
    /// abandoned.
    ///
    /// There are never more threads than workers and `max` together, except during a replacement. At the bound, a further stuck worker is not
    /// replaced: its caller gets [`Kind::Timeout`](crate::error::Kind::Timeout), and it takes no other request until its call returns. It is
    /// abandoned and replaced as soon as an abandoned thread exits. While all workers are stuck, requests wait in
    /// the queue until the queue timeout.
    pub fn max_abandoned(mut self, max: usize) -> Self {
        self.settings.max_abandoned = Some(max);
        self
    }

    /// Replaces a worker after `requests` requests and a random number of up to `jitter` further ones, so that workers are
    /// not replaced all at once. By default workers are not replaced.
    ///
    /// The worker continues until its replacement has built its application, and then finishes its request and exits. One
    /// worker is replaced at a time. A replacement that cannot be built is tried again after a pause.
    pub fn recycle_after(mut self, requests: u64, jitter: u64) -> Self {
        self.recycle.requests = Some(requests.max(1));
        self.recycle.jitter = jitter;
        self
    }

    /// Replaces a worker that has been ready for `age`, as [`recycle_after`](Self::recycle_after) does. By default workers
    /// are not replaced.
    pub fn recycle_age(mut self, age: Duration) -> Self {
        self.recycle.age = Some(age);
        self
    }

    /// Starts the threads and blocks until each has built its application.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal), after all threads have exited. Its source is the factory's error,
    /// [`FactoryPanicked`](super::FactoryPanicked), an [`io::Error`](std::io::Error) if a thread or its
    /// runtime could not be started, or [`NoWorkers`](super::NoWorkers) if `n` is 0.
    pub fn start(self) -> Result<Threads, Error> {
        let recycle = Recycle { seed: std::process::id().into(), ..self.recycle };
        let pool = self.settings.build(|config| Config { grace: GRACE, recycle, ..config })?;
        let executor = ThreadExecutor::new(pool.clone(), self.factory);
        let supervisor = supervisor::start(&pool, executor)?;
        Ok(Threads::new(pool, supervisor))
    }
}

impl<A> fmt::Debug for ThreadsBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadsBuilder")
            .field("settings", &self.settings)
            .field("recycle", &self.recycle)
            .finish_non_exhaustive()
    }
}
