//! `TcpTarget`: a server for whole connections, as an endpoint of a balancer.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tower_service::Service;

use crate::{
    body::{Body, HttpBody},
    conn::Delivery,
    error::BoxError,
    net::{Address, KeepAlive, Stream, clock},
    peer::Deadline,
    upstream::{
        Endpoint, EndpointKey, EndpointLimits,
        error::{AttemptError, AttemptErrorKind, Unreachable},
    },
};

/// A server for whole connections, without requests: an endpoint of a [`TcpBalance`](super::TcpBalance).
///
/// It is a service like others, so that the balancer, its policies and its health are the same. Its response contains
/// the connection, and counts as in flight until the connection has ended. A [`Deadline`] of the request bounds the time of
/// connecting.
#[derive(Debug, Clone)]
pub struct TcpTarget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Address,
    connect_timeout: Duration,
    keep_alive: KeepAlive,
}

impl TcpTarget {
    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Connects once. The error names the server, and its source is the cause.
    pub(in crate::upstream) async fn check(&self) -> io::Result<()> {
        match self.0.connect(self.0.connect_timeout).await {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::other(Unreachable::new(self.0.address.clone(), error))),
        }
    }
}

impl Inner {
    async fn connect(&self, timeout: Duration) -> io::Result<Stream> {
        let connected = tokio::time::timeout(timeout, Stream::connect(&self.address)).await;
        let stream = connected.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_keep_alive(&self.keep_alive);
        Ok(stream)
    }
}

/// The common options of a balancer's servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Template {
    pub(super) connect_timeout: Duration,
    pub(super) keep_alive: KeepAlive,
    pub(super) limits: EndpointLimits,
}

impl Template {
    pub(super) fn endpoint(
        self,
        key: impl Into<EndpointKey>,
        address: Address,
    ) -> Endpoint<TcpTarget> {
        let Self { connect_timeout, keep_alive, limits } = self;
        let target = TcpTarget(Arc::new(Inner { address, connect_timeout, keep_alive }));
        Endpoint::new(key, target).limits(limits)
    }
}

/// A connection to a server, and the guard that counts it at its endpoint.
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) guard: Body,
}

/// Whether a server was picked for a request and is being connected to. An extension of the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Connecting(Arc<AtomicBool>);

impl Connecting {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The connection in the extensions of a response, from which it is taken once.
#[derive(Clone)]
struct Carried(Arc<Mutex<Option<Stream>>>);

impl Connected {
    pub(super) fn from_response(response: Response<Body>) -> Result<Self, BoxError> {
        let (mut parts, guard) = response.into_parts();
        let carried = parts.extensions.remove::<Carried>();
        let stream =
            carried.and_then(|c| c.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        stream.map(|stream| Self { stream, guard }).ok_or_else(|| "no connection".into())
    }
}

impl<B: HttpBody> Service<Request<B>> for TcpTarget {
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (target, request) = (self.0.clone(), request.map(Body::new));
        if let Some(connecting) = request.extensions().get::<Connecting>() {
            connecting.0.store(true, Relaxed);
        }
        ResponseFuture(Box::pin(async move {
            let deadline = request.extensions().get::<Deadline>();
            let left = deadline.map(|at| at.0.saturating_duration_since(clock::now()));
            let timeout = left.map_or(target.connect_timeout, |t| t.min(target.connect_timeout));
            match target.connect(timeout).await {
                Ok(stream) => {
                    // A body without an end, so that the response counts as in flight until it is dropped.
                    let (sender, body) = Body::channel(None);
                    let mut response = Response::new(body);
                    let carried = Carried(Arc::new(Mutex::new(Some(stream))));
                    response.extensions_mut().insert(carried);
                    drop(sender);
                    Ok(response)
                }
                Err(error) => {
                    let is_late = error.kind() == io::ErrorKind::TimedOut && left == Some(timeout);
                    let address = target.address.clone();
                    let error = if is_late {
                        let source = Unreachable::into_error(address, error);
                        AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, source)
                    } else {
                        Unreachable::into_attempt_error(address, error)
                    };
                    Err(error.with_request(request))
                }
            }
        }))
    }
}

/// The future of [`TcpTarget`].
pub struct ResponseFuture(
    Pin<Box<dyn Future<Output = Result<Response<Body>, AttemptError>> + Send>>,
);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
