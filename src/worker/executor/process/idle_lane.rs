//! What a lane does while it has no request: it waits for one, and checks its process.

use std::{
    future::{pending, poll_fn},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    super::super::{pool::Work, process::GateError},
    StopReason,
    health::Event,
    lane::{Lane, Left},
    link::Unhealthy,
    worker_task::wait_stopped,
};
use crate::net::process::Child;

/// Pause between two checks of a process that does not answer: 1 s.
const HUNG_PAUSE: Duration = Duration::from_secs(1);

impl Lane {
    /// Waits for the next request. Returns `None` if the pool is closed and has no request left. Meanwhile it checks the
    /// process, if there are checks. The task is woken when `must_leave` returns `true`, and returns [`Left::Moved`].
    pub(super) async fn next_work(
        &self,
        child: &Child,
        stopped: &mut watch::Receiver<Option<StopReason>>,
        must_leave: impl Fn() -> bool,
    ) -> Result<Option<Work>, Left> {
        let pool = &self.shared.pool;
        let left = || poll_fn(|_| if must_leave() { Poll::Ready(()) } else { Poll::Pending });
        loop {
            let event = async {
                match &self.group.health {
                    Some(health) => health.event().await,
                    None => pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                () = child.ended() => return Err(Left::Ended),
                _ = wait_stopped(stopped) => return Err(Left::Stopped),
                () = left() => {
                    pool.rest(self.id);
                    return Err(Left::Moved { to: None, work: None });
                }
                work = pool.next(self.id) => return Ok(work),
                // A closed pool ends its workers when they ask for a request.
                event = event, if !pool.permits.is_closed() => event,
                error = self.link.log_while_idle() => {
                    self.report_violation(child.pid(), &error);
                    return Err(Left::Ended);
                }
            };
            pool.rest(self.id);
            tokio::select! {
                biased;
                () = child.ended() => return Err(Left::Ended),
                _ = wait_stopped(stopped) => return Err(Left::Stopped),
                () = left() => return Err(Left::Moved { to: None, work: None }),
                () = pool.closed() => {}
                () = self.attend(event, child.pid()) => {}
            }
        }
    }

    /// Checks the process, or waits while it does not answer. The worker is idle, and gets no request meanwhile.
    async fn attend(&self, event: Event<'_>, pid: u32) {
        let Some(health) = &self.group.health else { return };
        let pool = &self.shared.pool;
        let mut check = match event {
            Event::Check(claim) => Some(claim),
            Event::Hung => None,
        };
        loop {
            // The lane that has checked it before may have been replaced.
            check = check.or_else(|| health.claim(Instant::now()).ok());
            if let Some(claim) = &check {
                let problem = match timeout(health.timeout, self.link.check()).await {
                    Ok(Ok(())) => None,
                    Ok(Err(Unhealthy { reason, has_answered: true })) => {
                        self.report_unhealthy(pid, &reason);
                        None
                    }
                    Ok(Err(Unhealthy { reason, .. })) => Some(reason),
                    Err(_) => Some(format!("it has not answered within {:?}", health.timeout)),
                };
                let was_hung = health.is_hung();
                let problem = problem.filter(|_| was_hung || claim.is_conclusive());
                claim.set_hung(problem.is_some());
                match problem {
                    None => check = None,
                    // After each check, since a successor that waits for its generation is not replaced.
                    Some(reason) => self.report_unhealthy(pid, &reason),
                }
            }
            if !health.is_hung() {
                return;
            }
            pool.on_hung(self.id);
            sleep(HUNG_PAUSE).await;
        }
    }

    /// Logs why the worker is replaced although its process runs. The end of a process is logged when it is reaped.
    fn report_violation(&self, pid: u32, error: &GateError) {
        if let GateError::Fault(fault) = error {
            let message = "an idle worker process has violated its protocol and will be replaced";
            tracing::warn!(worker = %self.id, pid, %fault, "{message}");
        }
    }

    /// Lets the worker be replaced, since its process has failed a check.
    fn report_unhealthy(&self, pid: u32, reason: &str) {
        if self.shared.pool.on_unhealthy(self.id) {
            let message = "a worker process has failed its health check and will be replaced";
            tracing::warn!(worker = %self.id, pid, reason, "{message}");
        }
    }
}
