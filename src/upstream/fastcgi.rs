//! `FastCgi`: a FastCGI application at an address, such as php-fpm, as a service.

mod builder;
mod protocol;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header};
use tower_service::Service;

use self::protocol::FastCgi1;
use super::{
    endpoint::{Endpoint, EndpointKey},
    error::{AttemptError, AttemptErrorKind},
    pooled,
};
use crate::{
    body::{Body, HttpBody},
    conn::{
        Delivery,
        fcgi::scripts::{ScriptResolver, not_found},
    },
    error::Error,
    net::Address,
    semantics::{
        cgi::{Script, Scripts},
        hop,
    },
};

pub use builder::FastCgiBuilder;

/// A FastCGI application at an address as a service, for example php-fpm on a Unix socket.
///
/// - The path of a request selects the script (see [`Scripts`]). A path without a script, or with one that does not
///   exist or lies outside of the folder after symbolic links are resolved, is answered with 404 here and never
///   reaches the application.
/// - The request is converted to CGI variables by [`Scripts::variables`]. The client is that of the request's
///   [`Peer`](crate::peer::Peer) extension.
/// - The length of a request's body must be known: a
///   [`RequestBufferLayer`](crate::layer::RequestBufferLayer) outside of this service ensures that, and keeps slow
///   clients from occupying workers of the application. Without it a chunked body is an error.
/// - Output on STDERR is logged: see [`conn::fcgi`](crate::conn::fcgi::Connection).
/// - Idle connections are kept as those of a [`Remote`](super::Remote). php-fpm has one worker for each
///   connection, idle or not: [`keep_idle`](super::PoolConfig::keep_idle) must be less than its
///   `pm.max_children`, and its default is 0. While a script goes on after its response
///   (`fastcgi_finish_request`), its connection is not used. That is recognized on a Unix socket only: over TCP, keep
///   idle connections only for applications that do not do this.
/// - A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the response's
///   head, connecting included.
///
/// It makes one attempt; [`Retry`](super::Retry) makes more, and [`Balance`](super::Balance) distributes requests
/// over several applications. Forwarding fields of the client are passed on unchanged: use
/// [`ForwardLayer`](super::ForwardLayer) if the application trusts `X-Forwarded-For`. Always ready. Cheap to clone:
/// clones share connections.
///
/// ```
/// use tower::ServiceBuilder;
/// use vestibule::{files, layer, semantics::cgi::Scripts, upstream::FastCgi};
///
/// let scripts = Scripts::new("/srv/www").front_controller("/index.php");
/// let php = FastCgi::new("unix:/run/php/php-fpm.sock", scripts)?;
/// let site = ServiceBuilder::new()
///     .layer(layer::ResponseBufferLayer::new()) // a worker does not wait for a client that reads slowly
///     .layer(layer::RequestBufferLayer::new()) // nor for one that sends slowly
///     .service(php);
/// # drop(site);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct FastCgi(Arc<Shared>);

struct Shared {
    server: Arc<pooled::Server<FastCgi1>>,
    resolver: ScriptResolver,
}

impl FastCgi {
    /// Creates the service of the application at `host:port` or `unix:/path`, with default options.
    ///
    /// # Errors
    /// An address that cannot be parsed.
    pub fn new(address: impl AsRef<str>, scripts: Scripts) -> io::Result<Self> {
        Ok(Self::builder(address.as_ref().parse()?, scripts).build())
    }

    /// Returns a builder for the application at this address.
    pub fn builder(address: Address, scripts: Scripts) -> FastCgiBuilder {
        FastCgiBuilder::new(address, scripts)
    }

    /// Returns the application's address.
    pub fn address(&self) -> &Address {
        &self.0.server.address
    }

    /// Connects once. The error names the server, and its source is the cause.
    pub(super) async fn check(&self) -> io::Result<()> {
        self.0.server.check(self.0.server.connector()).await
    }

    /// Returns the current number of idle connections, in all runtimes.
    pub fn idle_connections(&self) -> usize {
        self.0.server.idle_connections()
    }
}

/// The endpoint's key is the address.
impl From<FastCgi> for Endpoint<FastCgi> {
    fn from(application: FastCgi) -> Self {
        Self::new(EndpointKey::from(application.address().to_string()), application)
    }
}

impl<B: HttpBody> Service<Request<B>> for FastCgi {
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let mut request = request.map(Body::new);
        hop::strip(request.headers_mut());
        request.headers_mut().remove(header::EXPECT);
        let (shared, path) = (self.0.clone(), request.uri().path().to_owned());
        let find = Box::pin(async move { shared.resolver.find(&path).await });
        ResponseFuture(State::Finding { find, begin: Some((self.0.clone(), request)) })
    }
}

/// Creates the error of a request that is not sent to any endpoint.
fn refused(error: Error) -> AttemptError {
    AttemptError::new(AttemptErrorKind::Request, Delivery::NotSent, error)
}

/// The future of [`FastCgi`].
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
pub struct ResponseFuture(State);

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum State {
    Finding { find: FindScript, begin: Option<(Arc<Shared>, Request<Body>)> },
    Sending(pooled::ResponseFuture<FastCgi1>),
}

type FindScript = Pin<Box<dyn Future<Output = Result<Option<Script>, Error>> + Send>>;

const ENDED: &str = "not polled again after it has ended";

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                State::Sending(future) => return Pin::new(future).poll(cx),
                State::Finding { find, begin } => {
                    let script = ready!(find.as_mut().poll(cx));
                    let (shared, request) = begin.take().expect(ENDED);
                    match script {
                        Ok(Some(script)) => match shared.resolver.params(&script, &request) {
                            Ok(params) => {
                                self.0 = State::Sending(shared.server.send(request, params));
                            }
                            Err(error) => return Poll::Ready(Err(refused(error))),
                        },
                        Ok(None) => return Poll::Ready(Ok(not_found())),
                        Err(error) => return Poll::Ready(Err(refused(error))),
                    }
                }
            }
        }
    }
}

impl fmt::Debug for FastCgi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastCgi")
            .field("address", self.address())
            .field("scripts", self.0.resolver.scripts())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
