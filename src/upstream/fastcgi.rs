//! `FastCgi`: an application that speaks FastCGI at an address, such as php-fpm, as a service.

mod builder;
mod protocol;
mod script;
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

use http::{HeaderValue, Request, Response, StatusCode, header};
use tower_service::Service;

use self::{
    protocol::FastCgi1,
    script::{ScriptCheck, find_script},
};
use super::{
    endpoint::{Endpoint, EndpointKey},
    error::{AttemptError, AttemptErrorKind},
    pooled,
};
use crate::{
    body::{Body, HttpBody},
    conn::Delivery,
    error::{BoxError, Error, Kind},
    net::Address,
    peer::Peer,
    proto::fcgi::{Misuse, Params},
    semantics::{
        cgi::{Script, Scripts},
        hop,
    },
};

pub use builder::FastCgiBuilder;

/// An application that speaks FastCGI at an address, as a service: php-fpm on a Unix socket, for
/// example.
///
/// - The path of a request names the script, as [`Scripts`] has it. A path that names none, or one that
///   does not exist, is answered with 404 here, and never reaches the application.
/// - The request becomes the variables of CGI, by [`Scripts::variables`]. The client is that of the
///   request's [`Peer`] extension.
/// - The length of a request's body must be known: a
///   [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front sees to that, and keeps slow
///   clients from the application's few workers. Without it a chunked body is an error that says so.
/// - What the application writes to STDERR is logged: see [`conn::fcgi`](crate::conn::fcgi::Connection).
/// - Idle connections are kept as those of a [`Remote`](super::Remote). php-fpm has one worker for each
///   connection, idle or not: [`keep_idle`](super::PoolConfig::keep_idle) must be less than its
///   `pm.max_children`, and its default is 0.
/// - A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the response's
///   head, connecting included.
///
/// It makes one attempt; [`Retry`](super::Retry) makes more, and [`Balance`](super::Balance) spreads
/// requests over several. Fields that say who the client is come from the client as they are: put
/// [`ForwardLayer`](super::ForwardLayer) in front if the application trusts `X-Forwarded-For`. Always
/// ready. Cheap to clone: clones share connections.
///
/// ```
/// use tower::ServiceBuilder;
/// use vestibule::{files, layer, semantics::cgi::Scripts, upstream::FastCgi};
///
/// let scripts = Scripts::new("/srv/www").front_controller("/index.php");
/// let php = FastCgi::new("unix:/run/php/php-fpm.sock", scripts)?;
/// let site = ServiceBuilder::new()
///     .layer(layer::ResponseBufferLayer::new()) // the worker is free before the client has read
///     .layer(layer::RequestBufferLayer::new()) // and is not taken before the client has sent
///     .service(php);
/// # drop(site);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct FastCgi(Arc<Shared>);

struct Shared {
    server: Arc<pooled::Server<FastCgi1>>,
    scripts: Scripts,
    /// `None` if the scripts are not on this machine.
    check: Option<ScriptCheck>,
}

impl FastCgi {
    /// The application at `host:port` or `unix:/path`, with default options.
    ///
    /// # Errors
    /// An address that cannot be parsed.
    pub fn new(address: impl AsRef<str>, scripts: Scripts) -> io::Result<Self> {
        Ok(Self::builder(address.as_ref().parse()?, scripts).build())
    }

    /// The application at this address, with options.
    pub fn builder(address: Address, scripts: Scripts) -> FastCgiBuilder {
        FastCgiBuilder::new(address, scripts)
    }

    /// The application's address.
    pub fn address(&self) -> &Address {
        &self.0.server.address
    }

    /// How many connections are idle now, in all runtimes.
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
        let state = match self.0.scripts.candidates(request.uri().path()) {
            Ok(candidates) => {
                let find = find_script(self.0.clone(), candidates.collect());
                let (find, shared) = (Box::pin(find), self.0.clone());
                State::Finding { find, begin: Some((shared, request)) }
            }
            Err(error) => State::Failed(Some(refused(Kind::BadRequest, error))),
        };
        ResponseFuture(state)
    }
}

/// The error of a request that is not sent to any endpoint.
fn refused(kind: Kind, source: impl Into<BoxError>) -> AttemptError {
    AttemptError::new(AttemptErrorKind::Request, Delivery::NotSent, Error::new(kind, source))
}

/// The future of [`FastCgi`].
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
pub struct ResponseFuture(State);

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum State {
    Failed(Option<AttemptError>),
    Finding { find: FindScript, begin: Option<(Arc<Shared>, Request<Body>)> },
    Sending(pooled::ResponseFuture<FastCgi1>),
}

type FindScript = Pin<Box<dyn Future<Output = io::Result<Option<Script>>> + Send>>;

const ENDED: &str = "not polled again after it has ended";

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                State::Failed(error) => return Poll::Ready(Err(error.take().expect(ENDED))),
                State::Sending(future) => return Pin::new(future).poll(cx),
                State::Finding { find, begin } => {
                    let script = ready!(find.as_mut().poll(cx));
                    let (shared, request) = begin.take().expect(ENDED);
                    match script {
                        Ok(Some(script)) => {
                            let params = shared.params(&script, &request);
                            self.0 = match params {
                                Ok(params) => State::Sending(shared.server.send(request, params)),
                                Err(error) => State::Failed(Some(error)),
                            };
                        }
                        Ok(None) => return Poll::Ready(Ok(not_found())),
                        Err(e) => return Poll::Ready(Err(refused(Kind::Internal, e))),
                    }
                }
            }
        }
    }
}

impl Shared {
    /// The variables of a request to a script.
    fn params(&self, script: &Script, request: &Request<Body>) -> Result<Params, AttemptError> {
        let Some(length) = request.body().len() else {
            return Err(refused(Kind::Internal, Misuse::UnknownLength));
        };
        let memory = Peer::memory();
        let peer = request.extensions().get().unwrap_or(&memory);
        let (mut params, mut too_long) = (Params::new(), None);
        let push = |name: &str, value: &[u8]| {
            too_long = params.push(name.as_bytes(), value).err().or(too_long);
        };
        let variables = self.scripts.variables(script, request, length, peer, push);
        variables.map_err(|error| refused(Kind::BadRequest, error))?;
        match too_long {
            Some(misuse) => Err(refused(Kind::Internal, misuse)),
            None => Ok(params),
        }
    }
}

fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::from("404 Not Found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

impl fmt::Debug for FastCgi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastCgi")
            .field("address", self.address())
            .field("scripts", &self.0.scripts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
