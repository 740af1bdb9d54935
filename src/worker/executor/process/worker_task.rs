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
            link.close(); // without which the process may ignore the stop signal
            // Another lane may have started the process meanwhile, and have left it.
            if group.leave()
                && let Some(process) = group.started()
            {
                self.end_process(process).await;
            }
            return;
        };
        let mut problem = NO_ANSWER.to_owned();
        let unready = self.wait_ready(&process.child, &mut problem).await;
        if unready.is_none() {
            if group.set_ready() {
                call_hook("on_ready", hooks.on_ready.as_deref(), process.facts);
            }
            if group.is_shared() {
                shared.pool.lock().queue.add_lane(*id, group.number());
            }
            if let Some(link) = link.lookahead() {
                shared.pool.add_lookahead(*id, link);
            }
            shared.pool.on_ready(*id);
            let has_ended = self.serve().await;
            let is_restarted = || shared.pool.lock().supervisor.restarts_workers();
            if has_ended && link.is_independent() && is_restarted() {
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
        let mut is_killed = false;
        let ended = if group.leave() {
            let (ended, was_killed) = self.end_process(process).await;
            is_killed = was_killed;
            Some(ended)
        } else if matches!(unready, Some(Unready::Ended)) {
            group.ended().await // for the reason
        } else {
            return; // other lanes use the process
        };
        let Some(ended) = ended else { return };
        let (status, pid) = (ended.status, process.facts.pid);
        match unready {
            None if !is_killed && status.is_failure(shared.launch.command.signal()) => {
                tracing::warn!(worker = %self.lane.id, pid, %status, "a worker process has failed");
            }
            None => {
                tracing::debug!(worker = %self.lane.id, pid, %status, "a worker process has ended")
            }
            Some(Unready::Ended) => shared.pool.on_failed(self.lane.id, ended.into()),
            Some(Unready::Stopped(why)) => self.report_stop(why, problem),
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
            // In this order: the user must be told also if the process has ended.
            biased;
            _ = retired => {}
            () = child.ended() => {}
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
                Left::Moved { to, work } => (runtime, ahead) = (to, work),
                Left::Dropped => {
                    if let Some(runtime) = runtime.take() {
                        pool.runtimes.remove(&runtime);
                    }
                    if pool.lose_request(self.lane.id) {
                        return false;
                    }
                }
            }
        }
    }

    /// Stops and reaps the process, which all lanes have left. Also returns whether it was killed.
    async fn end_process(&self, process: &Process) -> (ExitedEarly, bool) {
        let Lane { shared, group, .. } = &*self.lane;
        let is_killed = self.stop_process(&process.child).await;
        let (status, last_line) = process.reap().await;
        let ended = ExitedEarly { status, last_line };
        group.set_ended(ended.clone());
        let on_exit = shared.launch.hooks.on_exit.as_deref();
        call_hook("on_exit", on_exit, (process.facts, status));
        (ended, is_killed)
    }

    /// Sends the stop signal to the process, and kills its group at its end or after the stop timeout. Returns whether the
    /// process did not end before.
    async fn stop_process(&self, child: &Child) -> bool {
        child.terminate(self.lane.shared.launch.command.signal());
        let is_late = timeout(self.lane.shared.launch.stop_timeout, child.ended()).await.is_err();
        if is_late {
            let within = self.lane.shared.launch.stop_timeout;
            let message = "a worker process did not end after the stop signal and is killed";
            tracing::warn!(worker = %self.lane.id, pid = child.pid(), ?within, "{message}");
        }
        child.kill_group();
        child.ended().await;
        is_late
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
        self.pool.end_ahead(self.id);
        self.pool.on_exit(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{
        super::{Launch, ProcessExecutor, Protocol, Ready},
        *,
    };
    use crate::{
        conn::testing::Lines,
        net::process::{Command, ExitStatus},
        policy::restart::Action,
        worker::settings::PoolSettings,
    };

    /// Creates the task of a worker, without running it. Returns the sender of its stop, too.
    fn task(
        executor: &mut ProcessExecutor,
        number: u64,
    ) -> (WorkerTask, watch::Sender<Option<StopReason>>) {
        let id = WorkerId::of_number(number);
        let (group, link) = executor.lane(id).unwrap();
        let (stop, stopped) = watch::channel(None);
        let lane = Lane { id, shared: executor.shared.clone(), group, link };
        (WorkerTask::new(lane, stopped), stop)
    }

    #[tokio::test]
    async fn end_of_a_process_announces_no_restart_while_the_pool_starts() {
        let lines = Lines::default();
        let _guard = tracing::subscriber::set_default(lines.subscriber());
        let pool = PoolSettings::new(2).build(|config| config).unwrap();
        let Some(Action::Start(id)) = pool.lock().supervisor.poll(Instant::now()) else {
            panic!("it has a slot for a worker");
        };
        let protocol = Protocol::Http { has_path: true, ready: Ready::Started, lanes: 1 };
        let launch = Launch::new(Command::new("/bin/true"), protocol);
        let mut executor = ProcessExecutor::new(pool, launch).unwrap();
        let (group, link) = executor.lane(id).unwrap();
        let (_stop, stopped) = watch::channel(None);
        let lane = Lane { id, shared: executor.shared.clone(), group, link };
        WorkerTask::new(lane, stopped).run().await;
        let logged = lines.of("vestibule::worker::executor::process::worker_task");
        assert!(logged[0].contains("a worker process has ended"), "{logged:?}");
        assert_eq!(logged.len(), 1, "{logged:?}");
    }

    #[tokio::test]
    async fn process_is_ended_by_its_last_lane_although_that_has_not_seen_its_start() {
        let pool = PoolSettings::new(2).build(|config| config).unwrap();
        let protocol = Protocol::Http { has_path: true, ready: Ready::Answer, lanes: 2 };
        let launch = Launch::new(Command::new("/bin/sleep").arg("1000"), protocol);
        let mut executor = ProcessExecutor::new(pool, launch).unwrap();
        let [first, second] = [0, 1].map(|number| task(&mut executor, number));
        let group = first.0.lane.group.clone();
        let starts = tokio::spawn(first.0.run());
        while group.started().is_none() {
            tokio::task::yield_now().await;
        }
        first.1.send_replace(Some(StopReason::Requested));
        starts.await.unwrap();
        second.1.send_replace(Some(StopReason::Requested));
        second.0.run().await;
        let ended = timeout(Duration::ZERO, group.ended()).await;
        assert!(ended.expect("the process was reaped").is_some());
    }

    #[tokio::test]
    async fn process_that_ignores_the_stop_signal_ends_with_the_socket_of_its_last_lane() {
        let dir = tempfile::tempdir().unwrap();
        let pool = PoolSettings::new(2).build(|config| config).unwrap();
        let (is_forked, is_sequential) = (false, true);
        let protocol = Protocol::Gate { program: "x", is_forked, lanes: 2, is_sequential };
        let script = "trap '' TERM; touch ready; exec cat <&3 >/dev/null";
        let command = Command::new("/bin/sh").args(["-c", script]).current_dir(dir.path());
        let mut executor = ProcessExecutor::new(pool, Launch::new(command, protocol)).unwrap();
        // The first one has the socket that the process reads.
        let [last, first] = [0, 1].map(|number| task(&mut executor, number));
        let group = first.0.lane.group.clone();
        let starts = tokio::spawn(first.0.run());
        while !dir.path().join("ready").exists() || group.started().is_none() {
            tokio::task::yield_now().await;
        }
        first.1.send_replace(Some(StopReason::Requested));
        starts.await.unwrap();
        last.1.send_replace(Some(StopReason::Requested));
        last.0.run().await;
        let ended = timeout(Duration::ZERO, group.ended()).await.ok().flatten();
        assert_eq!(ended.map(|ended| ended.status), Some(ExitStatus::Code(0)));
    }

    #[tokio::test]
    async fn worker_whose_process_was_left_by_the_others_while_it_joined_is_replaced() {
        let mut settings = PoolSettings::new(1);
        settings.scale.max = 2;
        let pool = settings.build(|config| config).unwrap();
        let protocol = Protocol::Http { has_path: true, ready: Ready::Answer, lanes: 2 };
        let launch = Launch::new(Command::new("/bin/sleep").arg("1000"), protocol);
        let mut executor = ProcessExecutor::new(pool.clone(), launch).unwrap();
        let next = || match pool.lock().supervisor.poll(Instant::now()) {
            Some(Action::Start(id)) => id,
            other => panic!("{other:?} where a worker starts"),
        };
        let first = next();
        let (group, _link) = executor.lane(first).unwrap();
        executor.register(first, &group);
        pool.on_ready(first);
        pool.lock().supervisor.on_demand(2);
        let second = next();
        let (joined, _link) = executor.lane(second).unwrap();
        assert!(Arc::ptr_eq(&group, &joined));
        assert!(!group.leave());
        pool.on_exit(first);
        executor.register(second, &joined);
        pool.on_ready(second);
        assert!(pool.lock().supervisor.take_nominated());
    }
}
