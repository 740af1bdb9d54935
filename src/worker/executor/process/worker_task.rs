//! `WorkerTask`: the task of one worker, from its start to its exit. A worker is a process, or a lane of one.

use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::header::UPGRADE;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    super::{
        super::{
            pool::{After, Pool, Unanswered, Work},
            process::{ExitedEarly, NotReady},
            queue::{job::Job, streamed::Ended},
        },
        exchange::{Done, deliver},
    },
    Shared, StopReason,
    lane_group::{LaneGroup, Process},
    link::{ExchangeFailed, Link},
};
use crate::{
    conn::Delivery,
    error::panic_message,
    net::process::{Child, memory},
    policy::restart::WorkerId,
};

/// Maximum time between a broken connection and the end of its process, if the process has crashed: 100 ms. The
/// kernel closes the sockets first.
const EXIT_NOTICE: Duration = Duration::from_millis(100);

/// Default reason of [`NotReady`].
const NO_ANSWER: &str = "it has not answered";

/// Timeout of an exchange whose process has ended: 1 s. The bytes that the process wrote can be read at once, but a
/// descendant outside of its group may have inherited the connection and hold it open.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Minimum time between two measurements of a worker's memory: 1 s.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// The task of one worker.
pub(super) struct WorkerTask {
    pub(super) id: WorkerId,
    pub(super) shared: Arc<Shared>,
    pub(super) group: Arc<LaneGroup>,
    pub(super) link: Link,
    pub(super) stopped: watch::Receiver<Option<StopReason>>,
}

/// The reason why a worker did not become ready.
enum Unready {
    /// Its process has ended.
    Ended,
    Stopped(StopReason),
}

impl WorkerTask {
    pub(super) async fn run(mut self) {
        // Dropped last, also when the task is dropped.
        let _exit = ExitGuard { pool: self.shared.pool.clone(), id: self.id };
        let (shared, group) = (self.shared.clone(), self.group.clone());
        let hooks = &shared.launch.hooks;
        let Some(process) = self.start_process(&group).await else {
            group.leave();
            return;
        };
        let mut problem = NO_ANSWER.to_owned();
        let unready = self.wait_ready(&process.child, &mut problem).await;
        if unready.is_none() {
            if group.set_ready() {
                call_hook("on_ready", hooks.on_ready.as_deref(), process.facts);
            }
            if let Some(link) = self.link.lookahead() {
                shared.pool.add_lookahead(self.id, link);
            }
            shared.pool.on_ready(self.id);
            let has_ended = self.serve(&process.child).await;
            if has_ended && self.link.is_independent() {
                let pid = process.facts.pid;
                tracing::warn!(worker = %self.id, pid, "a process ended unexpectedly and will be restarted");
            }
        }
        shared.pool.leave(self.id);
        self.retire(&process.child).await;
        self.link.close();
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
            None => tracing::debug!(worker = %self.id, pid, %status, "a worker process has ended"),
            Some(Unready::Ended) => shared.pool.on_failed(self.id, ended.into()),
            Some(Unready::Stopped(why)) => self.report_stop(why, problem),
        }
        if is_last {
            call_hook("on_exit", hooks.on_exit.as_deref(), (process.facts, status));
        }
    }

    /// Starts the process, unless another lane has done so. Returns `None` if that fails or is stopped.
    async fn start_process<'a>(&mut self, group: &'a LaneGroup) -> Option<&'a Process> {
        let shared = self.shared.clone();
        let on_spawn = shared.launch.hooks.on_spawn.as_deref();
        let on_start = |process| call_hook("on_spawn", on_spawn, process);
        let process = tokio::select! {
            biased;
            why = wait_stopped(&mut self.stopped) => Err(why),
            process = group.process(self.id, &shared, on_start) => Ok(process),
        };
        match process {
            Ok(Ok(process)) => return Some(process),
            Ok(Err(error)) => shared.pool.on_failed(self.id, error),
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
            let error = NotReady { timeout: self.shared.launch.start_timeout, reason };
            self.shared.pool.on_failed(self.id, error.into());
        }
    }

    /// Waits until the worker is ready. Returns the reason if it ends or is stopped before that.
    async fn wait_ready(&mut self, child: &Child, problem: &mut String) -> Option<Unready> {
        if self.link.is_started() {
            return None;
        }
        tokio::select! {
            biased;
            () = child.ended() => Some(Unready::Ended),
            why = wait_stopped(&mut self.stopped) => Some(Unready::Stopped(why)),
            () = self.link.wait_ready(problem) => None,
        }
    }

    /// Waits until the [`SocketUser`](super::SocketUser) does not use the worker any more, at most for the stop
    /// timeout.
    async fn retire(&self, child: &Child) {
        let retired = timeout(self.shared.launch.stop_timeout, self.link.retire());
        tokio::select! {
            () = child.ended() => {}
            _ = retired => {}
        }
    }

    /// Serves requests until the worker ends or must stop. Returns whether it ended unexpectedly between two
    /// requests.
    async fn serve(&mut self, child: &Child) -> bool {
        let pool = self.shared.pool.clone();
        let mut measured_at = Instant::now();
        let mut ahead = None;
        loop {
            let work = match ahead.take() {
                // It has begun it, or will, also if it is to end.
                Some(work) => Some(work),
                None => tokio::select! {
                    biased;
                    () = child.ended() => return true,
                    _ = wait_stopped(&mut self.stopped) => return false,
                    work = pool.next(self.id) => work,
                },
            };
            let Some(work) = work else { return false };
            let Some(after) = self.run_job(child, work).await else { return false };
            ahead = after.ahead;
            if !after.stays && ahead.is_none() {
                return false;
            }
            if self.shared.launch.watches_memory && measured_at.elapsed() >= MEMORY_INTERVAL {
                pool.on_memory(self.id, memory(child.pid()));
                measured_at = Instant::now();
            }
        }
    }

    /// Sends a request to the worker and its response to the caller. Returns what the worker does after that; `None` if
    /// it was abandoned or stopped.
    async fn run_job(&mut self, child: &Child, work: Work) -> Option<After> {
        let Work { job, request, .. } = work;
        let mut has_ended = false;
        let result = {
            let worker = (self.id, &*self.shared.pool);
            let mut exchange = pin!(exchange(&self.link, worker, request, &job));
            tokio::select! {
                biased;
                result = &mut exchange => result,
                _ = wait_stopped(&mut self.stopped) => return None,
                () = child.ended() => {
                    has_ended = true;
                    self.link.on_exit();
                    child.kill_group(); // its descendants could run forever
                    tokio::select! {
                        biased;
                        result = last_answer(exchange, &job) => result,
                        _ = wait_stopped(&mut self.stopped) => return None,
                    }
                }
            }
        };
        let pool = &self.shared.pool;
        let failed = match result {
            Ok(done) => {
                let is_broken = matches!(&done, Done::Body(_, Ended::Failed(_)));
                let may_end = is_broken && self.link.is_disconnected();
                let crashed =
                    has_ended || self.link.is_violated() || (may_end && exits_soon(child).await);
                if crashed || !is_caller_waiting(&done, &job) {
                    self.link.close_idle();
                }
                // The worker is idle before its caller gets the response, so that the caller finds its capacity
                // released.
                let after = pool.done_ahead(self.id, crashed && is_broken);
                drop(job.take_permit());
                done.report(&job);
                return Some(After { stays: after.stays && !crashed, ..after });
            }
            Err(failed) => failed,
        };
        let ExchangeFailed { request, delivery, is_fatal, error } = failed;
        let crashed = has_ended || is_fatal || exits_soon(child).await;
        let is_sent = delivery != Delivery::NotSent;
        // RFC 9110 section 9.2.2.
        let request = request.filter(|request| {
            // A tunnel is not begun twice.
            !is_sent || request.method().is_idempotent() && !request.headers().contains_key(UPGRADE)
        });
        let stays = match request {
            Some(request) => {
                pool.requeue(self.id, &job, Unanswered { request, is_sent, crashed, error })
            }
            None => {
                let stays = pool.done(self.id, crashed);
                drop(job.take_permit());
                job.answer(Err(error));
                stays
            }
        };
        Some(After { stays, ahead: None })
    }

    /// Sends the stop signal to the process, and kills its group at its end or after the stop timeout.
    async fn stop_process(&self, child: &Child) {
        child.terminate(self.shared.launch.command.signal());
        if timeout(self.shared.launch.stop_timeout, child.ended()).await.is_err() {
            let within = self.shared.launch.stop_timeout;
            let message = "a worker process did not end after the stop signal and is killed";
            tracing::warn!(worker = %self.id, pid = child.pid(), ?within, "{message}");
        }
        child.kill_group();
        child.ended().await;
    }
}

