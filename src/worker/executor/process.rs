//! Workers as child processes: each is sent one request at a time over its Unix socket.
//!
//! One thread with its own runtime (`worker-io`) supervises all workers of a pool. It also exchanges requests and
//! responses with them, until a runtime that serves connections calls the pool: then the workers are assigned to such
//! runtimes, so that a request stays on its thread. A socket is in one runtime at a time. A response is read to its end
//! even if the caller has disconnected, so that the pool knows when the worker is idle again. The caller and the task of
//! the worker share the job, as with worker threads. There is no channel, except for a streamed body.

mod accept_queue;
mod current_mould;
mod health;
mod idle_lane;
mod lane;
mod lane_group;
mod launch;
mod link;
mod mould;
mod output;
mod socket_user;
mod worker_task;
mod zygote;

use std::{
    collections::HashMap,
    fs, io,
    iter::repeat_with,
    mem,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
    time::timeout,
};

pub(in crate::worker) use self::accept_queue::connect_patiently;
use self::{
    current_mould::CurrentMould,
    lane::Lane,
    lane_group::{LaneGroup, PendingProcess},
    link::{GateLink, HttpLink, Link},
    worker_task::WorkerTask,
    zygote::{Zygote, reap_timeout},
};
pub(crate) use self::{
    health::HealthCheck,
    launch::{Launch, Protocol, Ready},
    socket_user::SocketUser,
};
use super::{
    super::{pool::Pool, process::SOCKET},
    Executor,
};
use crate::{
    net::process::{Command, Guardian, SocketDir, Spawned, bind},
    policy::restart::WorkerId,
};

/// The reason why a worker is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopReason {
    /// The supervisor has stopped or abandoned it.
    Requested,
    /// It was not ready within the start timeout.
    NotReady,
}

/// State that the workers of a pool share.
struct Shared {
    pool: Arc<Pool>,
    launch: Launch,
    dir: SocketDir,
    /// Kills remaining process groups if this process is killed. `None` if it could not be started.
    guardian: Option<Arc<Guardian>>,
    mould: CurrentMould<Arc<Zygote>>,
    /// The number of tasks that observe processes that fork workers.
    observers: watch::Sender<usize>,
}

impl Shared {
    /// Registers a process with the guardian, which kills its group if this process is killed.
    fn guard(&self, spawned: &mut Spawned) {
        if let Some(guardian) = &self.guardian {
            spawned.guard(guardian);
        }
    }

    /// Returns the mould of a generation, unless it has ended.
    fn mould(&self, generation: u64) -> Option<Arc<Zygote>> {
        self.mould.get(generation).filter(|mould| !mould.has_ended())
    }
}

