//! `process` and `ProcessesBuilder`: settings of a pool of worker processes.

mod error;
mod protocol;
mod python;

use std::{fmt, sync::Arc, thread, time::Duration};

pub(super) use self::protocol::SOCKET;
pub use self::{
    error::{ApplicationError, ExitedEarly, GateError, NotReady},
    protocol::{Http, Protocol},
    python::{Python, asgi, wsgi},
};
use super::{
    executor::process::{HealthCheck, Launch, ProcessExecutor},
    processes::Processes,
    settings::{PoolSettings, RESTART_BACKOFF},
    supervisor,
};
use crate::{
    conn::tunnels::TunnelOptions,
    error::{BoxError, Error, Kind},
    net::{
        process::{Command, ExitStatus},
        raise_open_files,
    },
    policy::{
        backoff::Backoff,
        restart::{Config, GiveUp, Recycle},
    },
    semantics::forwarded::ForwardedFields,
};

/// Default of [`ProcessesBuilder::start_timeout`]: 60 s. A large application takes ten seconds to import from a cold
/// disk.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Default of [`ProcessesBuilder::stop_timeout`]: 10 s, as in Docker.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Open files for each concurrent request of a process that runs several, 4: two of a worker, and two of its replacement.
const LANE_FILES: usize = 4;

/// Default of [`ProcessesBuilder::health_timeout`]: 5 s, in which a process whose memory was swapped out answers.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of checks is at least 10 ms and at most a year: an `Instant` cannot hold an arbitrary `Duration`.
const MIN_HEALTH_INTERVAL: Duration = Duration::from_millis(10);
const MAX_HEALTH_INTERVAL: Duration = Duration::from_secs(3600 * 24 * 365);

/// Consecutive exits without a completed request after which a worker is not restarted for [`GIVE_UP_PAUSE`]: 9. With
/// the pauses between restarts, the last of them is 12.7 s after the first.
pub(super) const GIVE_UP_FAILURES: u32 = 9;

/// Pause before a worker that failed too often is started again: 1 min, in which an operator may have repaired the
/// deployment.
pub(super) const GIVE_UP_PAUSE: Duration = Duration::from_secs(60);

/// The functions that are called when processes start, become ready and end.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) on_spawn: Option<Hook<WorkerProcess>>,
    pub(super) on_ready: Option<Hook<WorkerProcess>>,
    pub(super) on_exit: Option<Hook<(WorkerProcess, ExitStatus)>>,
}

/// Creates a pool of worker processes, which run `command` and serve HTTP/1.1 on a Unix socket. See [`Processes`] for
/// the contract.
///
/// By default a worker inherits its listening socket as descriptor 3, as in socket activation (with `LISTEN_FDS` and
/// `LISTEN_PID`, see sd_listen_fds(3)). Gunicorn uses it without an option, and needs no address to bind; uvicorn
/// needs an option:
///
/// ```no_run
/// use vestibule::worker::{self, Command};
///
/// let gunicorn = Command::new("gunicorn").arg("mysite.wsgi");
/// let django = worker::process(gunicorn).workers(4).start()?;
///
/// let uvicorn = Command::new("uvicorn").args(["--fd", "3", "mysite.asgi:application"]);
/// let starlette = worker::process(uvicorn).workers(4).start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
///
/// For a program that binds its socket itself, see [`ProcessesBuilder::socket_path`].
pub fn process(command: Command) -> ProcessesBuilder {
    ProcessesBuilder::new(Http::new(command))
}

/// The identity of a worker process, passed to hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerProcess {
    /// The number of the worker in its pool. It is never reused.
    pub number: u64,
    /// The process id.
    pub pid: u32,
    /// Generation: 0, and a higher one after each reload.
    pub generation: u64,
}

/// A function that is called on an event of a process. It must not block, since it runs on the thread that serves all
/// processes. A panic is logged and has no other effect.
pub(crate) type Hook<T> = Arc<dyn Fn(T) + Send + Sync>;