/// Runs a request, from its head to the end of the response's body.
async fn exchange(
    link: &Link,
    (id, pool): (WorkerId, &Pool),
    request: crate::Request,
    job: &Arc<Job>,
) -> Result<Done, ExchangeFailed> {
    let done = match link.exchange(request, job, || pool.send_ahead()).await? {
        Ok(response) => deliver(response, job).await,
        Err(error) => Done::Answer(Err(error)),
    };
    link.finish_request(job, || pool.release_ahead(id)).await;
    Ok(done)
}

/// Waits for the rest of an exchange whose process has ended. After the head of the response there is no timeout:
/// the client may read slowly.
async fn last_answer(
    exchange: impl Future<Output = Result<Done, ExchangeFailed>>,
    job: &Job,
) -> Result<Done, ExchangeFailed> {
    let held_open = async {
        sleep(LAST_ANSWER).await;
        if job.has_body() { pending().await } else { Err(ExchangeFailed::ended()) }
    };
    tokio::select! {
        biased;
        result = exchange => result,
        failed = held_open => failed,
    }
}

/// Returns whether the caller still waits for the response.
fn is_caller_waiting(done: &Done, job: &Job) -> bool {
    match done {
        Done::Answer(_) => job.is_running(),
        Done::Body(..) => true, // the connection of an incomplete body is closed already
    }
}

/// Returns whether the process of a broken connection ends: the kernel closes its sockets first.
async fn exits_soon(child: &Child) -> bool {
    timeout(EXIT_NOTICE, child.ended()).await.is_ok()
}

/// Waits until the worker is stopped.
async fn wait_stopped(stopped: &mut watch::Receiver<Option<StopReason>>) -> StopReason {
    // Fails if the executor was dropped.
    let why = stopped.wait_for(Option::is_some).await;
    why.ok().and_then(|why| *why).unwrap_or(StopReason::Requested)
}

/// Calls a hook. A panic of the hook is logged and has no other effect.
fn call_hook<T>(name: &str, hook: Option<&(dyn Fn(T) + Send + Sync)>, with: T) {
    let Some(hook) = hook else { return };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| hook(with))) {
        let message = panic_message(&*panic);
        tracing::error!(hook = name, message, "a hook of a worker pool panicked");
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
