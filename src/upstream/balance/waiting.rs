//! Requests that wait for an endpoint in the queue.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use http::Request;
use tokio::time::{Instant, sleep, sleep_until};

use super::{SentTo, Shared, refused};
use crate::{
    HttpService,
    body::Body,
    error::Kind,
    net::clock,
    peer::Deadline,
    policy::pick::Pick,
    upstream::{
        attempt::AttemptTimeout,
        error::{AttemptError, AttemptErrorKind, NoEndpoint},
        queue::{Priority, QueueError},
    },
};

/// Interval at which the first request in the queue checks the endpoints without being called: 100 ms, since an ejection
/// ends without a notification.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Boxed, since few requests wait.
pub(super) type WaitFuture<S, F> =
    Pin<Box<dyn Future<Output = Result<SentTo<S, F>, AttemptError>> + Send>>;

/// Waits for an endpoint and sends the request to it.
pub(super) fn wait<S, P>(
    shared: Arc<Shared<S, P>>,
    request: Request<Body>,
) -> WaitFuture<S, S::Future>
where
    S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    P: Pick + 'static,
{
    Box::pin(async move { wait_in_queue(&shared, request).await })
}

async fn wait_in_queue<S, P>(
    shared: &Shared<S, P>,
    mut request: Request<Body>,
) -> Result<SentTo<S, S::Future>, AttemptError>
where
    S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    P: Pick + 'static,
{
    let (mut ticket, timeout) = match shared.group.queue.enter(Priority::of(&request)) {
        Ok(entered) => entered,
        Err(error) => return Err(overloaded(error, request)),
    };
    let began = Instant::now();
    // The timeout of an attempt begins when the request leaves the queue.
    let attempt_timeout = AttemptTimeout::of(&request);
    let own = || request.extensions().get::<Deadline>().map(|deadline| deadline.0);
    let deadline = attempt_timeout.map_or_else(own, |timeout| timeout.total).map(Instant::from);
    let end = [began.checked_add(timeout), deadline].into_iter().flatten().min();
    loop {
        if ticket.is_first() {
            if let Some(at) = attempt_timeout.and_then(|timeout| timeout.deadline(clock::now())) {
                request.extensions_mut().insert(Deadline(at));
            }
            match shared.send(request) {
                Ok(mut sent) => {
                    ticket.admit();
                    let now = Instant::now();
                    let waited = now.saturating_duration_since(began);
                    if let Some(at) = deadline
                        && at.saturating_duration_since(now) < waited
                    {
                        sent.future.excuse_deadline(at.into_std());
                    }
                    return Ok(sent);
                }
                Err((refusal, back)) if shared.waits(refusal) => request = back,
                Err((_, request)) => {
                    ticket.leave();
                    let kind = AttemptErrorKind::NoEndpoint;
                    return Err(refused(kind, Kind::Overloaded, NoEndpoint, request));
                }
            }
            ticket.requeue();
        }
        let ended = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            called = ticket.called() => if let Err(error) = called {
                return Err(overloaded(error, request));
            },
            () = ended => {
                let error = ticket.time_out();
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    let kind = AttemptErrorKind::Timeout;
                    return Err(refused(kind, Kind::Timeout, error, request));
                }
                return Err(overloaded(error, request));
            }
            () = sleep(POLL_INTERVAL) => {}
        }
    }
}

fn overloaded(error: QueueError, request: Request<Body>) -> AttemptError {
    refused(AttemptErrorKind::NoEndpoint, Kind::Overloaded, error, request)
}