/// Settings of [`Processes`], created by [`process`].
///
/// ```no_run
/// use std::time::Duration;
/// use vestibule::worker::{self, Command};
///
/// let app = Command::new("gunicorn").arg("mysite.wsgi");
/// let django = worker::process(app.current_dir("/srv/mysite/current"))
///     .workers(4)
///     .request_timeout(Duration::from_secs(60))
///     .ready_path("/health")
///     .recycle_after(10_000, 1_000)
///     .recycle_memory(512 << 20)
///     .start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
#[must_use = "nothing runs before start()"]
pub struct ProcessesBuilder<P = Http> {
    settings: Settings,
    hooks: Hooks,
    stop_timeout: Duration,
    watches_memory: bool,
    health_check: HealthCheck,
    /// The protocol between the pool and its workers, and the command.
    protocol: P,
}

#[derive(Debug)]
struct Settings {
    pool: PoolSettings,
    start_timeout: Duration,
    drain_timeout: Option<Duration>,
    backoff: Backoff,
    give_up: Option<GiveUp>,
    recycle: Recycle,
    fields: ForwardedFields,
    tunnels: TunnelOptions,
}

impl<P: Protocol> ProcessesBuilder<P> {
    fn new(protocol: P) -> Self {
        let workers = thread::available_parallelism().map_or(1, Into::into);
        let settings = Settings {
            pool: PoolSettings::new(workers),
            start_timeout: START_TIMEOUT,
            drain_timeout: None,
            backoff: RESTART_BACKOFF,
            give_up: Some(GiveUp { failures: GIVE_UP_FAILURES, pause: GIVE_UP_PAUSE }),
            recycle: Recycle { at_a_time: 1, ..Recycle::NEVER },
            fields: ForwardedFields::new(),
            tunnels: TunnelOptions::off(),
        };
        Self {
            settings,
            hooks: Hooks::default(),
            stop_timeout: STOP_TIMEOUT,
            watches_memory: false,
            health_check: HealthCheck::default(),
            protocol,
        }
    }

    /// Sets the number of worker processes. The default is the number of cores.
    pub fn workers(mut self, n: usize) -> Self {
        self.settings.pool.workers = n;
        self
    }

