//! `WorkerTask`: the task of one worker, from its start to its exit. A worker is a process, or a lane of one.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinError, JoinHandle},
    time::timeout,
};

use super::{
    super::super::{
        pool::Pool,
        process::{ExitedEarly, NotReady},
    },
    StopReason,
    lane::{Lane, Left},
    lane_group::{LaneGroup, Process},
    mould,
};
use crate::{error::panic_message, net::process::Child, policy::restart::WorkerId};

/// Default reason of [`NotReady`].
const NO_ANSWER: &str = "it has not answered";

/// The task of one worker.
pub(super) struct WorkerTask {
    lane: Arc<Lane>,
    stopped: watch::Receiver<Option<StopReason>>,
}

/// The reason why a worker did not become ready.
enum Unready {
    /// Its process has ended.
    Ended,
    Stopped(StopReason),
}

impl WorkerTask {
    pub(super) fn new(lane: Lane, stopped: watch::Receiver<Option<StopReason>>) -> Self {
        Self { lane: Arc::new(lane), stopped }
    }

    pub(super) async fn run(mut self) {
        let lane = self.lane.clone();
        let Lane { id, shared, group, link } = &*lane;
        // Dropped last, also when the task is dropped.
        let _exit = ExitGuard { pool: shared.pool.clone(), id: *id };
        let hooks = &shared.launch.hooks;
        let Some(process) = self.start_process(group).await else {
            group.leave();
            return;
        };
        let mut problem = NO_ANSWER.to_owned();
        let unready = self.wait_ready(&process.child, &mut problem).await;
        if unready.is_none() {
            if group.set_ready() {
                call_hook("on_ready", hooks.on_ready.as_deref(), process.facts);
            }
            if let Some(link) = link.lookahead() {
                shared.pool.add_lookahead(*id, link);
            }
            shared.pool.on_ready(*id);
            let has_ended = self.serve().await;
            if has_ended && link.is_independent() {
                let pid = process.facts.pid;
                tracing::warn!(worker = %self.lane.id, pid, "a process ended unexpectedly and will be restarted");
            }
        }
        shared.pool.leave(self.lane.id);
        if unready.is_none() && mould::become_mould(&lane, &process.child).await {
            return;
        }
        if matches!(unready, Some(Unready::Ended | Unready::Stopped(StopReason::NotReady))) {
            mould::give_up(&lane, group.zygote());
        }
        self.retire(&process.child).await;
        self.lane.link.close();
        let is_last = group.leave();
        let ended = if is_last {
            self.stop_process(&process.child).await;
            let (status, last_line) = process.reap().await;
            let ended = ExitedEarly { status, last_line };
            group.set_ended(ended.clone());
            Some(ended)
        } else if matches!(unready, Some(Unready::Ended)) {
            group.ended().await // for the reason
        } else {
            return; // other lanes use the process
        };
        let Some(ended) = ended else { return };
        let (status, pid) = (ended.status, process.facts.pid);
        match unready {
            None => {
                tracing::debug!(worker = %self.lane.id, pid, %status, "a worker process has ended")
            }
            Some(Unready::Ended) => shared.pool.on_failed(self.lane.id, ended.into()),
            Some(Unready::Stopped(why)) => self.report_stop(why, problem),
        }
        if is_last {
            call_hook("on_exit", hooks.on_exit.as_deref(), (process.facts, status));
        }
    }

