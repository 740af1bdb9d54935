//! `process` and `ProcessesBuilder`: settings of a pool of worker processes.

mod error;
mod protocol;
mod python;
mod reload;

use std::{fmt, sync::Arc, thread, time::Duration};

pub use self::{
    error::{ApplicationError, ExitedEarly, GateError, NotReady, ReloadFailed},
    protocol::{Http, Protocol},
    python::{Python, asgi, wsgi},
};
pub(super) use self::{protocol::SOCKET, reload::reload};
use super::{
    builder::{IDLE_TIMEOUT, QUEUE_PER_WORKER, QUEUE_TIMEOUT, REQUEST_TIMEOUT, RESTART_BACKOFF},
    error::NoWorkers,
    executor::process::{Launch, ProcessExecutor},
    pool::Pool,
    processes::Processes,
    supervisor,
};
use crate::{
    error::{Error, Kind},
    net::process::{Command, ExitStatus},
    policy::{
        backoff::Backoff,
        restart::{Config, GiveUp, Recycle, Scale},
    },
    semantics::forwarded::ForwardedFields,
};

/// Default of [`ProcessesBuilder::start_timeout`]: 60 s. A large application imports for ten seconds on
/// a cold disk.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Default of [`ProcessesBuilder::stop_timeout`]: 10 s, as docker has it.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Exits in a row without a completed request after which a worker is given up. With the pauses
/// between restarts the last of these is 12.7 s after the first.
pub(super) const GIVE_UP_FAILURES: u32 = 9;

/// How long a worker that was given up is not started: a minute, in which a person has repaired what
/// was deployed.
pub(super) const GIVE_UP_PAUSE: Duration = Duration::from_secs(60);

/// Functions that are called with what happens to workers.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) on_spawn: Option<Hook<WorkerProcess>>,
    pub(super) on_ready: Option<Hook<WorkerProcess>>,
    pub(super) on_exit: Option<Hook<(WorkerProcess, ExitStatus)>>,
}

/// A pool of worker processes, each of which is started from `command` and serves HTTP/1.1 on a Unix
/// socket. See [`Processes`] for the contract.
///
/// By default a worker inherits its listening socket as descriptor 3, as in socket activation (with
/// `LISTEN_FDS` and `LISTEN_PID`, see sd_listen_fds(3)). gunicorn and others take it by themselves, and must
/// not be told to bind to it as well; uvicorn must be told:
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
/// A program that wants to listen by itself is given a path: [`ProcessesBuilder::socket_path`].
pub fn process(command: Command) -> ProcessesBuilder {
    ProcessesBuilder::new(Http::new(command))
}

/// A worker process, as hooks are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerProcess {
    /// Number of the worker in its pool, never used again.
    pub number: u64,
    /// Id of the process.
    pub pid: u32,
    /// Generation: 0, and a higher one after each reload.
    pub generation: u64,
}

/// A function that is called with what happens to workers. It must not block: other workers wait. If it
/// panics, that is logged and the worker lives on.
pub(crate) type Hook<T> = Arc<dyn Fn(T) + Send + Sync>;

/// Settings for [`Processes`]; made by [`process`].
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
    /// How requests are sent to workers, and the command.
    protocol: P,
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
    start_timeout: Duration,
    backoff: Backoff,
    give_up: Option<GiveUp>,
    recycle: Recycle,
    fields: ForwardedFields,
}

impl<P: Protocol> ProcessesBuilder<P> {
    fn new(protocol: P) -> Self {
        let workers = thread::available_parallelism().map_or(1, Into::into);
        let settings = Settings {
            workers,
            scale: Scale { idle_timeout: IDLE_TIMEOUT, ..Scale::FIXED },
            queue: None,
            queue_timeout: QUEUE_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            max_abandoned: None,
            start_timeout: START_TIMEOUT,
            backoff: RESTART_BACKOFF,
            give_up: Some(GiveUp { failures: GIVE_UP_FAILURES, pause: GIVE_UP_PAUSE }),
            recycle: Recycle { at_a_time: 1, ..Recycle::NEVER },
            fields: ForwardedFields::new(),
        };
        let (hooks, stop_timeout, watches_memory) = (Hooks::default(), STOP_TIMEOUT, false);
        Self { settings, hooks, stop_timeout, watches_memory, protocol }
    }

    /// Sets how many workers there are. The default is the number of cores.
    pub fn workers(mut self, n: usize) -> Self {
        self.settings.workers = n;
        self
    }

    /// Sets how many workers there may be. The default is the number of [`workers`](Self::workers): a pool of one
    /// size.
    ///
    /// Below that number a worker is added when a request waits, or when fewer than
    /// [`spare_workers`](Self::spare_workers) are idle. No more start at a time than are ready, so the number
    /// doubles at most in the time in which a worker starts. A worker that had no request for
    /// [`idle_timeout`](Self::idle_timeout) ends if others are idle, and [`workers`](Self::workers) are left. During
    /// a reload the number stays.
    ///
    /// ```no_run
    /// use vestibule::worker::{self, Command};
    ///
    /// let app = Command::new("gunicorn").arg("mysite.wsgi");
    /// let django = worker::process(app).workers(2).max_workers(16).spare_workers(1).start()?;
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

