//! `Lane`: a worker of the pool, which is a process or a part of one, and its requests.
//!
//! Its task supervises it in the runtime of the pool. Its requests are exchanged in that runtime too, until a runtime that
//! serves connections has called the pool. Then they are exchanged in that one, so that a request stays on its thread. A
//! lane changes its runtime only between two requests. When a runtime stops serving connections, its lanes return to that
//! of the pool.

use std::{
    future::{pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::header::UPGRADE;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    super::{
        super::{
            pool::{After, Pool, Unanswered, Work},
            queue::{job::Job, streamed::Ended},
        },
        exchange::{Done, deliver},
    },
    Shared, StopReason,
    health::Health,
    lane_group::LaneGroup,
    link::{ExchangeFailed, Link},
    worker_task::wait_stopped,
};
use crate::{
    conn::Delivery,
    net::{
        process::{Child, memory},
        serving::CrossRuntimeTask,
    },
    policy::restart::WorkerId,
};

/// Maximum time between a broken connection and the end of its process, if the process has crashed: 100 ms. The
/// kernel closes the sockets first.
const EXIT_NOTICE: Duration = Duration::from_millis(100);

/// Timeout of an exchange whose process has ended: 1 s. The bytes that the process wrote can be read at once, but a
/// descendant outside of its group may have inherited the connection and hold it open.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Minimum time between two measurements of a worker's memory: 1 s.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// A worker of the pool.
pub(super) struct Lane {
    pub(super) id: WorkerId,
    pub(super) shared: Arc<Shared>,
    pub(super) group: Arc<LaneGroup>,
    pub(super) link: Link,
}

/// The reason why a worker serves no more requests in a runtime.
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum Left {
    /// Its process ended between two requests, or its connection cannot be used any more.
    Ended,
    /// It must stop.
    Stopped,
    /// It continues in the runtime `to`, or in that of the pool if this is `None`. `work` is a request that it has begun.
    Moved { to: Option<Handle>, work: Option<Work> },
    /// The runtime has ended.
    Dropped,
}

impl Lane {
    /// Serves requests in the current runtime, `here`; `None` is the runtime of the pool. `ahead` is a request that it has
    /// begun.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut stopped: watch::Receiver<Option<StopReason>>,
        here: Option<Handle>,
        mut ahead: Option<Work>,
    ) -> Left {
        let pool = &self.shared.pool;
        let mut task = if here.is_some() { CrossRuntimeTask::new().await } else { None };
        let is_elsewhere = here.is_some();
        let must_leave = |task: &Option<CrossRuntimeTask>| {
            is_elsewhere && task.as_ref().is_none_or(CrossRuntimeTask::must_leave)
        };
        let Some(process) = self.group.started() else { return Left::Stopped };
        let child = &process.child;
        if let Err(error) = self.link.change_runtime() {
            let message = "cannot move the socket of a worker to another runtime; the worker stays in its own";
            tracing::warn!(worker = %self.id, %error, "{message}");
        }
        let mut measured_at = Instant::now();
        loop {
            if must_leave(&task) {
                return Left::Moved { to: None, work: ahead };
            }
            if self.link.may_move()
                && let Some(to) = pool.runtimes.assigned(self.id, here.as_ref())
            {
                return Left::Moved { to: Some(to), work: ahead };
            }
            let work = match ahead.take() {
                // The worker has begun it, or will, even if it must exit.
                Some(work) => Some(work),
                None => match self.next_work(child, &mut stopped, || must_leave(&task)).await {
                    Ok(work) => work,
                    Err(left) => return left,
                },
            };
            let Some(work) = work else { return Left::Stopped };
            let Some(after) = self.run_job(child, &mut stopped, work, &mut task).await else {
                return Left::Stopped;
            };
            ahead = after.ahead;
            if !after.stays && ahead.is_none() {
                return Left::Stopped;
            }
            if self.shared.launch.watches_memory && measured_at.elapsed() >= MEMORY_INTERVAL {
                pool.on_memory(self.id, memory(child.pid()));
                measured_at = Instant::now();
            }
        }
    }

    /// Sends a request to the worker and its response to the caller. Returns what the worker does after that; `None` if
    /// it was abandoned or stopped.
    async fn run_job(
        &self,
        child: &Child,
        stopped: &mut watch::Receiver<Option<StopReason>>,
        work: Work,
        task: &mut Option<CrossRuntimeTask>,
    ) -> Option<After> {
        let Work { job, request, .. } = work;
        let _busy = self.group.health.as_ref().map(Health::begin);
        let (result, has_ended) = self.exchange(child, stopped, request, &job, task).await?;
        Some(match result {
            Ok(done) => self.finish(child, done, &job, has_ended).await,
            Err(failed) => self.fail(child, failed, &job, has_ended).await,
        })
    }

    /// Sends a request and its response. Returns the result, and whether the process has ended meanwhile; `None` if the
    /// worker was abandoned or stopped.
    async fn exchange(
        &self,
        child: &Child,
        stopped: &mut watch::Receiver<Option<StopReason>>,
        request: crate::Request,
        job: &Arc<Job>,
        task: &mut Option<CrossRuntimeTask>,
    ) -> Option<(Result<Done, ExchangeFailed>, bool)> {
        let worker = (self.id, &*self.shared.pool);
        let mut exchange = pin!(exchange(&self.link, worker, request, job));
        loop {
            tokio::select! {
                biased;
                result = &mut exchange => return Some((result, false)),
                _ = wait_stopped(stopped) => return None,
                () = child.ended() => break,
                // The runtime need not wait for a request without a caller.
                () = has_no_caller(task.as_ref(), job) => *task = None,
            }
        }
        self.link.on_exit();
        child.kill_group(); // its descendants could run forever
        tokio::select! {
            biased;
            result = last_answer(exchange, job) => Some((result, true)),
            _ = wait_stopped(stopped) => None,
        }
    }

    /// Reports the end of a request that the worker has answered. Returns what the worker does after that.
    async fn finish(&self, child: &Child, done: Done, job: &Arc<Job>, has_ended: bool) -> After {
        let is_broken = matches!(&done, Done::Body(_, Ended::Failed(_)));
        let may_end = is_broken && self.link.is_disconnected();
        let crashed = has_ended || self.link.is_violated() || (may_end && exits_soon(child).await);
        if crashed || !is_caller_waiting(&done, job) {
            self.link.close_idle();
        }
        // The worker is idle before its caller gets the response, so that the caller finds its capacity released.
        let after = self.shared.pool.done_ahead(self.id, crashed && is_broken);
        drop(job.take_permit());
        done.report(job);
        After { stays: after.stays && !crashed, ..after }
    }

    /// Queues a failed request again, or answers it with its error. Returns what the worker does after that.
    ///
    /// Another idle worker of this runtime may take the request first. Otherwise this one would take it again before the
    /// other one, which was woken, is polled.
    async fn fail(
        &self,
        child: &Child,
        failed: ExchangeFailed,
        job: &Arc<Job>,
        has_ended: bool,
    ) -> After {
        let ExchangeFailed { request, delivery, is_fatal, is_worker_idle, error } = failed;
        let crashed = has_ended || has_crashed(child, is_fatal, is_worker_idle).await;
        let is_sent = delivery != Delivery::NotSent;
        // RFC 9110 section 9.2.2.
        let request = request.filter(|request| {
            // A request for a tunnel is not sent again.
            !is_sent || request.method().is_idempotent() && !request.headers().contains_key(UPGRADE)
        });
        let pool = &self.shared.pool;
        match request {
            Some(request) => {
                let unanswered = Unanswered { request, is_sent, crashed, error };
                let after = pool.requeue(self.id, job, unanswered);
                yield_now().await;
                after
            }
            None => {
                let stays = pool.done(self.id, crashed);
                drop(job.take_permit());
                job.answer(Err(error));
                After { stays, ahead: None }
            }
        }
    }
}

