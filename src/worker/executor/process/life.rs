//! The life of one worker: of a process, from its start until it is reaped, or of a lane of one.

use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    super::{
        super::{
            pool::{Lost, Pool, Work},
            process::{ExitedEarly, NotReady},
            queue::{job::Job, streamed::Ended},
        },
        exchange::{Done, deliver},
    },
    Shared, Stop,
    group::{Group, Process},
    link::{Failed, Link},
};
use crate::{
    conn::Delivery,
    error::panic_message,
    net::process::{Child, memory},
    policy::restart::WorkerId,
};

/// How long after a broken connection it takes at most to learn that the process has ended.
const EXIT_NOTICE: Duration = Duration::from_millis(100);

/// Why a worker is not ready, unless more is known.
const NO_ANSWER: &str = "it has not answered";

/// How long an exchange with a process that has ended is waited for. What it has written is there at once; a
/// process that has left its group may have inherited the connection, and hold it open.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// How often the memory of a worker is looked at, at most.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Life {
    pub(super) id: WorkerId,
    pub(super) shared: Arc<Shared>,
    pub(super) group: Arc<Group>,
    pub(super) link: Link,
    pub(super) stopped: watch::Receiver<Option<Stop>>,
}

/// Why a worker has not become ready.
enum Unready {
    Ended,
    Stopped(Stop),
}

impl Life {
    pub(super) async fn run(mut self) {
        // The last act, also if this is cut short.
        let _exit = ExitGuard { pool: self.shared.pool.clone(), id: self.id };
        let (shared, group) = (self.shared.clone(), self.group.clone());
        let hooks = &shared.launch.hooks;
        let Some(process) = self.begin(&group).await else {
            group.leave();
            return;
        };
        let mut problem = NO_ANSWER.to_owned();
        let unready = self.start(&process.child, &mut problem).await;
        if unready.is_none() {
            if group.set_ready() {
                call("on_ready", hooks.on_ready.as_deref(), process.facts);
            }
            shared.pool.on_ready(self.id);
            let has_ended = self.serve(&process.child).await;
            if has_ended && self.link.is_independent() {
                let pid = process.facts.pid;
                tracing::warn!(worker = %self.id, pid, "a process has ended by itself, and is started again");
            }
        }
        shared.pool.leave(self.id);
        self.retire(&process.child).await;
        self.link.close();
        let is_last = group.leave();
        let ended = if is_last {
            self.end(&process.child).await;
            let (status, last_line) = process.reap().await;
            let ended = ExitedEarly { status, last_line };
            group.set_ended(ended.clone());
            Some(ended)
        } else if matches!(unready, Some(Unready::Ended)) {
            group.ended().await // which tells why
        } else {
            return; // others go on
        };
        let Some(ended) = ended else { return };
        let (status, pid) = (ended.status, process.facts.pid);
        match unready {
            None => tracing::debug!(worker = %self.id, pid, %status, "a worker process has ended"),
            Some(Unready::Ended) => shared.pool.on_failed(self.id, ended.into()),
            Some(Unready::Stopped(why)) => self.report_stop(why, problem),
        }
        if is_last {
            call("on_exit", hooks.on_exit.as_deref(), (process.facts, status));
        }
    }