    /// Sets the maximum number of workers. The default is the number of [`workers`](Self::workers): a pool of constant
    /// size.
    ///
    /// Up to this number, a worker is added when a request waits or fewer than [`spare_workers`](Self::spare_workers)
    /// are idle. At most as many workers start at a time as are ready, so their number at most doubles in the time that
    /// a start takes. A worker without a request for [`idle_timeout`](Self::idle_timeout) is stopped if others are idle
    /// and [`workers`](Self::workers) remain. During a reload the number does not change. Processes that run several
    /// requests at a time share them, so as many stay as there are requests at the same time within that timeout.
    ///
    /// ```no_run
    /// use vestibule::worker::{self, Command};
    ///
    /// let app = Command::new("gunicorn").arg("mysite.wsgi");
    /// let django = worker::process(app).workers(2).max_workers(16).spare_workers(1).start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn max_workers(mut self, max: usize) -> Self {
        self.settings.pool.scale.max = max;
        self
    }

    /// Sets the number of idle workers to keep, within [`max_workers`](Self::max_workers). The default is 0: a worker
    /// is added only when a request waits.
    pub fn spare_workers(mut self, n: usize) -> Self {
        self.settings.pool.scale.spare = n;
        self
    }

    /// Sets the idle time after which a worker beyond [`workers`](Self::workers) and the spare ones is stopped. It is
    /// stopped after 1.5 times this time at the latest. The default is [`IDLE_TIMEOUT`](super::IDLE_TIMEOUT).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.pool.scale.idle_timeout = timeout;
        self
    }

    /// Sets how many requests may wait for a worker. The default is [`QUEUE_PER_WORKER`](super::QUEUE_PER_WORKER) times the maximum number of
    /// workers.
    pub fn queue(mut self, len: usize) -> Self {
        self.settings.pool.queue = Some(len);
        self
    }

    /// Sets how long a request may wait for a permit and a worker. The default is [`QUEUE_TIMEOUT`](super::QUEUE_TIMEOUT).
    /// A request that no worker has begun by then is never sent to one.
    /// With a timeout of zero, a request is refused unless a worker is idle.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.pool.queue_timeout = timeout;
        self
    }

    /// Sets how long a worker may take for a request, a streamed body included. The default is
    /// [`REQUEST_TIMEOUT`](super::REQUEST_TIMEOUT). A worker that takes longer is stopped and replaced.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.pool.request_timeout = timeout;
        self
    }

    /// Sets how many workers may be abandoned at a time: stopped because they exceeded the request timeout, and already
    /// replaced. The default is the maximum number of workers; 0 counts as 1. At the bound, a further stuck worker is
    /// not replaced until an abandoned one has exited.
    pub fn max_abandoned(mut self, max: usize) -> Self {
        self.settings.pool.max_abandoned = Some(max.max(1));
        self
    }

    /// Sets how long a worker may take to become ready. The default is [`START_TIMEOUT`]. A worker that takes longer is
    /// stopped, and started again after a pause.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.settings.start_timeout = timeout;
        self
    }

    /// Sets how long a worker may take to finish its request after it was [reloaded](Processes::reload) or recycled. The
    /// default is the rest of its request timeout. A worker that takes longer is stopped like one that exceeds the request
    /// timeout, and its request fails with [`DrainTimeout`](super::DrainTimeout).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.settings.drain_timeout = Some(timeout);
        self
    }

    /// Sets the time between `SIGTERM` to a worker and `SIGKILL` to its process group. The default is
    /// [`STOP_TIMEOUT`].
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Replaces a worker after `requests` completed requests, at least 1, and a random number of up to `jitter` further ones,
    /// so that workers are not replaced all at once. By default workers are not replaced.
    ///
    /// The worker continues until its replacement is ready, and then finishes its request and exits.
    pub fn recycle_after(mut self, requests: u64, jitter: u64) -> Self {
        self.settings.recycle.requests = Some(requests.max(1));
        self.settings.recycle.jitter = jitter;
        self
    }

    /// Replaces a worker that has been ready for `age`. By default workers are not replaced.
    pub fn recycle_age(mut self, age: Duration) -> Self {
        self.settings.recycle.age = Some(age);
        self
    }

    /// Replaces a worker whose resident memory, together with that of its descendants, exceeds `bytes`. It is measured
    /// after a response, at most once a second. By default workers are not replaced.
    pub fn recycle_memory(mut self, bytes: u64) -> Self {
        self.settings.recycle.memory = Some(bytes);
        self.watches_memory = true;
        self
    }

    /// Sets how many worker processes are recycled at a time, which is also the number of additional processes that start
    /// or are idle. The default is 1; 0 counts as 1. Processes that finish the requests that they have begun are not
    /// counted.
    pub fn recycle_at_a_time(mut self, n: usize) -> Self {
        self.settings.recycle.at_a_time = n.max(1);
        self
    }

    /// Checks a process that has had no request for `interval`, and again after each further one. By default there are no
    /// checks: a process that hangs is replaced when a request exceeds the [request timeout](Self::request_timeout).
    ///
    /// The check of [`process`] is that of [`ready_path`](ProcessesBuilder::ready_path). A process of [`wsgi`] or [`asgi`]
    /// is asked for a reply, which needs no code of the application: it shows a process that is stopped, a thread that holds
    /// the interpreter's lock, or an event loop that is blocked. A process with a request is never checked. One that fails is
    /// replaced like a [recycled](Self::recycle_after) one: it is stopped when its replacement is ready. If it has answered
    /// with another status, it serves requests until then. If it has not answered within the
    /// [timeout](Self::health_timeout), it gets no request before it answers a check, also if that leaves no other worker.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use vestibule::worker::{self, Command};
    ///
    /// let puma = Command::new("puma").args(["--bind", "unix://{socket}"]);
    /// let site = worker::process(puma).socket_path().health_check(Duration::from_secs(30)).start()?;
    ///
    /// let starlette = worker::asgi("app.main:app").health_check(Duration::from_secs(30)).start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn health_check(mut self, interval: Duration) -> Self {
        self.health_check.interval = Some(interval.clamp(MIN_HEALTH_INTERVAL, MAX_HEALTH_INTERVAL));
        self
    }

    /// Sets the time in which a process must answer a [check](Self::health_check). The default is [`HEALTH_TIMEOUT`].
    pub fn health_timeout(mut self, timeout: Duration) -> Self {
        self.health_check.timeout = timeout;
        self
    }

    /// Sets the fields that describe the client to the workers. The default is [`ForwardedFields::new`].
    pub fn forwarded_fields(mut self, fields: ForwardedFields) -> Self {
        self.settings.fields = fields;
        self
    }

    /// Calls `hook` when a process has been started. It must not block, since it runs on the thread that serves all
    /// processes.
    pub fn on_spawn(mut self, hook: impl Fn(WorkerProcess) + Send + Sync + 'static) -> Self {
        self.hooks.on_spawn = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` when a process has become ready. It must not block.
    pub fn on_ready(mut self, hook: impl Fn(WorkerProcess) + Send + Sync + 'static) -> Self {
        self.hooks.on_ready = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` when a process has ended, with its status. It must not block.
    pub fn on_exit(
        mut self,
        hook: impl Fn((WorkerProcess, ExitStatus)) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.on_exit = Some(Arc::new(hook));
        self
    }

    fn allow_tunnels(mut self, options: TunnelOptions) -> Self {
        self.settings.tunnels = options;
        self
    }

    /// Sets the pauses between restarts, and never gives up.
    #[cfg(test)]
    pub(super) fn backoff(mut self, backoff: Backoff) -> Self {
        (self.settings.backoff, self.settings.give_up) = (backoff, None);
        self
    }

    /// Starts the processes and blocks until each is ready.
    ///
    /// # Errors
    /// [`Kind::Internal`], after all processes have ended. Its source is [`ExitedEarly`], [`NotReady`], an
    /// [`io::Error`](std::io::Error) if a process could not be started, or [`NoWorkers`](super::NoWorkers).
    pub fn start(self) -> Result<Processes, Error> {
        let Self { settings, hooks, stop_timeout, watches_memory, health_check, protocol } = self;
        let Settings { start_timeout, drain_timeout, backoff, give_up, recycle, .. } = settings;
        let internal = |error| Error::new(Kind::Internal, error);
        let (refork_after, grace) = (protocol.refork_after(), protocol.grace());
        check_refork(refork_after, recycle.requests).map_err(internal)?;
        let lanes = protocol.lanes();
        let pool = settings.pool.with_lanes(lanes);
        if lanes > 1 {
            raise_open_files(pool.max_workers().saturating_mul(LANE_FILES));
        }
        let pool = pool.build(|config| Config {
            backoff,
            start_timeout: Some(start_timeout),
            drain_timeout,
            grace,
            give_up,
            recycle: Recycle {
                seed: std::process::id().into(),
                at_a_time: recycle.at_a_time.saturating_mul(lanes),
                ..recycle
            },
            refork_after,
            ..config
        })?;
        let (command, protocol) = protocol.into_parts().map_err(internal)?;
        let launch = Launch {
            command,
            protocol,
            start_timeout,
            stop_timeout,
            watches_memory,
            health_check,
            hooks,
        };
        let executor =
            ProcessExecutor::new(pool.clone(), launch).map_err(|error| internal(error.into()))?;
        let supervisor = supervisor::start(&pool, executor)?;
        Ok(Processes::new(pool, supervisor, settings.fields, settings.tunnels, start_timeout))
    }
}

/// Checks that a worker becomes the process that forks others before it is recycled.
fn check_refork(refork_after: Option<u64>, recycle_after: Option<u64>) -> Result<(), BoxError> {
    match (refork_after, recycle_after) {
        (Some(refork), Some(recycle)) if refork >= recycle => Err(format!(
            "refork_after({refork}) needs recycle_after() above it, not {recycle}: a worker that is to be recycled is not chosen"
        )
        .into()),
        _ => Ok(()),
    }
}

impl<P: fmt::Debug> fmt::Debug for ProcessesBuilder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessesBuilder")
            .field("settings", &self.settings)
            .field("stop_timeout", &self.stop_timeout)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}
