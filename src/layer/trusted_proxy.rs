//! `TrustedProxy`: determines the client of a request behind trusted proxies.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService,
    error::{BoxError, Error, Kind},
    peer::{Network, Peer},
    semantics::forwarded::{InvalidClientField, remove_client_fields, x_forwarded_proto},
};

pub use crate::semantics::forwarded::ClientField;

/// Wraps a service in [`TrustedProxy`]. Put it outermost, so that all layers see the same client.
///
/// ```
/// use vestibule::layer::{ClientField, TrustedProxyLayer};
///
/// let layer = TrustedProxyLayer::new(ClientField::XForwardedFor)
///     .trust("10.0.0.0/8".parse()?)
///     .trust("fd00::/8".parse()?)
///     .x_forwarded_proto(true);
/// # drop(layer);
/// # Ok::<(), vestibule::peer::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone)]
pub struct TrustedProxyLayer {
    options: Arc<Options>,
}

#[derive(Debug, Clone)]
struct Options {
    field: ClientField,
    networks: Vec<Network>,
    trust_unix: bool,
    read_proto: bool,
}

impl TrustedProxyLayer {
    /// Creates a layer that trusts no proxy yet. Trusted proxies must write `field` and add the address of
    /// each of their clients to it.
    pub fn new(field: ClientField) -> Self {
        let options = Options { field, networks: Vec::new(), trust_unix: false, read_proto: false };
        Self { options: Arc::new(options) }
    }

    /// Trusts proxies with an address in this network, whether they connect directly or are further away.
    #[must_use]
    pub fn trust(self, network: Network) -> Self {
        self.with(|options| options.networks.push(network))
    }

    /// Trusts every peer on a Unix socket. Off by default.
    #[must_use]
    pub fn trust_unix(self) -> Self {
        self.with(|options| options.trust_unix = true)
    }

    /// Sets whether the client's scheme is taken from `X-Forwarded-Proto`. Defaults to `false`. Enable it only
    /// if each trusted proxy sets or removes that field, since other proxies pass on what the client sent.
    /// Ignored with [`ClientField::Forwarded`], which contains the scheme.
    #[must_use]
    pub fn x_forwarded_proto(self, on: bool) -> Self {
        self.with(|options| options.read_proto = on)
    }

    fn with(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(Arc::make_mut(&mut self.options));
        self
    }
}

impl<S> Layer<S> for TrustedProxyLayer {
    type Service = TrustedProxy<S>;

    fn layer(&self, inner: S) -> TrustedProxy<S> {
        TrustedProxy { inner, options: self.options.clone() }
    }
}