    /// Sets how long a worker beyond [`workers`](Self::workers) and the spare ones has no request before it ends.
    /// It ends after half as long again, at most. The default is [`IDLE_TIMEOUT`](super::IDLE_TIMEOUT).
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
    /// A request that no worker has begun by then is never sent to one.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.queue_timeout = timeout;
        self
    }

    /// Sets how long a worker may take for a request, a streamed body included. The default is
    /// [`REQUEST_TIMEOUT`]. A worker that takes longer is ended and replaced.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Sets how many workers may be on their way out at a time because they exceeded the request
    /// timeout, while others have their place. The default is as many as there may be workers. At the
    /// bound the next one keeps its place, and is ended when one of the others has exited.
    pub fn max_abandoned(mut self, max: usize) -> Self {
        self.settings.max_abandoned = Some(max.max(1));
        self
    }

    /// Sets how long a worker may take until it is ready. The default is [`START_TIMEOUT`]. One that
    /// takes longer is ended, and started again after a pause.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.settings.start_timeout = timeout;
        self
    }

    /// Sets how long a worker that was asked to end (`SIGTERM`) may take until it is killed, with all
    /// processes of its group. The default is [`STOP_TIMEOUT`].
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Replaces a worker that has completed so many requests, and up to `jitter` more, by chance, so
    /// that workers are not due together. By default none is replaced.
    ///
    /// A worker that is due works on until its replacement is ready, and then ends its request.
    pub fn recycle_after(mut self, requests: u64, jitter: u64) -> Self {
        self.settings.recycle.requests = Some(requests.max(1));
        self.settings.recycle.jitter = jitter;
        self
    }

    /// Replaces a worker that has been ready for so long. By default none is replaced.
    pub fn recycle_age(mut self, age: Duration) -> Self {
        self.settings.recycle.age = Some(age);
        self
    }

    /// Replaces a worker whose resident memory, with that of its descendants, is above so many bytes.
    /// It is looked at after an answer, once a second at most. By default none is replaced.
    pub fn recycle_memory(mut self, bytes: u64) -> Self {
        self.settings.recycle.memory = Some(bytes);
        self.watches_memory = true;
        self
    }

    /// Sets how many workers are replaced at a time, at most, for one of the reasons above. So many
    /// processes there may be beyond the number of workers. The default is 1.
    pub fn recycle_at_a_time(mut self, n: usize) -> Self {
        self.settings.recycle.at_a_time = n.max(1);
        self
    }

    /// Sets which fields tell a worker who the client is. The default is that of
    /// [`ForwardedFields::new`].
    pub fn forwarded_fields(mut self, fields: ForwardedFields) -> Self {
        self.settings.fields = fields;
        self
    }

    /// Calls `hook` with each process that was started.
    pub fn on_spawn(mut self, hook: impl Fn(WorkerProcess) + Send + Sync + 'static) -> Self {
        self.hooks.on_spawn = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` with each process that has become ready.
    pub fn on_ready(mut self, hook: impl Fn(WorkerProcess) + Send + Sync + 'static) -> Self {
        self.hooks.on_ready = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` with each process that has ended, and how.
    pub fn on_exit(
        mut self,
        hook: impl Fn((WorkerProcess, ExitStatus)) + Send + Sync + 'static,
    ) -> Self {
        self.hooks.on_exit = Some(Arc::new(hook));
        self
    }

    /// Sets the pauses between restarts, without an end.
    #[cfg(test)]
    pub(super) fn backoff(mut self, backoff: Backoff) -> Self {
        (self.settings.backoff, self.settings.give_up) = (backoff, None);
        self
    }

    /// Starts the processes and blocks until each is ready.
    ///
    /// # Errors
    /// [`Kind::Internal`]; no process is left behind. Its source is [`ExitedEarly`], [`NotReady`], an
    /// [`io::Error`](std::io::Error) if a process could not be started, or
    /// [`NoWorkers`](super::NoWorkers).
    pub fn start(self) -> Result<Processes, Error> {
        let Self { settings, hooks, stop_timeout, watches_memory, protocol } = self;
        let Settings { workers, queue, queue_timeout, request_timeout, start_timeout, .. } =
            settings;
        if workers == 0 {
            return Err(Error::new(Kind::Internal, NoWorkers));
        }
        let lanes = protocol.lanes();
        let workers = workers.saturating_mul(lanes);
        let scale = Scale {
            max: settings.scale.max.saturating_mul(lanes),
            spare: settings.scale.spare.saturating_mul(lanes),
            ..settings.scale
        };
        let most = workers.max(scale.max);
        let (command, protocol) =
            protocol.into_parts().map_err(|error| Error::new(Kind::Internal, error))?;
        let launch =
            Launch { command, protocol, start_timeout, stop_timeout, watches_memory, hooks };
        let config = Config {
            workers,
            scale,
            max_abandoned: settings.max_abandoned.unwrap_or(most),
            request_timeout,
            // It is asked to end at once; `stop_timeout` is its grace.
            grace: Duration::ZERO,
            backoff: settings.backoff,
            start_timeout: Some(start_timeout),
            give_up: settings.give_up,
            stable_after: None,
            recycle: Recycle { seed: std::process::id().into(), ..settings.recycle },
        };
        let queue = queue.unwrap_or_else(|| most.saturating_mul(QUEUE_PER_WORKER));
        let pool = Pool::new(config, queue, queue_timeout);
        let executor = ProcessExecutor::new(pool.clone(), launch)
            .map_err(|error| Error::new(Kind::Internal, error))?;
        let supervisor = supervisor::start(&pool, executor)?;
        Ok(Processes::new(pool, supervisor, settings.fields, start_timeout))
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
