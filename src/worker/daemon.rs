//! `daemon`, `DaemonBuilder` and `Daemon`: supervised processes without requests.

use std::{fmt, sync::Arc, thread::JoinHandle, time::Duration};

use super::{
    error::NoWorkers,
    executor::process::{Launch, ProcessExecutor, Protocol, Ready},
    handle::PoolHandle,
    pool::Pool,
    process::{GIVE_UP_FAILURES, GIVE_UP_PAUSE, WorkerProcess},
    settings::RESTART_BACKOFF,
    supervisor,
};
use crate::{
    error::{Error, Kind},
    net::process::{Command, ExitStatus},
    policy::restart::{Config, GiveUp, Recycle, Scale},
};

/// Run time after which a process counts as stable, so that its next exit is a first failure: 10 s, the longest
/// pause between restarts.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The command does not contain the path of the socket, so the process has none.
const STARTED: Protocol = Protocol::Http { has_path: true, ready: Ready::Started, lanes: 1 };

/// Runs `command` in supervised processes that get no requests: a Celery worker, a scheduler, a management command
/// with a loop. See [`Daemon`] for the contract.
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

/// Settings of a [`Daemon`], created by [`daemon`].
#[derive(Debug)]
#[must_use = "nothing runs before start()"]
pub struct DaemonBuilder {
    instances: usize,
    launch: Launch,
}

impl DaemonBuilder {
    /// Sets the number of processes. The default is 1. Zero is an error of [`start`](Self::start).
    pub fn instances(mut self, n: usize) -> Self {
        self.instances = n;
        self
    }

    /// Sets the time between the stop signal and `SIGKILL` for the process group. The default is
    /// [`STOP_TIMEOUT`](super::STOP_TIMEOUT).
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.launch.stop_timeout = timeout;
        self
    }

    /// Calls `hook` when a process has been started. It must not block, since it runs on the thread of all processes.
    pub fn on_spawn(mut self, hook: impl Fn(WorkerProcess) + Send + Sync + 'static) -> Self {
        self.launch.hooks.on_spawn = Some(Arc::new(hook));
        self
    }

    /// Calls `hook` when a process has ended, with its status. It must not block.
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
    /// [`Kind::Internal`], after all processes have ended. Its source is an [`io::Error`](std::io::Error) if a process
    /// could not be started, or [`NoWorkers`] if the number of instances is 0.
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
            drain_timeout: None,
            grace: Duration::MAX,
            backoff: RESTART_BACKOFF,
            start_timeout: None,
            give_up: Some(GiveUp { failures: GIVE_UP_FAILURES, pause: GIVE_UP_PAUSE }),
            stable_after: Some(STABLE_AFTER),
            recycle: Recycle::NEVER,
            refork_after: None,
        };
        let pool = Pool::new(config, 0, Duration::ZERO);
        let executor = ProcessExecutor::new(pool.clone(), launch)
            .map_err(|error| Error::new(Kind::Internal, error))?;
        let supervisor = supervisor::start(&pool, executor)?;
        Ok(Daemon::new(pool, supervisor))
    }
}

/// The handle of supervised processes without requests, cheap to clone.
///
/// The supervisor, process groups, guardian, environment and log are those of [`Processes`](super::Processes).
///
/// **Restarts.** A process that ends is restarted, whatever its status. The first restart is immediate. While no run
/// lasts 10 s, further ones are delayed by 100 ms to 10 s, and by a minute after nine consecutive exits. There are
/// never more processes than instances.
///
/// **Stop.** A process gets `SIGTERM`, or [another signal](super::Command::stop_signal), and its group is killed after
/// the [stop timeout](DaemonBuilder::stop_timeout). Processes are stopped by [`restart`](Self::restart), and when the
/// last handle is dropped; [`shutdown`](Self::shutdown) waits for their end.
///
/// **Log.** Output is logged line by line, like that of workers. An unexpected exit is logged as a warning.
#[derive(Clone)]
pub struct Daemon {
    handle: PoolHandle,
}

/// The figures of a [`Daemon`] at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DaemonStats {
    /// Running processes.
    pub running: usize,
    /// Processes that ended without being stopped, since the start.
    pub unexpected_exits: u64,
    /// The number of calls of [`restart`](Daemon::restart) since the start.
    pub generation: u64,
}

impl Daemon {
    fn new(pool: Arc<Pool>, supervisor: JoinHandle<()>) -> Self {
        Self { handle: PoolHandle::new(pool, supervisor) }
    }

    /// Returns the current figures.
    pub fn stats(&self) -> DaemonStats {
        let stats = self.handle.stats();
        DaemonStats {
            running: stats.workers,
            unexpected_exits: stats.unexpected_exits,
            generation: stats.generation,
        }
    }

    /// Stops all processes, and starts each again when it has ended. Symbolic links in the working directory are
    /// resolved again. A process whose restart is delayed is started at once.
    ///
    /// Returns `false`, without effect, after [`close`](Self::close).
    pub fn restart(&self) -> bool {
        self.handle.pool().restart()
    }

    /// Stops all processes for good.
    pub fn close(&self) {
        self.handle.close();
    }

    /// [Closes](Self::close) and waits until all processes have ended, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`] with [`StillRunning`](super::StillRunning) when that time has passed. The processes are still
    /// killed after their stop timeout.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.handle.shutdown(within).await
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