/// Sets the [`Peer`] of each request to the client that a trusted proxy names, as nginx's `set_real_ip_from` with
/// `real_ip_recursive`.
///
/// A request's hop ([`Peer::hop_ip`]) is trusted if its address is in one of the networks. Then [`ClientField::resolve`]
/// evaluates one field, the [`ClientField`]: the client is the last address in it that is not trusted. For inner services,
/// [`Peer::ip`], [`Peer::network`], [`Peer::addr`] and [`Peer::scheme`] are those of the client: for the access log, for
/// limits, and for [`ForwardedFields`](crate::semantics::forwarded::ForwardedFields) to an upstream. Without the field, the
/// client is the hop. The response has the same [`Peer`] in its extensions, for the server's access
/// log. An error has none: without a [`RescueLayer`](super::RescueLayer) directly inside, the entry of a
/// failed request names the hop.
///
/// Inner services can trust the fields that name a client:
/// - From a trusted hop, the list begins with the client, without addresses that the client itself sent. Other fields that
///   name a client are removed, and so is `X-Forwarded-Proto` unless it is [read](TrustedProxyLayer::x_forwarded_proto).
///   `X-Forwarded-Host` and similar fields are kept.
/// - From any other hop, and without a [`Peer`], all of them are removed.
///
/// An ambiguous field of a trusted proxy is an error of [`Kind::BadRequest`] whose source is
/// [`InvalidClientField`]: 400. Readiness passes through.
///
/// By default only the client is forwarded to an upstream. With
/// [`Trust::Append`](crate::semantics::forwarded::Trust::Append) the chain is: client, proxies, and the
/// hop.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, peer::Peer};
/// use vestibule::layer::{ClientField, TrustedProxyLayer};
///
/// let layer = TrustedProxyLayer::new(ClientField::XForwardedFor).trust("10.0.0.0/8".parse()?);
/// let app = layer.layer(service_fn(|request: Request| async move {
///     let client = request.extensions().get::<Peer>().unwrap().to_string();
///     Ok::<_, BoxError>(Response::new(Body::from(client)))
/// }));
///
/// let proxy = Peer::tcp("10.0.0.1:5000".parse().unwrap(), "10.0.0.9:80".parse().unwrap());
/// let request = Request::builder().extension(proxy).header("x-forwarded-for", "192.0.2.7");
/// # let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let response = rt.block_on(app.oneshot(request.body(Body::empty()).unwrap())).unwrap();
/// assert_eq!(response.body().as_bytes().unwrap(), "192.0.2.7");
/// # Ok::<(), vestibule::peer::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone)]
pub struct TrustedProxy<S> {
    inner: S,
    options: Arc<Options>,
}

impl Options {
    fn is_trusted(&self, ip: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(ip))
    }

    fn is_trusted_hop(&self, peer: &Peer) -> bool {
        match peer.hop_ip() {
            Some(ip) => self.is_trusted(ip),
            None => self.trust_unix && peer.is_unix(),
        }
    }

    /// Sets the request's peer and fields to the same client. Returns the peer if it has changed.
    fn apply<B>(&self, request: &mut Request<B>) -> Result<Option<Peer>, InvalidClientField> {
        let hop =
            request.extensions().get::<Peer>().filter(|peer| self.is_trusted_hop(peer)).cloned();
        let Some(mut peer) = hop else {
            remove_client_fields(request.headers_mut());
            return Ok(None);
        };
        let scheme = if self.read_proto && self.field != ClientField::Forwarded {
            x_forwarded_proto(request.headers())?
        } else {
            // The proxy may have passed on the client's value.
            request.headers_mut().remove("x-forwarded-proto");
            None
        };
        let client = self.field.resolve(request.headers_mut(), |ip| self.is_trusted(ip))?;
        let named = client.as_ref().and_then(|client| client.scheme.clone());
        if client.is_none() && scheme.is_none() {
            return Ok(None);
        }
        if let Some(client) = client {
            peer = peer.forwarded_for(client.ip, client.port);
        }
        if let Some(scheme) = scheme.or(named) {
            peer = peer.forwarded_proto(scheme);
        }
        request.extensions_mut().insert(peer.clone());
        Ok(Some(peer))
    }
}

impl<S, B> Service<Request<B>> for TrustedProxy<S>
where
    S: HttpService<B> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        ResponseFuture(match self.options.apply(&mut request) {
            Ok(peer) => State::Inner { future: self.inner.call(request), peer },
            Err(invalid) => {
                self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
                State::Refused(Some(Error::new(Kind::BadRequest, invalid)))
            }
        })
    }
}

/// The future of [`TrustedProxy`].
#[pin_project]
pub struct ResponseFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProj)]
enum State<F> {
    Inner {
        #[pin]
        future: F,
        peer: Option<Peer>,
    },
    Refused(Option<Error>),
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Inner { future, peer } => {
                let mut response = ready!(future.poll(cx)).map_err(Into::into)?;
                if let Some(peer) = peer.take() {
                    response.extensions_mut().insert(peer);
                }
                Poll::Ready(Ok(response))
            }
            StateProj::Refused(error) => {
                Poll::Ready(Err(error.take().expect("not polled after its end").into()))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
