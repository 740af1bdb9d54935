//! `Exchange`: one request to PHP: waits for a process, then uses an idle connection to it or opens one.

use std::{
    future::Future,
    mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use http::header::EXPECT;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{timeout, timeout_at},
};

use super::{
    connections::{Connections, Lease},
    generation::Generation,
    service::Shared,
};
use crate::{
    Request, Response,
    conn::{
        Delivery,
        fcgi::{Cause, Connection, scripts::not_found},
    },
    error::{BoxError, Error, Kind},
    net::{Stream, is_exhausted},
    semantics::hop,
    worker::{
        error::{DeadlineExceeded, QueueTimeout},
        executor::process::connect_patiently,
        queue::closed,
    },
};

/// Time after which a request on a new connection counts as one that no process has accepted: 10 ms. Most scripts of
/// sites that gain from idle connections take less.
const STARVING_AFTER: Duration = Duration::from_millis(10);

/// One request while it waits. It copies what it needs, since a reference to the request is not `Send`.
pub(super) struct Exchange<'a> {
    pub(super) shared: &'a Shared,
    /// The end of its queue timeout.
    pub(super) until: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) path: String,
}

impl Exchange<'_> {
    /// Runs the request. `permit` is that of its slot in the queue.
    pub(super) async fn run(
        self,
        mut request: Request,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, BoxError> {
        hop::strip(request.headers_mut());
        request.headers_mut().remove(EXPECT);
        // Before the request waits: one that PHP does not run needs no process.
        let mut found = None;
        if let Some(current) = self.shared.generations.current() {
            let Some(script) = current.resolver.find(&self.path).await? else {
                return Ok(not_found());
            };
            found = Some((current, script));
        }
        let child = self.wait(self.shared.children.clone().acquire_owned()).await?;
        let child = Arc::new(child.map_err(|_| closed())?);
        let (is_idempotent, mut is_repeated) = (request.method().is_idempotent(), false);
        loop {
            let (connection, lease, generation) = self.connect(&child).await?;
            let script = match found.take().filter(|(of, _)| Arc::ptr_eq(of, &generation)) {
                Some((_, script)) => script,
                None => match generation.resolver.find(&self.path).await? {
                    Some(script) => script,
                    None => return Ok(not_found()),
                },
            };
            let params = generation.resolver.params(&script, &request)?;
            let is_reused = connection.exchanges() > 0;
            let exchange = connection.exchange(request, params, lease);
            let result = if is_reused {
                exchange.await
            } else {
                run_or_starve(exchange, &generation.connections).await
            };
            let error = match result {
                Ok(response) => {
                    self.shared.served.fetch_add(1, Ordering::Relaxed);
                    return Ok(response.map(|body| body.with_guard(permit)));
                }
                Err(error) => error,
            };
            let has_ended = matches!(error.cause, Cause::Io(_) | Cause::Closed);
            let may_repeat = match error.delivery {
                Delivery::NotSent if is_reused => true, // idle connections are few
                Delivery::NotSent => !mem::replace(&mut is_repeated, true),
                // RFC 9110 section 9.2.2.
                Delivery::MaybeSent => is_idempotent && !mem::replace(&mut is_repeated, true),
                Delivery::Answered => false,
            };
            match error.request.filter(|_| has_ended && may_repeat) {
                Some(unanswered) => request = *unanswered,
                None => return Err(error.cause.into_error()),
            }
            found = Some((generation, script));
        }
    }

    /// Returns an idle connection to the current instance, or connects to it, or to its successor if that fails.
    async fn connect(
        &self,
        child: &Arc<OwnedSemaphorePermit>,
    ) -> Result<(Connection<Stream>, Lease, Arc<Generation>), BoxError> {
        let mut except = None;
        loop {
            let enter = self.shared.generations.enter(except.as_ref());
            let (generation, in_use) = self.wait(enter).await?;
            let (lease, idle) = generation.connections.checkout(child.clone(), in_use);
            if let Some(connection) = idle {
                return Ok((connection, lease, generation));
            }
            // While its accept queue is full, no other instance would take the request either.
            let connect = || Stream::connect(&generation.address);
            match self.wait(connect_patiently(connect, Duration::MAX)).await? {
                Ok(stream) => {
                    let connection = Connection::new(stream, self.shared.limits.clone()).for_php();
                    return Ok((connection, lease, generation));
                }
                // Not the fault of this instance, and there may be no other one before the queue timeout.
                Err(error) if is_exhausted(&error) => {
                    return Err(Error::new(Kind::Overloaded, error).into());
                }
                // It has ended unexpectedly, and is being restarted.
                Err(_) => except = Some(generation),
            }
        }
    }

    /// Waits for `event` until the queue timeout or the request's deadline.
    async fn wait<T>(&self, event: impl Future<Output = T>) -> Result<T, Error> {
        let until = self.deadline.map_or(self.until, |deadline| deadline.min(self.until));
        match timeout_at(until.into(), event).await {
            Ok(value) => Ok(value),
            Err(_) if self.deadline == Some(until) => {
                Err(Error::new(Kind::Timeout, DeadlineExceeded))
            }
            Err(_) => Err(Error::new(Kind::Overloaded, QueueTimeout)),
        }
    }
}

/// Runs an exchange on a new connection, which counts as starving after a time.
async fn run_or_starve<E: Future + Unpin>(
    mut exchange: E,
    connections: &Arc<Connections>,
) -> E::Output {
    if let Ok(output) = timeout(STARVING_AFTER, &mut exchange).await {
        return output;
    }
    let _starving = connections.starve();
    exchange.await
}
