//! Workers as child processes: each is sent one request at a time over its Unix socket.
//!
//! A thread with a runtime of its own exchanges requests and responses with all workers of a pool. So a
//! socket never leaves its runtime, whichever runtime a caller has, and a request that outlives its
//! caller is still read to its end by somebody who knows when the worker is idle again. Between the
//! caller and that thread there is the job, as for worker threads: no channel, but for a body that is
//! streamed.

mod life;
mod link;

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use http::uri::PathAndQuery;
use tokio::{
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
};

use self::{life::Life, link::Link};
use super::{
    super::{
        pool::Pool,
        process::{Hook, SOCKET, WorkerProcess},
    },
    Executor,
};
use crate::{
    net::process::{Command, ExitStatus, Guardian, SocketDir, bind},
    policy::restart::WorkerId,
};

/// How processes are started and ended.
pub(crate) struct Launch {
    pub(crate) command: Command,
    /// Whether a worker is given the path of its socket. If not, it inherits the socket.
    pub(crate) has_path: bool,
    pub(crate) ready: Ready,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) watches_memory: bool,
    pub(crate) on_spawn: Option<Hook<WorkerProcess>>,
    pub(crate) on_ready: Option<Hook<WorkerProcess>>,
    pub(crate) on_exit: Option<Hook<(WorkerProcess, ExitStatus)>>,
}

/// When a worker is ready.
#[derive(Debug, Clone)]
pub(crate) enum Ready {
    /// It answers `OPTIONS *`.
    Answer,
    /// It answers `GET` of this path with success.
    Path(PathAndQuery),
}

/// Why a worker is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Unwanted,
    NotReady,
}

/// What the workers of a pool share.
struct Shared {
    pool: Arc<Pool>,
    launch: Launch,
    dir: SocketDir,
    /// `None` if it cannot be started here.
    guardian: Option<Arc<Guardian>>,
}

pub(crate) struct ProcessExecutor {
    shared: Arc<Shared>,
    /// Working directories of generations, with symbolic links resolved.
    dirs: Vec<(u64, PathBuf)>,
    /// Tells each worker to end.
    stops: HashMap<WorkerId, watch::Sender<Option<Stop>>>,
    runtime: Handle,
    /// Ends the runtime's thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProcessExecutor {
    pub(crate) fn new(pool: Arc<Pool>, launch: Launch) -> io::Result<Self> {
        let dir = SocketDir::new(launch.command.owner())?;
        let guardian = Guardian::start().inspect_err(|error| {
            tracing::warn!(%error, "children of worker processes may outlive this process");
        });
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("worker-io".to_owned()).spawn(move || {
            let _ = runtime.block_on(ended); // or the executor is gone
        })?;
        let shared = Arc::new(Shared { pool, launch, dir, guardian: guardian.ok().map(Arc::new) });
        Ok(Self {
            shared,
            dirs: Vec::new(),
            stops: HashMap::new(),
            runtime: handle,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// The command of a generation.
    fn command(&mut self, generation: u64) -> io::Result<Command> {
        let command = self.shared.launch.command.clone();
        let Some(dir) = command.dir() else { return Ok(command) };
        if let Some((_, resolved)) = self.dirs.iter().find(|(of, _)| *of == generation) {
            return Ok(command.current_dir(resolved));
        }
        let resolved = fs::canonicalize(dir).map_err(|error| {
            let context = format!("cannot enter the directory {}: {error}", dir.display());
            io::Error::new(error.kind(), context)
        })?;
        // Older ones than those that work are not started any more.
        let oldest = self.shared.pool.lock().supervisor.generation();
        self.dirs.retain(|(of, _)| *of >= oldest);
        self.dirs.push((generation, resolved.clone()));
        Ok(command.current_dir(resolved))
    }

    fn stop_worker(&mut self, id: WorkerId, why: Stop) {
        if let Some(stop) = self.stops.remove(&id) {
            let _ = stop.send(Some(why)); // it may have exited
        }
    }
}

impl Executor for ProcessExecutor {
    fn start(&mut self, id: WorkerId) -> io::Result<()> {
        self.stops.retain(|_, stop| !stop.is_closed());
        let command = self.command(id.generation())?;
        let shared = &self.shared;
        let socket = SocketFile(shared.dir.path(&format!("{id}.sock")));
        let mut spawned = if shared.launch.has_path {
            command.substitute(SOCKET, socket.text()?).spawn(None)?
        } else {
            // Closed here when it is inherited: without the worker there is no listener.
            command.spawn(Some(&bind(&socket.0)?))?
        };
        if let Some(guardian) = &shared.guardian {
            spawned.guard(guardian);
        }
        let (stop, stopped) = watch::channel(None);
        self.stops.insert(id, stop);
        let life = Life { id, shared: shared.clone(), link: Link::new(socket), stopped };
        self.runtime.spawn(life.run(spawned));
        Ok(())
    }

    fn abandon(&mut self, id: WorkerId) {
        self.stop_worker(id, Stop::Unwanted);
    }

    fn stop(&mut self, id: WorkerId) {
        self.stop_worker(id, Stop::Unwanted);
    }

    fn time_out(&mut self, id: WorkerId) {
        self.stop_worker(id, Stop::NotReady);
    }
}

impl Drop for ProcessExecutor {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was reported when it happened
        }
    }
}

/// The path of a worker's socket, which is removed with this value.
struct SocketFile(PathBuf);

impl SocketFile {
    fn path(&self) -> &Path {
        &self.0
    }

    fn text(&self) -> io::Result<&str> {
        let why = "the path of the directory for temporary files is not UTF-8";
        self.0.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, why))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // the program may have removed it
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("command", &self.command)
            .field("has_path", &self.has_path)
            .field("ready", &self.ready)
            .field("start_timeout", &self.start_timeout)
            .field("stop_timeout", &self.stop_timeout)
            .finish_non_exhaustive()
    }
}