/// Waits until the runtime of the task has stopped serving connections and the caller of the job has left.
async fn has_no_caller(task: Option<&CrossRuntimeTask>, job: &Job) {
    poll_fn(|cx| match task {
        Some(task) if task.must_leave() => job.poll_left(cx),
        _ => Poll::Pending,
    })
    .await;
}

/// Runs a request, from its head to the end of the response's body.
async fn exchange(
    link: &Link,
    (id, pool): (WorkerId, &Pool),
    request: crate::Request,
    job: &Arc<Job>,
) -> Result<Done, ExchangeFailed> {
    let done = match link.exchange(request, job, || pool.send_ahead(id)).await? {
        Ok(response) => {
            let release = || pool.release_ahead(id);
            deliver(response, job, || link.has_read_ahead(release)).await
        }
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

/// Returns whether the worker of a failed exchange must exit. An idle one has not broken its connection.
async fn has_crashed(child: &Child, is_fatal: bool, is_worker_idle: bool) -> bool {
    is_fatal || !is_worker_idle && exits_soon(child).await
}

/// Returns whether the process of a broken connection ends: the kernel closes its sockets first.
async fn exits_soon(child: &Child) -> bool {
    timeout(EXIT_NOTICE, child.ended()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, iter::from_fn, time::Instant as StdInstant};

    use rustix::io::Errno;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        time::Instant,
    };

    use super::{
        super::{Launch, ProcessExecutor, Protocol, Ready, accept_queue::tests::with_full_queue},
        *,
    };
    use crate::{
        Request,
        net::process::Command,
        policy::restart::Action,
        worker::{queue::job::Times, settings::PoolSettings},
    };

    #[tokio::test(start_paused = true)]
    async fn request_without_a_descriptor_does_not_hold_its_worker() {
        let worker = Command::new("/bin/sleep").args(["1000"]).spawn(None).unwrap();
        let worker = worker.observe().unwrap();
        let failed = ExchangeFailed::exhausted(Errno::MFILE.into());
        let began = Instant::now();
        assert!(!has_crashed(&worker, failed.is_fatal, failed.is_worker_idle).await);
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!has_crashed(&worker, false, false).await);
        assert_eq!(began.elapsed(), EXIT_NOTICE, "a broken connection may be that of a crash");
    }

    /// Answers one request.
    async fn answer(listener: UnixListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0]).await; // until the end of the test
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_meets_a_full_accept_queue_is_answered_by_another_process() {
        let pool = PoolSettings::new(2).build(|config| config).unwrap();
        let protocol = Protocol::Http { has_path: true, ready: Ready::Answer, lanes: 1 };
        let launch = Launch::new(Command::new("/bin/sleep").arg("1000"), protocol);
        let mut executor = ProcessExecutor::new(pool.clone(), launch).unwrap();
        let started: Vec<_> = from_fn(|| pool.lock().supervisor.poll(StdInstant::now())).collect();
        let (mut lanes, mut paths) = (Vec::new(), Vec::new());
        for action in started {
            let Action::Start(id) = action else { panic!("{action:?} where a worker starts") };
            let (group, link) = executor.lane(id).unwrap();
            group.process(id, &executor.shared, |_| {}).await.unwrap();
            pool.on_ready(id);
            paths.push(executor.shared.dir.path(&format!("{id}.sock")));
            lanes.push(Arc::new(Lane { id, shared: executor.shared.clone(), group, link }));
        }
        let _full = with_full_queue(&paths[0]).await;
        tokio::spawn(answer(UnixListener::bind(&paths[1]).unwrap()));
        let permit = pool.permits.clone().try_acquire_owned().unwrap();
        let now = StdInstant::now();
        let queue_until = now + Duration::from_secs(3600);
        let times = Times { queued_at: now, queue_until, deadline: None };
        let job = Job::new(Request::default(), permit, times);
        pool.push(&job, |_| false);
        let (_stop, stopped) = watch::channel(None);
        for lane in lanes {
            tokio::spawn(lane.serve(stopped.clone(), None, None));
            // The first one has taken the request before the second one asks for it.
            while pool.stats().busy == 0 {
                yield_now().await;
            }
        }
        let answer = timeout(Duration::from_secs(60), poll_fn(|cx| job.poll(cx))).await;
        let answer = answer.expect("it is not asked of the first process again and again");
        assert_eq!(answer.unwrap().status(), 204);
    }
}