    /// Has the process started, if another lane has not; `None` if there is none.
    async fn begin<'a>(&mut self, group: &'a Group) -> Option<&'a Process> {
        let shared = self.shared.clone();
        let on_spawn = shared.launch.hooks.on_spawn.as_deref();
        let on_start = |process| call("on_spawn", on_spawn, process);
        let process = tokio::select! {
            biased;
            why = stop(&mut self.stopped) => Err(why),
            process = group.process(self.id, &shared, on_start) => Ok(process),
        };
        match process {
            Ok(Ok(process)) => return Some(process),
            Ok(Err(error)) => shared.pool.on_failed(self.id, error),
            Err(why) => {
                let zygote = group.zygote();
                if let (Stop::NotReady, Some(zygote)) = (why, zygote) {
                    zygote.discard();
                }
                let reason = zygote.map_or(NO_ANSWER, |_| "the application is not loaded");
                self.report_stop(why, reason.to_owned());
            }
        }
        None
    }

    /// The worker was ended before it was ready.
    fn report_stop(&self, why: Stop, reason: String) {
        if why == Stop::NotReady {
            let error = NotReady { timeout: self.shared.launch.start_timeout, reason };
            self.shared.pool.on_failed(self.id, error.into());
        }
    }

    /// Waits until the worker is ready, or cannot be.
    async fn start(&mut self, child: &Child, problem: &mut String) -> Option<Unready> {
        if self.link.is_started() {
            return None;
        }
        tokio::select! {
            biased;
            () = child.ended() => Some(Unready::Ended),
            why = stop(&mut self.stopped) => Some(Unready::Stopped(why)),
            () = self.link.wait_ready(problem) => None,
        }
    }

    /// Waits until others do not use the worker any more, at most for the stop timeout.
    async fn retire(&self, child: &Child) {
        let retired = timeout(self.shared.launch.stop_timeout, self.link.retire());
        tokio::select! {
            () = child.ended() => {}
            _ = retired => {}
        }
    }

    /// Serves requests until the worker ends or is to end. Returns whether it has ended without a request and
    /// without being asked to.
    async fn serve(&mut self, child: &Child) -> bool {
        let pool = self.shared.pool.clone();
        let mut looked_at = Instant::now();
        loop {
            let work = tokio::select! {
                biased;
                () = child.ended() => return true,
                _ = stop(&mut self.stopped) => return false,
                work = pool.next(self.id) => work,
            };
            let Some(work) = work else { return false };
            let Some(stays) = self.answer(child, work).await else { return false };
            if !stays {
                return false;
            }
            if self.shared.launch.watches_memory && looked_at.elapsed() >= MEMORY_INTERVAL {
                pool.on_memory(self.id, memory(child.pid()));
                looked_at = Instant::now();
            }
        }
    }

    /// Has the worker answer a request. Returns whether it may take another one; `None` if it is
    /// abandoned.
    async fn answer(&mut self, child: &Child, work: Work) -> Option<bool> {
        let Work { job, request, .. } = work;
        let mut has_ended = false;
        let result = {
            let mut exchange = pin!(exchange(&self.link, request, &job));
            tokio::select! {
                biased;
                result = &mut exchange => result,
                _ = stop(&mut self.stopped) => return None,
                () = child.ended() => {
                    has_ended = true;
                    child.kill_group(); // others of its group could go on for ever
                    tokio::select! {
                        biased;
                        result = last_answer(exchange, &job) => result,
                        _ = stop(&mut self.stopped) => return None,
                    }
                }
            }
        };
        let pool = &self.shared.pool;
        let failed = match result {
            Ok(done) => {
                let is_broken = matches!(&done, Done::Body(_, Ended::Failed(_)));
                let may_end = is_broken && self.link.is_lost();
                let crashed =
                    has_ended || self.link.is_violated() || (may_end && ends_soon(child).await);
                if crashed || !is_answer_wanted(&done, &job) {
                    self.link.close_idle();
                }
                // The worker is free before its caller is answered: a caller finds the capacity of its
                // last request free again.
                let stays = pool.done(self.id, crashed && is_broken);
                drop(job.take_permit());
                done.report(&job);
                return Some(stays && !crashed);
            }
            Err(failed) => failed,
        };
        let Failed { request, delivery, is_refused, error } = failed;
        let crashed = has_ended || is_refused || ends_soon(child).await;
        let is_sent = delivery != Delivery::NotSent;
        // RFC 9110 section 9.2.2.
        let request = request.filter(|request| !is_sent || request.method().is_idempotent());
        let stays = match request {
            Some(request) => {
                pool.give_back(self.id, &job, Lost { request, is_sent, crashed, error })
            }
            None => {
                let stays = pool.done(self.id, crashed);
                drop(job.take_permit());
                job.answer(Err(error));
                stays
            }
        };
        Some(stays)
    }

    /// Asks the process to end, and kills its group if it does not.
    async fn end(&self, child: &Child) {
        child.terminate(self.shared.launch.command.signal());
        if timeout(self.shared.launch.stop_timeout, child.ended()).await.is_err() {
            tracing::warn!(worker = %self.id, pid = child.pid(), "a worker process did not end, and is killed");
        }
        child.kill_group();
        child.ended().await;
    }
}

/// One request, from its head until the end of the response's body.
async fn exchange(link: &Link, request: crate::Request, job: &Arc<Job>) -> Result<Done, Failed> {
    let done = match link.exchange(request, job).await? {
        Ok(response) => deliver(response, job).await,
        Err(error) => Done::Answer(Err(error)),
    };
    link.settle(job).await;
    Ok(done)
}

/// The rest of an exchange whose process has ended: its response, or its end. A response whose head has come
/// may take as long as its client does.
async fn last_answer(
    exchange: impl Future<Output = Result<Done, Failed>>,
    job: &Job,
) -> Result<Done, Failed> {
    let held_open = async {
        sleep(LAST_ANSWER).await;
        if job.has_body() { pending().await } else { Err(Failed::ended()) }
    };
    tokio::select! {
        biased;
        result = exchange => result,
        failed = held_open => failed,
    }
}

/// Whether the caller still waits for a response that has come.
fn is_answer_wanted(done: &Done, job: &Job) -> bool {
    match done {
        Done::Answer(_) => job.is_running(),
        Done::Body(..) => true, // otherwise the connection was closed in the middle
    }
}

/// Whether a process ends whose connection has broken: the kernel closes its sockets first.
async fn ends_soon(child: &Child) -> bool {
    timeout(EXIT_NOTICE, child.ended()).await.is_ok()
}

/// Waits until the worker is told to end.
async fn stop(stopped: &mut watch::Receiver<Option<Stop>>) -> Stop {
    // An error means that there is no executor any more.
    let why = stopped.wait_for(Option::is_some).await;
    why.ok().and_then(|why| *why).unwrap_or(Stop::Unwanted)
}

/// Calls a hook. A panic in it is logged, and the worker lives on.
fn call<T>(name: &str, hook: Option<&(dyn Fn(T) + Send + Sync)>, with: T) {
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
