//! `Remote`: one HTTP/1.1 server at an address, as a service.

mod connect;
mod exchange;
mod options;
mod pool;
mod reaper;

#[cfg(test)]
mod tests;

use std::{
    error::Error as StdError,
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header::HOST};
use tower_service::Service;

use self::{options::Options, pool::Pool};
use super::{
    endpoint::{Endpoint, EndpointKey},
    error::AttemptError,
};
use crate::{
    body::{Body, HttpBody},
    net::Address,
};

pub use exchange::ResponseFuture;
pub(super) use options::Options as RemoteOptions;
pub use options::{CONNECT_TIMEOUT, IDLE_TIMEOUT, KEEP_IDLE, RESPONSE_TIMEOUT, RemoteBuilder};

/// One HTTP/1.1 server at an address, as a service.
///
/// - The connection is driven by the task that polls the future and the response's body: there is no
///   task, channel or lock between a request and its response.
/// - Idle connections are kept for further requests by the runtime that made them, newest first. They
///   are closed when they have been idle for [`IDLE_TIMEOUT`], and when their runtime ends.
/// - A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the response's
///   head, connecting included.
/// - `Host` is sent as the request has it, or as its target has it; without either, as the server's
///   address.
///
/// It makes one attempt, and sends what it is given: [`Retry`](super::Retry) and
/// [`Forward`](super::Forward) do the rest of a gateway's work. Always ready. Cheap to clone: clones
/// share connections.
///
/// ```
/// use vestibule::upstream::Remote;
///
/// let tcp = Remote::new("127.0.0.1:3000")?;
/// let unix = Remote::builder("unix:/run/app.sock".parse()?).keep_idle(32).build();
/// # drop((tcp, unix));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

struct Shared {
    address: Address,
    /// The `Host` of a request that names none.
    host: HeaderValue,
    pool: Pool,
    options: Options,
}

impl Remote {
    /// The server at `host:port`, `http://host:port` or `unix:/path`, with default options.
    ///
    /// # Errors
    /// An address that cannot be parsed.
    pub fn new(address: impl AsRef<str>) -> io::Result<Self> {
        Ok(Self::builder(address.as_ref().parse()?).build())
    }

    /// The server at this address, with options.
    pub fn builder(address: Address) -> RemoteBuilder {
        RemoteBuilder::new(address)
    }

    pub(super) fn with_options(address: Address, options: Options) -> Self {
        let host = match &address {
            Address::Tcp(host) => HeaderValue::from_str(host).ok(),
            Address::Unix(_) => None,
        };
        let host = host.unwrap_or(HeaderValue::from_static("localhost"));
        Self(Arc::new(Shared { address, host, pool: Pool::default(), options }))
    }

    /// The server's address.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Connects once; the error names the server and what failed.
    pub(super) async fn check(&self) -> io::Result<()> {
        let Err(error) = connect::connect(self.0.clone(), None).await else { return Ok(()) };
        let mut cause: &dyn StdError = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Err(io::Error::other(format!("cannot connect to {}: {cause}", self.address())))
    }

    /// How many connections are idle now, in all runtimes.
    pub fn idle_connections(&self) -> usize {
        self.0.pool.len()
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
            request.headers_mut().insert(HOST, self.0.host.clone());
        }
        ResponseFuture::new(self.0.clone(), request)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("address", &self.0.address)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}
