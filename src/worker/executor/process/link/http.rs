//! `HttpLink`: requests and responses as HTTP/1.1, on connections to the worker's socket.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Uri, header::HOST};
use rustix::io::Errno;
use tokio::net::UnixStream;

use super::{
    super::{Ready, SocketFile, listening::wait_open},
    Failed,
};
use crate::{
    Body, Request, Response,
    conn::{
        Checkin, Delivery,
        h1::client::{Cause, Connection, ExchangeError},
    },
    error::{Chain, Error, Kind},
    net::Stream,
    peer::Deadline,
    proto::h1::Limits,
    semantics::gateway,
};

/// Stands for "never" among the timeouts of a connection: the supervisor bounds requests.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// Pauses between checks of whether a worker is ready: from 5 ms, a third of what an interpreter takes
/// to start, to 200 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Connections to one worker.
pub(in super::super) struct HttpLink {
    socket: Arc<SocketFile>,
    ready: Ready,
    limits: Arc<Limits>,
    idle: Idle,
}

/// The connection of the last exchange, if the worker keeps it.
#[derive(Clone, Default)]
struct Idle(Arc<Mutex<Option<Connection<Stream>>>>);

impl HttpLink {
    pub(in super::super) fn new(socket: Arc<SocketFile>, ready: Ready) -> Self {
        let limits = Limits { head_timeout: NEVER, body_timeout: NEVER, ..Limits::default() };
        Self { socket, ready, limits: Arc::new(limits), idle: Idle::default() }
    }

    /// Sends a request and waits for the head of its response. Its deadline is left to the supervisor:
    /// the exchange tells when the worker is idle again, so it outlives its caller.
    pub(super) async fn exchange(&self, mut request: Request) -> Result<Response, Failed> {
        request.extensions_mut().remove::<Deadline>();
        let idle = self.idle.take();
        if let Some(mut connection) = idle
            && poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await
        {
            match connection.exchange(request, self.idle.clone()).await {
                Ok(response) => return Ok(finish(response)),
                // The worker has closed its idle connection (RFC 9112 section 9.3.1). A request that may
                // have been sent is given back instead, so that it is counted: it may end each worker.
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
        let stream = match UnixStream::connect(self.socket.path()).await {
            Ok(stream) => Stream::from(stream),
            Err(error) if is_ours(&error) => return Err(Failed::exhausted(error)),
            Err(error) => return Err(Failed::refused(request, error)),
        };
        let connection = Connection::new(stream, self.limits.clone());
        let response = connection.exchange(request, self.idle.clone()).await?;
        Ok(finish(response))
    }

    /// Closes the connection that is kept: a request on it was answered in the worker's place.
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

    /// Waits until the worker is ready. `problem` has what the last check has found.
    pub(super) async fn wait_ready(&self, problem: &mut String) {
        let ready = &self.ready;
        if let Ready::Listening(user) = ready {
            return wait_open(&**user, self.socket.path(), problem).await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            *problem = match self.exchange(probe(ready)).await {
                Ok(response) => {
                    let status = response.status();
                    let is_fine = match ready {
                        Ready::Answer | Ready::Started | Ready::Listening(_) => true,
                        Ready::Path(_) => status.is_success() || status.is_redirection(),
                    };
                    if is_fine {
                        return;
                    }
                    format!("it answered {status}")
                }
                Err(failed) => Chain(&*failed.error).to_string(),
            };
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

/// The request by which a worker is checked.
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

/// Makes the worker's response ours.
fn finish(mut response: Response) -> Response {
    gateway::prepare_response(response.headers_mut());
    response
}

/// Whether an error of connect(2) is for want of something in this process or in the kernel.
fn is_ours(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

impl Failed {
    /// There is no connection for want of descriptors or memory: the worker is not to blame.
    fn exhausted(error: io::Error) -> Self {
        Self {
            request: None,
            delivery: Delivery::NotSent,
            is_refused: false,
            error: Error::new(Kind::Overloaded, error).into(),
        }
    }

    fn refused(request: Request, error: io::Error) -> Self {
        Self {
            request: Some(request),
            delivery: Delivery::NotSent,
            is_refused: true,
            error: Error::new(Kind::BadGateway, Cause::Io(error)).into(),
        }
    }
}

impl From<ExchangeError> for Failed {
    fn from(error: ExchangeError) -> Self {
        let ExchangeError { cause, delivery, request, .. } = error;
        let is_of_worker = matches!(cause, Cause::Io(_) | Cause::Closed);
        Self {
            request: request.filter(|_| is_of_worker).map(|request| *request),
            delivery,
            is_refused: false,
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
