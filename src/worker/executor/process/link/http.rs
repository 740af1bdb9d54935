//! `HttpLink`: HTTP/1.1 over connections to the worker's socket.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, StatusCode, Uri, header::HOST};
use tokio::net::UnixStream;

use super::{
    super::{Ready, SocketFile, connect_patiently, socket_user::wait_open},
    ExchangeFailed, Job, Unhealthy,
    bridge::bridge,
};
use crate::{
    Body, Request, Response,
    conn::{
        Checkin, Delivery,
        h1::client::{Cause, Connection, ExchangeError},
        upgrade,
    },
    error::{Chain, Error, Kind},
    net::{Stream, is_exhausted},
    peer::Deadline,
    proto::h1::Limits,
    semantics::gateway,
};

/// A timeout of a connection that never expires, ten years: the supervisor limits the time of requests.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// Pauses between readiness checks: from 5 ms, a third of the start time of an interpreter, to 200 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Maximum time that a request waits while the accept queue of its worker is full: 1 s. Then it is queued again, and the
/// worker is not to blame.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Connections to one worker.
pub(in super::super) struct HttpLink {
    socket: Arc<SocketFile>,
    ready: Ready,
    /// Whether the worker runs several requests at a time.
    is_concurrent: bool,
    limits: Arc<Limits>,
    idle: Idle,
}

/// The connection of the last exchange, if the worker keeps it open.
#[derive(Clone, Default)]
struct Idle(Arc<Mutex<Option<Connection<Stream>>>>);

impl HttpLink {
    pub(in super::super) fn new(
        socket: Arc<SocketFile>,
        ready: Ready,
        is_concurrent: bool,
    ) -> Self {
        let limits = Limits { head_timeout: NEVER, body_timeout: NEVER, ..Limits::default() };
        Self { socket, ready, is_concurrent, limits: Arc::new(limits), idle: Idle::default() }
    }

