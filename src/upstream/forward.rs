//! One request's way to a server and back.

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Instant};

use bytes::BytesMut;
use http::{HeaderValue, Method, Request, Response, uri::Scheme};
use tokio::runtime::{Handle, Id};

use super::{Shared, endpoint::Endpoint};
use crate::{
    body::Body,
    conn::h1::client::{Cause, Connection, Failed, Home},
    error::{BoxError, Error, Kind},
    net::{Address, Stream, clock},
    peer::{Deadline, Peer},
    semantics::gateway,
};

/// Room for the forwarding fields: three names, an address and a host.
const LINES: usize = 160;

/// No server could be connected to.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}")]
struct Unreachable {
    address: Address,
    #[source]
    source: io::Error,
}

pub(super) async fn forward(
    shared: Arc<Shared>,
    mut request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    let mut lines = BytesMut::with_capacity(LINES);
    prepare(&shared, &mut request, &mut lines);
    let runtime = Handle::current().id();
    let (n, mut connection, mut reused) = shared.connect(runtime).await?;
    loop {
        let idempotent = is_idempotent(request.method());
        let home = Back { shared: shared.clone(), endpoint: n, runtime };
        let failed = match connection.exchange(request, lines, home).await {
            Ok(mut response) => {
                gateway::response(response.headers_mut());
                return Ok(response);
            }
            Err(failed) => failed,
        };
        // A kept connection may have been closed while the request was on its way: that says
        // nothing of the server. A new one is asked once.
        let closed = matches!(failed.cause, Cause::Io(_) | Cause::Closed);
        (request, lines) = match failed {
            Failed { request: Some(again), .. } if reused && closed && idempotent => *again,
            Failed { cause, .. } => return Err(error(cause)),
        };
        let dialled = shared.endpoints[n].dial(&shared).await;
        (connection, reused) =
            (dialled.inspect_err(|_| shared.endpoints[n].leave_out(clock::now()))?, false);
    }
}

/// No longer than the request's own deadline: what is connected by then is dropped, and what has
/// expired is not sent at all.
pub(super) async fn within(
    deadline: Deadline,
    forward: impl Future<Output = Result<Response<Body>, BoxError>>,
) -> Result<Response<Body>, BoxError> {
    if deadline.0 <= clock::now() {
        return Err(Error::new(Kind::Timeout, Expired).into());
    }
    match tokio::time::timeout_at(deadline.0.into(), forward).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Kind::Timeout, Expired).into()),
    }
}

/// The request's deadline passed before a server had answered.
#[derive(Debug, thiserror::Error)]
#[error("the deadline passed before the server answered")]
struct Expired;

/// The request as the server shall see it.
fn prepare(shared: &Shared, request: &mut Request<Body>, lines: &mut BytesMut) {
    let ip = request.extensions().get::<Peer>().and_then(Peer::ip);
    let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
    // HTTP/1.0 without Host: whatever the first server is called.
    let name = || {
        let name = match &shared.endpoints[0].address {
            Address::Tcp(host) => HeaderValue::from_str(host).ok(),
            Address::Unix(_) => None,
        };
        name.unwrap_or(HeaderValue::from_static("localhost"))
    };
    gateway::request(request.headers_mut(), shared.config.forward, ip, &scheme, name, lines);
}

/// May it be sent twice (RFC 9110 section 9.2.2)?
fn is_idempotent(method: &Method) -> bool {
    method.is_idempotent()
}

fn error(cause: Cause) -> BoxError {
    let kind = match cause {
        // The client's failure, as its connection put it.
        Cause::Body(error) => return error,
        Cause::Timeout => Kind::Timeout,
        Cause::Misuse(_) => Kind::Internal,
        _ => Kind::BadGateway,
    };
    Error::new(kind, cause).into()
}

impl Shared {
    /// A connection to the server whose turn it is, or to the next that can be reached.
    async fn connect(&self, runtime: Id) -> Result<(usize, Connection<Stream>, bool), BoxError> {
        let mut failure = None;
        for _ in 0..self.endpoints.len() {
            let now = clock::now();
            let available = |i: usize| self.endpoints[i].is_available(now);
            // With all left out, one that is left out is better than none.
            let n = self.turn.pick(self.endpoints.len(), available);
            let n = n.or_else(|| self.turn.pick(self.endpoints.len(), |_| true));
            let n = n.expect("there is at least one endpoint");
            let endpoint = &self.endpoints[n];
            if let Some(connection) = endpoint.kept(self, runtime, now).await {
                return Ok((n, connection, true));
            }
            match endpoint.dial(self).await {
                Ok(connection) => return Ok((n, connection, false)),
                Err(e) => {
                    endpoint.leave_out(clock::now());
                    failure = Some(e);
                }
            }
        }
        Err(failure.expect("an endpoint was tried").into())
    }
}

impl Endpoint {
    /// A kept connection that the server has not closed.
    async fn kept(&self, shared: &Shared, runtime: Id, now: Instant) -> Option<Connection<Stream>> {
        loop {
            let mut connection = self.pool.take(runtime, now, shared.config.idle_timeout)?;
            if poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await {
                return Some(connection);
            }
        }
    }

    async fn dial(&self, shared: &Shared) -> Result<Connection<Stream>, Error> {
        let dialled =
            tokio::time::timeout(shared.config.connect_timeout, Stream::connect(&self.address));
        let (kind, source) = match dialled.await {
            Ok(Ok(stream)) => return Ok(Connection::new(stream, shared.config.limits.clone())),
            Ok(Err(e)) => (Kind::BadGateway, e),
            Err(_) => (Kind::Timeout, io::ErrorKind::TimedOut.into()),
        };
        Err(Error::new(kind, Unreachable { address: self.address.clone(), source }))
    }
}

/// The way back into the pool.
struct Back {
    shared: Arc<Shared>,
    endpoint: usize,
    runtime: Id,
}

impl Home<Stream> for Back {
    fn back(self, connection: Connection<Stream>, now: Instant) {
        // A body may be read to its end in another runtime than the one that made the connection.
        if Handle::try_current().is_ok_and(|h| h.id() == self.runtime) {
            let config = &self.shared.config;
            self.shared.endpoints[self.endpoint].pool.put(
                self.runtime,
                connection,
                now,
                config.keep_idle,
                config.idle_timeout,
            );
        }
    }
}