    /// Starts the process, unless another lane has done so. Returns `None` if that fails or is stopped.
    async fn start_process<'a>(&mut self, group: &'a LaneGroup) -> Option<&'a Process> {
        let shared = self.lane.shared.clone();
        let on_spawn = shared.launch.hooks.on_spawn.as_deref();
        let on_start = |process| call_hook("on_spawn", on_spawn, process);
        let process = tokio::select! {
            biased;
            why = wait_stopped(&mut self.stopped) => Err(why),
            process = group.process(self.lane.id, &shared, on_start) => Ok(process),
        };
        match process {
            Ok(Ok(process)) => return Some(process),
            Ok(Err(error)) => shared.pool.on_failed(self.lane.id, error),
            Err(why) => {
                let zygote = group.zygote();
                if let (StopReason::NotReady, Some(zygote)) = (why, zygote) {
                    zygote.discard();
                }
                let reason = zygote.map_or(NO_ANSWER, |_| "the application is not loaded");
                self.report_stop(why, reason.to_owned());
            }
        }
        None
    }

    /// Reports that the worker was stopped before it was ready.
    fn report_stop(&self, why: StopReason, reason: String) {
        if why == StopReason::NotReady {
            let error = NotReady { timeout: self.lane.shared.launch.start_timeout, reason };
            self.lane.shared.pool.on_failed(self.lane.id, error.into());
        }
    }

    /// Waits until the worker is ready. Returns the reason if it ends or is stopped before that.
    async fn wait_ready(&mut self, child: &Child, problem: &mut String) -> Option<Unready> {
        if self.lane.link.is_started() {
            return None;
        }
        tokio::select! {
            biased;
            () = child.ended() => Some(Unready::Ended),
            why = wait_stopped(&mut self.stopped) => Some(Unready::Stopped(why)),
            () = self.lane.link.wait_ready(problem) => None,
        }
    }

    /// Waits until the [`SocketUser`](super::SocketUser) does not use the worker any more, at most for the stop
    /// timeout.
    async fn retire(&self, child: &Child) {
        let retired = timeout(self.lane.shared.launch.stop_timeout, self.lane.link.retire());
        tokio::select! {
            () = child.ended() => {}
            _ = retired => {}
        }
    }

    /// Serves requests until the worker ends or must stop, in the runtime of this task or in one that serves connections.
    /// Returns whether the worker ended unexpectedly between two requests.
    async fn serve(&self) -> bool {
        let pool = &self.lane.shared.pool;
        let (mut runtime, mut ahead) = (None::<Handle>, None);
        loop {
            let serve_loop =
                self.lane.clone().serve(self.stopped.clone(), runtime.clone(), ahead.take());
            let left = match &runtime {
                None => serve_loop.await,
                // Aborted with this task.
                Some(runtime) => match AbortOnDrop(runtime.spawn(serve_loop)).await {
                    Ok(left) => left,
                    Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                    Err(_) => Left::Dropped,
                },
            };
            match left {
                Left::Ended => return true,
                Left::Stopped => return false,
                Left::Moved { to, work } => (runtime, ahead) = (Some(to), work),
                Left::Dropped => {
                    if let Some(runtime) = runtime.take() {
                        pool.runtimes.remove(&runtime);
                    }
                    if pool.is_working(self.lane.id) {
                        return false; // and the request that it has is lost
                    }
                }
            }
        }
    }

    /// Sends the stop signal to the process, and kills its group at its end or after the stop timeout.
    async fn stop_process(&self, child: &Child) {
        child.terminate(self.lane.shared.launch.command.signal());
        if timeout(self.lane.shared.launch.stop_timeout, child.ended()).await.is_err() {
            let within = self.lane.shared.launch.stop_timeout;
            let message = "a worker process did not end after the stop signal and is killed";
            tracing::warn!(worker = %self.lane.id, pid = child.pid(), ?within, "{message}");
        }
        child.kill_group();
        child.ended().await;
    }
}

/// Waits until the worker is stopped.
pub(super) async fn wait_stopped(stopped: &mut watch::Receiver<Option<StopReason>>) -> StopReason {
    // Fails if the executor was dropped.
    let why = stopped.wait_for(Option::is_some).await;
    why.ok().and_then(|why| *why).unwrap_or(StopReason::Requested)
}

/// Calls a hook. A panic of the hook is logged and has no other effect.
pub(super) fn call_hook<T>(name: &str, hook: Option<&(dyn Fn(T) + Send + Sync)>, with: T) {
    let Some(hook) = hook else { return };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| hook(with))) {
        let message = panic_message(&*panic);
        tracing::error!(hook = name, message, "a hook of a worker pool panicked");
    }
}

/// A task that is aborted when it is dropped.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Reports the exit of a worker, also when its task is dropped.
struct ExitGuard {
    pool: Arc<Pool>,
    id: WorkerId,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.pool.on_exit(self.id);
    }
}