/// Runs workers as child processes.
pub(crate) struct ProcessExecutor {
    shared: Arc<Shared>,
    /// The working directory of each generation, with symbolic links resolved.
    dirs: Vec<(u64, PathBuf)>,
    /// The process of each generation that forks workers.
    zygotes: Vec<(u64, Arc<Zygote>)>,
    /// Processes with a free lane, with their generation.
    groups: Vec<(u64, Arc<LaneGroup>)>,
    /// The number of the next process.
    next_process: u64,
    /// Stops each worker.
    stops: HashMap<WorkerId, watch::Sender<Option<StopReason>>>,
    runtime: Handle,
    /// Ends the runtime's thread when dropped.
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
        let (observers_tx, mut observers) = watch::channel(0);
        let end_timeout = reap_timeout(&launch).saturating_mul(3);
        let thread = thread::Builder::new().name("worker-io".to_owned()).spawn(move || {
            runtime.block_on(async {
                let _ = ended.await; // an error: the executor was dropped
                // The processes that fork workers end, too: the mould, which its parent reaps, and then the parent.
                let _ = timeout(end_timeout, observers.wait_for(|&count| count == 0)).await;
            });
        })?;
        let shared = Arc::new(Shared {
            pool,
            launch,
            dir,
            guardian: guardian.ok().map(Arc::new),
            mould: CurrentMould::default(),
            observers: observers_tx,
        });
        Ok(Self {
            shared,
            dirs: Vec::new(),
            zygotes: Vec::new(),
            groups: Vec::new(),
            next_process: 0,
            stops: HashMap::new(),
            runtime: handle,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Returns the command of a generation, with the working directory resolved.
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
        self.dirs.push((generation, resolved.clone()));
        Ok(command.current_dir(resolved))
    }

    /// Returns a free lane of a process of the worker's generation; starts a process if there is none.
    fn lane(&mut self, id: WorkerId) -> io::Result<(Arc<LaneGroup>, Link)> {
        let generation = id.generation();
        self.prune();
        let mut open = self.groups.iter().filter(|(of, _)| *of == generation);
        if let Some(joined) = open.find_map(|(_, group)| Some((group.clone(), group.join()?))) {
            return Ok(joined);
        }
        let (pending, links) = self.launch(id)?;
        let check = self.shared.launch.health_check;
        let group = LaneGroup::new(self.next_process, pending, links, check);
        self.next_process += 1;
        let link = group.join().ok_or(io::ErrorKind::InvalidInput)?;
        self.groups.push((generation, group.clone()));
        Ok((group, link))
    }

    /// Starts a process, or prepares it for being forked, and returns a link for each of its lanes.
    fn launch(&mut self, id: WorkerId) -> io::Result<(PendingProcess, Vec<Link>)> {
        let command = self.command(id.generation())?;
        let shared = self.shared.clone();
        let (mut pending, links) = match &shared.launch.protocol {
            Protocol::Http { has_path, ready, lanes } => {
                let socket = Arc::new(SocketFile(shared.dir.path(&format!("{id}.sock"))));
                let spawned = match has_path {
                    true => {
                        let command = command.allow_writes(shared.dir.root());
                        command.substitute(SOCKET, socket.text()?).spawn(None)?
                    }
                    // This process closes its copy after the spawn, so that connects fail without the worker.
                    false => command.spawn(Some(&bind(&socket.0)?))?,
                };
                let is_shared = *lanes > 1;
                let link = || Link::Http(HttpLink::new(socket.clone(), ready.clone(), is_shared));
                (PendingProcess::Spawned(spawned), repeat_with(link).take(*lanes).collect())
            }
            &Protocol::Gate { program, is_forked, lanes, is_sequential } => {
                let runtime = self.runtime.clone();
                let _runtime = runtime.enter();
                let (links, socket) =
                    gate_links(Some(program).filter(|_| !is_forked), lanes, is_sequential)?;
                let pending = match is_forked {
                    true => PendingProcess::Fork(
                        self.zygote(id.generation(), &command, program)?,
                        socket,
                    ),
                    false => PendingProcess::Spawned(command.spawn(Some(&socket))?),
                };
                (pending, links)
            }
        };
        if let PendingProcess::Spawned(spawned) = &mut pending {
            shared.guard(spawned);
        }
        Ok((pending, links))
    }

    /// Returns the process that forks the workers of a generation; starts it if there is none or it has ended.
    fn zygote(
        &mut self,
        generation: u64,
        command: &Command,
        program: &str,
    ) -> io::Result<Arc<Zygote>> {
        self.prune();
        if let Some(mould) = self.shared.mould(generation) {
            return Ok(mould);
        }
        if let Some((_, zygote)) = self.zygotes.iter().find(|(of, _)| *of == generation) {
            return Ok(zygote.clone());
        }
        let zygote = Zygote::start(command, program, self.shared.clone())?;
        self.zygotes.push((generation, zygote.clone()));
        Ok(zygote)
    }

    /// Drops processes that no lane may join, and what belongs to generations of which no worker is started again: earlier
    /// ones, and those of failed reloads. Dropping the last reference to a zygote ends it.
    fn prune(&mut self) {
        let s = self.shared.pool.lock();
        let is_live = |generation| s.supervisor.starts_generation(generation);
        let is_open =
            |group: &LaneGroup| !group.is_full() && !s.supervisor.is_closing(group.number());
        self.dirs.retain(|(of, _)| is_live(*of));
        let (groups, closed) =
            mem::take(&mut self.groups).into_iter().partition(|(of, g)| is_live(*of) && is_open(g));
        self.groups = groups;
        let (zygotes, unneeded) = mem::take(&mut self.zygotes)
            .into_iter()
            .partition(|(of, zygote)| is_live(*of) && !zygote.has_ended());
        self.zygotes = zygotes;
        let (generation, mould) = (s.supervisor.generation(), &self.shared.mould);
        drop(s);
        mould.remove_if(|of, mould| of < generation || mould.has_ended());
        drop((closed, unneeded)); // without the lock
    }

    /// Records which process a worker has joined, if it is shared.
    fn register(&self, id: WorkerId, group: &LaneGroup) {
        if !group.is_shared() {
            return;
        }
        let pool = &self.shared.pool;
        pool.on_joined(id, group.number());
        // The last other lane may have left after this one joined. The pool has then forgotten that the process is closed.
        if group.is_closed() {
            pool.close_process(id);
        }
    }

    fn stop_worker(&mut self, id: WorkerId, why: StopReason) {
        if let Some(stop) = self.stops.remove(&id) {
            let _ = stop.send(Some(why)); // it may have exited
        }
    }
}

impl Executor for ProcessExecutor {
    fn start(&mut self, id: WorkerId) -> io::Result<()> {
        self.stops.retain(|_, stop| !stop.is_closed());
        let (group, link) = self.lane(id)?;
        self.register(id, &group);
        let (stop, stopped) = watch::channel(None);
        self.stops.insert(id, stop);
        let lane = Lane { id, shared: self.shared.clone(), group, link };
        self.runtime.spawn(WorkerTask::new(lane, stopped).run());
        Ok(())
    }

    fn abandon(&mut self, id: WorkerId) {
        self.stop_worker(id, StopReason::Requested);
    }

    fn on_reloaded(&mut self) {
        self.prune();
    }

    fn stop(&mut self, id: WorkerId) {
        self.prune(); // the generation may have ended
        self.stop_worker(id, StopReason::Requested);
    }

    fn time_out(&mut self, id: WorkerId) {
        self.stop_worker(id, StopReason::NotReady);
    }
}

impl Drop for ProcessExecutor {
    fn drop(&mut self) {
        // The last references to the processes that fork workers, which end them.
        self.groups.clear();
        self.zygotes.clear();
        self.shared.mould.remove_if(|_, _| true);
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was reported when it happened
        }
    }
}

/// Creates the links of a process. Returns the process's end of the first one too, over which it is sent its ends of the
/// others.
fn gate_links(
    program: Option<&str>,
    lanes: usize,
    is_sequential: bool,
) -> io::Result<(Vec<Link>, OwnedFd)> {
    let (first, socket) = GateLink::new(program, is_sequential)?;
    let others = (1..lanes).map(|_| GateLink::new(None, is_sequential));
    let others = others.collect::<io::Result<Vec<_>>>()?;
    let (others, sockets): (Vec<_>, Vec<_>) = others.into_iter().unzip();
    if !sockets.is_empty() {
        first.send_sockets(&sockets)?;
    }
    Ok((others.into_iter().chain([first]).map(Link::Gate).collect(), socket))
}

/// The path of a worker's socket. Dropping it removes the file.
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