    /// Sends the request of a job and waits for the head of its response. If the caller leaves before, the connection to a
    /// worker that runs several requests at a time is closed, so that the worker notices it. Another worker could not, and
    /// would be sent the next request too early. After the request timeout or the drain timeout the connection is kept: the
    /// process is stopped if the request does not end.
    pub(super) async fn exchange_job(
        &self,
        request: Request,
        job: &Job,
    ) -> Result<Response, ExchangeFailed> {
        let mut exchange = pin!(self.exchange(request));
        poll_fn(|cx| {
            if let Poll::Ready(result) = exchange.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            if self.is_concurrent && job.poll_left(cx).is_ready() && !job.is_overdue() {
                return Poll::Ready(Err(ExchangeFailed::left()));
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a request and waits for the head of its response. The supervisor applies the deadline, not the
    /// connection: the exchange continues after it, since its end shows that the worker is idle again.
    pub(super) async fn exchange(&self, mut request: Request) -> Result<Response, ExchangeFailed> {
        request.extensions_mut().remove::<Deadline>();
        let idle = self.idle.take();
        if let Some(mut connection) = idle
            && poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await
        {
            match connection.exchange(request, self.idle.clone()).await {
                Ok(response) => return Ok(finish(response)),
                // The worker has closed its idle connection (RFC 9112 section 9.3.1). A request that may have
                // been sent is not retried here but by the pool, which counts its attempts: it may crash every
                // worker.
                Err(ExchangeError {
                    cause: Cause::Io(_) | Cause::Closed,
                    delivery: Delivery::NotSent,
                    request: Some(again),
                    ..
                }) => {
                    request = *again;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let connect = || UnixStream::connect(self.socket.path());
        let stream = match connect_patiently(connect, CONNECT_WITHIN).await {
            Ok(stream) => Stream::from(stream),
            Err(error) if is_exhausted(&error) => return Err(ExchangeFailed::exhausted(error)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ExchangeFailed::full(request, error));
            }
            Err(error) => return Err(ExchangeFailed::refused(request, error)),
        };
        let connection = Connection::new(stream, self.limits.clone());
        let response = connection.exchange(request, self.idle.clone()).await?;
        Ok(finish(response))
    }

    /// Closes the idle connection.
    pub(super) fn close_idle(&self) {
        drop(self.idle.take());
    }

    pub(super) fn is_started(&self) -> bool {
        matches!(self.ready, Ready::Started)
    }

    pub(super) fn is_independent(&self) -> bool {
        matches!(self.ready, Ready::Started | Ready::Listening(_))
    }

    pub(super) async fn retire(&self) {
        if let Ready::Listening(user) = &self.ready {
            user.retire(self.socket.path()).await;
        }
    }

    /// Waits until the worker is ready. `problem` is the result of the last check.
    pub(super) async fn wait_ready(&self, problem: &mut String) {
        let ready = &self.ready;
        if let Ready::Listening(user) = ready {
            return wait_open(&**user, self.socket.path(), problem).await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.probe().await {
                Ok(Ok(())) => return,
                Ok(Err(status)) => *problem = format!("it answered {status}"),
                Err(failed) => *problem = Chain(&*failed.error).to_string(),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Sends the request of the readiness check. Returns the status if that is no success.
    async fn probe(&self) -> Result<Result<(), StatusCode>, ExchangeFailed> {
        let status = self.exchange(probe(&self.ready)).await?.status();
        let is_fine = match self.ready {
            Ready::Answer | Ready::Started | Ready::Listening(_) => true,
            Ready::Path(_) => status.is_success() || status.is_redirection(),
        };
        Ok(if is_fine { Ok(()) } else { Err(status) })
    }

    /// Checks a worker without a request.
    pub(super) async fn check(&self) -> Result<(), Unhealthy> {
        match self.probe().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                Err(Unhealthy { reason: format!("it answered {status}"), has_answered: true })
            }
            // Not the fault of the worker: this process has no free descriptor.
            Err(failed) if is_overload(&*failed.error) => Ok(()),
            Err(failed) => {
                let reason = Chain(&*failed.error).to_string();
                Err(Unhealthy { reason, has_answered: false })
            }
        }
    }
}

fn is_overload(error: &(dyn std::error::Error + 'static)) -> bool {
    Error::find(error).is_some_and(|error| error.kind() == Kind::Overloaded)
}

/// Creates the request of a readiness check.
fn probe(ready: &Ready) -> Request {
    let mut request = Request::new(Body::empty());
    match ready {
        Ready::Answer | Ready::Started | Ready::Listening(_) => {
            *request.method_mut() = Method::OPTIONS;
            *request.uri_mut() = Uri::from_static("*");
        }
        Ready::Path(path) => *request.uri_mut() = Uri::from(path.clone()),
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    request
}

/// Prepares the worker's response for the client, as a gateway does.
fn finish(mut response: Response) -> Response {
    gateway::prepare_response(response.headers_mut());
    match upgrade::take_stream(&mut response) {
        Some(stream) => bridge(response, stream),
        None => response,
    }
}

impl ExchangeFailed {
    /// Creates the failure to connect without descriptors or memory, which is not the worker's fault.
    pub(in super::super) fn exhausted(error: io::Error) -> Self {
        Self {
            request: None,
            delivery: Delivery::NotSent,
            is_fatal: false,
            is_worker_idle: true,
            error: Error::new(Kind::Overloaded, error).into(),
        }
    }

    /// Creates the failure of a request whose caller has left.
    fn left() -> Self {
        Self { is_worker_idle: true, ..Self::ended() }
    }

    /// Creates the failure of a worker whose accept queue remains full.
    fn full(request: Request, error: io::Error) -> Self {
        let refused = Self::refused(request, error);
        Self { is_fatal: false, is_worker_idle: true, ..refused }
    }

    /// Creates the failure of a worker that accepts no connections.
    fn refused(request: Request, error: io::Error) -> Self {
        Self {
            request: Some(request),
            delivery: Delivery::NotSent,
            is_fatal: true,
            is_worker_idle: false,
            error: Error::new(Kind::BadGateway, Cause::Io(error)).into(),
        }
    }
}

impl From<ExchangeError> for ExchangeFailed {
    fn from(error: ExchangeError) -> Self {
        let ExchangeError { cause, delivery, request, .. } = error;
        let is_of_worker = matches!(cause, Cause::Io(_) | Cause::Closed);
        Self {
            request: request.filter(|_| is_of_worker).map(|request| *request),
            delivery,
            is_fatal: false,
            is_worker_idle: false,
            error: cause.into_error(),
        }
    }
}

impl Idle {
    fn take(&self) -> Option<Connection<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Checkin<Connection<Stream>> for Idle {
    fn checkin(self, connection: Connection<Stream>, _: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    }
}
