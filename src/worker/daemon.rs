//! `daemon`, `DaemonBuilder` and `Daemon`: processes without requests.

use std::{fmt, sync::Arc, thread::JoinHandle, time::Duration};

use super::{
    builder::RESTART_BACKOFF,
    error::NoWorkers,
    executor::process::{Launch, ProcessExecutor, Protocol, Ready},
    handle::PoolHandle,
    pool::Pool,
    process::{GIVE_UP_FAILURES, GIVE_UP_PAUSE, WorkerProcess},
    supervisor,
};
use crate::{
    error::{Error, Kind},
    net::process::{Command, ExitStatus},
    policy::restart::{Config, GiveUp, Recycle, Scale},
};

/// How long a process must have run for its end to be the first failure again: 10 s, the longest pause
/// between restarts.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// It listens nowhere: no argument has the path of its socket.
const STARTED: Protocol = Protocol::Http { has_path: true, ready: Ready::Started, lanes: 1 };

/// Processes that are given no requests, each of which is started from `command`: a Celery worker, a
/// scheduler, `manage.py` with a command that loops. See [`Daemon`] for the contract.
///
/// ```no_run
/// use vestibule::worker::{self, Command};
///
/// let celery = Command::new("celery").args(["--app", "mysite", "worker", "--pool", "solo"]);
/// let celery = worker::daemon(celery.current_dir("/srv/mysite")).instances(2).start()?;
/// let beat = worker::daemon(Command::new("celery").args(["--app", "mysite", "beat"])).start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
pub fn daemon(command: Command) -> DaemonBuilder {
    DaemonBuilder { instances: 1, launch: Launch::new(command, STARTED) }
}

/// Settings for a [`Daemon`]; made by [`daemon`].
#[derive(Debug)]
#[must_use = "nothing runs before start()"]
pub struct DaemonBuilder {
    instances: usize,
    launch: Launch,
}

impl DaemonBuilder {
    /// Sets how many processes run at a time. The default is 1.
    pub fn instances(mut self, n: usize) -> Self {
        self.instances = n;
        self
    }

    /// Sets how long a process that was asked to end may take until it is killed, with all processes of
    /// its group. The default is [`STOP_TIMEOUT`](super::STOP_TIMEOUT).
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.launch.stop_timeout = timeout;
        self
    }

    /// Calls `hook` with each process that was started.
    pub fn on_spawn(mut self, hook: impl Fn(WorkerProcess) + Send + Sync + 'static) -> Self {
        self.launch.hooks.on_spawn = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` with each process that has ended, and how.
    pub fn on_exit(
        mut self,
        hook: impl Fn((WorkerProcess, ExitStatus)) + Send + Sync + 'static,
    ) -> Self {
        self.launch.hooks.on_exit = Some(Arc::new(hook));
        self
    }

    /// Starts the processes. Each counts as ready once its program runs.
    ///
    /// # Errors
    /// [`Kind::Internal`]; no process is left behind. Its source is an [`io::Error`](std::io::Error) if a
    /// process could not be started, or [`NoWorkers`] if there are to be no instances.
    pub fn start(self) -> Result<Daemon, Error> {
        let Self { instances, launch } = self;
        if instances == 0 {
            return Err(Error::new(Kind::Internal, NoWorkers));
        }
        let config = Config {
            workers: instances,
            scale: Scale::FIXED,
            max_abandoned: 0,
            request_timeout: Duration::MAX,
            grace: Duration::MAX,
            backoff: RESTART_BACKOFF,
            start_timeout: None,
            give_up: Some(GiveUp { failures: GIVE_UP_FAILURES, pause: GIVE_UP_PAUSE }),
            stable_after: Some(STABLE_AFTER),
            recycle: Recycle::NEVER,
        };
        let pool = Pool::new(config, 0, Duration::ZERO);
        let executor = ProcessExecutor::new(pool.clone(), launch)
            .map_err(|error| Error::new(Kind::Internal, error))?;
        let supervisor = supervisor::start(&pool, executor)?;
        Ok(Daemon::new(pool, supervisor))
    }
}

/// The handle of processes without requests, cheap to clone.
///
/// They have the supervisor of a pool of [`Processes`](super::Processes), and so its process groups,
/// guardian, environment and log.
///
/// **Restarts.** A process that ends, with whatever status, is started again: at once, and with growing
/// pauses, from 100 ms to 10 s, while none runs for 10 s in between. After nine such exits in a row it is
/// left alone for a minute. At no time does it run more often than there are instances.
///
/// **End.** A process is asked to end (`SIGTERM`, or [another
/// signal](super::Command::stop_signal)), and its group is killed after the [stop
/// timeout](DaemonBuilder::stop_timeout). That is so in a [`restart`](Self::restart), and when the last
/// handle is dropped; [`shutdown`](Self::shutdown) waits for it.
///
/// **Log.** Output is written to the log line by line, as that of workers is. A process that ends without
/// being asked to is a warning.
#[derive(Clone)]
pub struct Daemon {
    handle: PoolHandle,
}

/// Figures of a [`Daemon`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DaemonStats {
    /// Processes that run.
    pub running: usize,
    /// Processes that have ended without being asked to, since the start.
    pub unexpected_exits: u64,
    /// How often all were restarted, since the start.
    pub generation: u64,
}

impl Daemon {
    fn new(pool: Arc<Pool>, supervisor: JoinHandle<()>) -> Self {
        Self { handle: PoolHandle::new(pool, supervisor) }
    }

    /// Returns the figures at this moment.
    pub fn stats(&self) -> DaemonStats {
        let stats = self.handle.stats();
        DaemonStats {
            running: stats.workers,
            unexpected_exits: stats.unexpected_exits,
            generation: stats.generation,
        }
    }

    /// Asks all processes to end, and starts each again when it has ended: a symbolic link to the working
    /// directory is resolved anew. One that waits for its next start is started at once.
    ///
    /// Returns whether that was possible: not after [`close`](Self::close).
    pub fn restart(&self) -> bool {
        self.handle.pool().restart()
    }

    /// Asks all processes to end; none is started again.
    pub fn close(&self) {
        self.handle.close();
    }

    /// [Closes](Self::close) and waits until all processes have ended, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`] with [`StillRunning`](super::StillRunning) when that time has passed. They are
    /// killed when their stop timeout has.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.handle.shutdown(within).await
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
