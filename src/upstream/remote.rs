//! `Remote`: one HTTP/1.1 server at an address, as a service.

mod http1;
mod options;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::HOST};
use tower_service::Service;

use self::{http1::Http1, options::Options};
use super::{
    endpoint::{Endpoint, EndpointKey},
    error::AttemptError,
    pooled,
};
use crate::{
    body::{Body, HttpBody},
    net::Address,
};

pub(super) use options::Options as RemoteOptions;
pub use options::{RESPONSE_TIMEOUT, RemoteBuilder};

/// One HTTP/1.1 server at an address, as a service.
///
/// - The task that polls the future and the response's body drives the connection: there is no other task, channel or
///   lock between a request and its response.
/// - Idle connections are reused in the runtime that opened them, newest first. They are closed when they have been
///   idle for [`IDLE_TIMEOUT`], and when their runtime ends.
/// - A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the response's
///   head, connecting included.
/// - `Host` is that of the request, or that of its target; without either, it is the server's address.
///
/// It makes one attempt and does not rewrite the request: [`Retry`](super::Retry) and [`Forward`](super::Forward) do
/// the rest of a gateway's work. Always ready. Cheap to clone: clones share connections.
///
/// ```
/// use vestibule::upstream::{PoolConfig, Remote};
///
/// let tcp = Remote::new("127.0.0.1:3000")?;
/// let pool = PoolConfig::new().keep_idle(32);
/// let unix = Remote::builder("unix:/run/app.sock".parse()?).pool(pool).build();
/// # drop((tcp, unix));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote(Arc<pooled::Server<Http1>>);

impl Remote {
    /// Creates the service of the server at `host:port`, `http://host:port` or `unix:/path`, with default options.
    ///
    /// # Errors
    /// An address that cannot be parsed.
    pub fn new(address: impl AsRef<str>) -> io::Result<Self> {
        Ok(Self::builder(address.as_ref().parse()?).build())
    }

    /// Returns a builder for the server at this address.
    pub fn builder(address: Address) -> RemoteBuilder {
        RemoteBuilder::new(address)
    }

    pub(super) fn with_options(address: Address, options: Options) -> Self {
        let http1 = Http1::new(&address, options.limits);
        Self(pooled::Server::new(address, http1, options.pool))
    }

    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Connects once. The error names the server and the cause.
    pub(super) async fn check(&self) -> io::Result<()> {
        self.0.check().await
    }

    /// How many requests wait for a connection now, if connections are
    /// [bounded](super::PoolConfig::max_connections), in all runtimes.
    pub fn queued(&self) -> usize {
        self.0.queued()
    }

    /// Returns the current number of idle connections, in all runtimes.
    pub fn idle_connections(&self) -> usize {
        self.0.idle_connections()
    }
}

/// The endpoint's key is the address.
impl From<Remote> for Endpoint<Remote> {
    fn from(remote: Remote) -> Self {
        Self::new(EndpointKey::from(remote.address().to_string()), remote)
    }
}

impl<B: HttpBody> Service<Request<B>> for Remote {
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let mut request = request.map(Body::new);
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.0.protocol.host.clone());
        }
        ResponseFuture(self.0.send(request, ()))
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// The future of [`Remote`].
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
#[derive(Debug)]
pub struct ResponseFuture(pooled::ResponseFuture<Http1>);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}
