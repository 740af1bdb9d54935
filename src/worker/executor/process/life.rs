//! The life of one worker process, from its start until it is reaped.

use std::{
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::{
    super::{
        super::{
            pool::{Lost, Pool, Work},
            process::{ExitedEarly, NotReady, WorkerProcess},
            queue::{job::Job, streamed::Ended},
        },
        exchange::{Done, deliver},
    },
    Shared, Stop,
    link::{Failed, Link},
};
use crate::{
    conn::Delivery,
    error::panic_message,
    net::process::{Child, Spawned, memory, read_lines},
    policy::restart::WorkerId,
};

/// How long after a broken connection it takes at most to learn that the process has ended.
const EXIT_NOTICE: Duration = Duration::from_millis(100);

/// How long the output of a process that has ended is waited for. A process that has left the group may
/// hold the pipe open.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// How often the memory of a worker is looked at, at most.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Life {
    pub(super) id: WorkerId,
    pub(super) shared: Arc<Shared>,
    pub(super) link: Link,
    pub(super) stopped: watch::Receiver<Option<Stop>>,
}

/// Why a worker has not become ready.
enum Unready {
    Ended,
    Stopped(Stop),
}

impl Life {
    pub(super) async fn run(mut self, mut spawned: Spawned) {
        // The last act, also if this is cut short.
        let _exit = ExitGuard { pool: self.shared.pool.clone(), id: self.id };
        let output = spawned.output.take();
        let pid = spawned.pid().unwrap_or_default();
        let child = match spawned.observe() {
            Ok(child) => child,
            Err(error) => return self.shared.pool.on_failed(self.id, error.into()),
        };
        let process =
            WorkerProcess { number: self.id.number(), pid, generation: self.id.generation() };
        let shared = self.shared.clone();
        let launch = &shared.launch;
        call("on_spawn", launch.on_spawn.as_deref(), process);
        let last_line = Arc::new(Mutex::new(String::new()));
        let output = output.map(|pipes| self.log(pipes, pid, &last_line));

        let mut problem = "it has not answered".to_owned();
        let unready = self.start(&child, &mut problem).await;
        if unready.is_none() {
            call("on_ready", launch.on_ready.as_deref(), process);
            self.shared.pool.on_ready(self.id);
            self.serve(&child).await;
        }
        self.shared.pool.leave(self.id);
        self.end(&child).await;
        let status = child.reap().await;
        if let Some(output) = output {
            join(output).await;
        }
        match unready {
            None => tracing::debug!(worker = %self.id, pid, %status, "a worker process has ended"),
            Some(Unready::Ended) => {
                let last_line = last_line.lock().unwrap_or_else(PoisonError::into_inner).clone();
                self.shared.pool.on_failed(self.id, ExitedEarly { status, last_line }.into());
            }
            Some(Unready::Stopped(Stop::NotReady)) => {
                let error = NotReady { timeout: launch.start_timeout, reason: problem };
                self.shared.pool.on_failed(self.id, error.into());
            }
            Some(Unready::Stopped(Stop::Unwanted)) => {}
        }
        call("on_exit", launch.on_exit.as_deref(), (process, status));
    }

    /// Waits until the worker is ready, or cannot be.
    async fn start(&mut self, child: &Child, problem: &mut String) -> Option<Unready> {
        tokio::select! {
            biased;
            () = child.ended() => Some(Unready::Ended),
            why = stop(&mut self.stopped) => Some(Unready::Stopped(why)),
            () = self.link.wait_ready(&self.shared.launch.ready, problem) => None,
        }
    }

    /// Serves requests until the worker ends or is to end.
    async fn serve(&mut self, child: &Child) {
        let pool = self.shared.pool.clone();
        let mut looked_at = Instant::now();
        loop {
            let work = tokio::select! {
                biased;
                () = child.ended() => return,
                _ = stop(&mut self.stopped) => return,
                work = pool.next(self.id) => work,
            };
            let Some(work) = work else { return };
            let Some(stays) = self.answer(child, work).await else { return };
            if !stays {
                return;
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
            loop {
                tokio::select! {
                    biased;
                    result = &mut exchange => break result,
                    _ = stop(&mut self.stopped) => return None,
                    () = child.ended(), if !has_ended => {
                        // What it has written can still be read; others of its group could go on for
                        // ever.
                        has_ended = true;
                        child.kill_group();
                    }
                }
            }
        };
        let pool = &self.shared.pool;
        let failed = match result {
            Ok(done) => {
                let is_broken = matches!(&done, Done::Body(_, Ended::Failed(_)));
                let crashed = has_ended || (is_broken && ends_soon(child).await);
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
        let is_sent = delivery == Delivery::MaybeSent;
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
        self.link.close_idle();
        child.terminate();
        if timeout(self.shared.launch.stop_timeout, child.ended()).await.is_err() {
            tracing::warn!(worker = %self.id, pid = child.pid(), "a worker process did not end, and is killed");
        }
        child.kill_group();
        child.ended().await;
    }

    /// Writes what the process prints to the log.
    fn log(
        &self,
        [stdout, stderr]: [OwnedFd; 2],
        pid: u32,
        last: &Arc<Mutex<String>>,
    ) -> [JoinHandle<()>; 2] {
        let (id, pool) = (self.id, &self.shared.pool);
        let log = |pipe: OwnedFd, stream: &'static str| {
            let (last, pool) = (last.clone(), pool.clone());
            tokio::spawn(async move {
                let print = |line: &str| {
                    line.clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
                    // The runtime handles the line before an answer that was written after it.
                    let request = pool.in_flight(id).and_then(|job| job.request().id());
                    let request_id = request.map(tracing::field::display);
                    tracing::info!(target: "vestibule::worker::output", worker = %id, pid, stream, request_id, "{line}");
                };
                if let Err(error) = read_lines(pipe, print).await {
                    tracing::warn!(worker = %id, pid, stream, %error, "cannot read the output of a worker process");
                }
            })
        };
        [log(stdout, "stdout"), log(stderr, "stderr")]
    }
}

/// One request, from its head until the end of the response's body.
async fn exchange(link: &Link, request: crate::Request, job: &Job) -> Result<Done, Failed> {
    let response = link.exchange(request).await?;
    Ok(deliver(response, job).await)
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

async fn join(output: [JoinHandle<()>; 2]) {
    for mut task in output {
        if timeout(LAST_OUTPUT, &mut task).await.is_err() {
            task.abort();
        }
    }
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
