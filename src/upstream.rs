//! Reverse proxy: endpoints, balancing, retries and forwarding.
//!
//! [`Upstream`] combines all of it for a list of servers. Its parts can be used separately:
//!
//! | part | purpose |
//! |---|---|
//! | [`Forward`] | rewrites requests and responses as a gateway must: hop-by-hop fields, `X-Forwarded-*` |
//! | [`Retry`] | sends a failed request again, if that is safe |
//! | [`Hedge`] | sends an idempotent request a second time if the first takes long |
//! | [`Mirror`] | sends a copy of some requests to a shadow |
//! | [`Balance`] | sends a request to the [`Endpoint`] that a [policy](crate::policy::pick) picks |
//! | [`Remote`] | a server at an address, with a pool of idle connections |
//! | [`TcpBalance`] | forwards whole connections, of any protocol, to endpoints |
//! | [`discover`] | sources of endpoints: a file, DNS, etcd, or a custom stream |
//! | [`check`] | active health checks |
//! | [`Connect`] | tunnels of clients to other hosts, by the method CONNECT |
//! | [`FastCgi`] | a FastCGI application at an address, such as php-fpm |
//!
//! An endpoint is any service: a remote server, a pool of worker threads, an `axum::Router` or a closure.
//! [`ErasedService`] makes one type of them.
//!
//! The task that serves the client also drives the connection to the server, without another task or a channel. A mutex
//! is held only for a moment to take the connection from the pool and to return it. A connection never leaves its
//! runtime.

pub mod balance;
pub mod check;
pub mod connect;
pub mod discover;
pub mod endpoint;
pub mod erased;
pub mod fastcgi;
pub mod forward;
pub mod hedge;
pub mod mirror;
pub mod remote;
pub mod retry;
pub mod tcp;

mod attempt;
mod builder;
mod call;
mod connector;
mod error;
mod group;
mod history;
mod pooled;
mod queue;
mod server_address;
#[cfg(feature = "h2")]
mod shared;
#[cfg(not(feature = "h2"))]
#[path = "upstream/no_shared.rs"]
mod shared;
#[cfg(feature = "tls")]
mod tls_options;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::task::JoinSet;
use tower_service::Service;

use crate::{
    body::{Body, HttpBody},
    error::{BoxError, Chain},
    policy::pick::Pick,
};

pub use crate::conn::{
    Delivery,
    tunnels::{
        MAX_TUNNELS, TUNNEL_DRAIN_TIMEOUT, TUNNEL_IDLE_TIMEOUT, TUNNEL_TOTAL_TIMEOUT,
        TooManyTunnels, TunnelOptions, TunnelStats,
    },
};
pub use attempt::READY_TIMEOUT;
pub use balance::{Balance, BalanceBuilder, EmptySet};
pub use builder::UpstreamBuilder;
pub use connect::{Connect, ConnectLayer};
pub use endpoint::{
    Endpoint, EndpointError, EndpointHandle, EndpointKey, EndpointLimits, EndpointStatus,
};
pub use erased::ErasedService;
pub use error::{AttemptError, AttemptErrorKind, NoEndpoint, NoRoom, NotReady, Unreachable};
pub use fastcgi::{FastCgi, FastCgiBuilder};
pub use forward::{Forward, ForwardLayer, HostPolicy};
pub use hedge::{Hedge, HedgeLayer};
pub use mirror::{MAX_MIRRORED, MIRROR_TIMEOUT, Mirror, MirrorLayer};
pub use pooled::{
    CONNECT_TIMEOUT, IDLE_TIMEOUT, IdleLimit, MAX_AGE, MAX_QUEUED, NON_IDEMPOTENT_IDLE_TIMEOUT,
    PoolConfig, PoolExhausted, QUEUE_TIMEOUT, TOTAL_IDLE,
};
pub use queue::{
    BALANCE_QUEUE_TIMEOUT, Priority, PriorityStats, QueueError, QueueOptions, QueueStats,
};
pub use remote::{RESPONSE_TIMEOUT, Remote, RemoteBuilder};
pub use retry::{ATTEMPTS, Retry, RetryLayer};
pub use server_address::{Scheme, ServerAddress};
pub use tcp::{TcpBalance, TcpBalanceBuilder, TcpTarget};

/// A reverse proxy to one or several HTTP servers: [`Forward`] over [`Retry`] over [`Balance`] over
/// [`Remote`]s.
///
/// - Requests go to the servers in turn, unless another [policy](UpstreamBuilder::policy) is set. A server that
///   cannot be reached is ejected for a second, and for longer if it remains unreachable.
/// - Servers can be added, removed, drained, weighted and limited at any time: see [`balance`](Self::balance) and
///   [`follow`](Self::follow).
/// - A request that was not sent is sent to the next server. One that may have been sent is retried only if its
///   method is idempotent, its body can be replayed, and no byte of a response has arrived. Each server is tried
///   once. After that, a server of which only an idle connection was tried, and found closed, is tried again.
/// - Hop-by-hop fields are removed in both directions, `Host` is kept, and `X-Forwarded-*` names the client.
/// - WebSockets pass, within bounds: see [`TunnelOptions`].
/// - A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the response's
///   head, connecting included. A request whose deadline has passed is not sent.
/// - Errors are [`Kind::BadGateway`](crate::error::Kind::BadGateway) and
///   [`Kind::Timeout`](crate::error::Kind::Timeout).
///
/// Always ready. Cheap to clone: clones share connections. It takes requests with any body, so it fits
/// into an `axum::Router` and between the layers of `tower-http`.
///
/// ```
/// use vestibule::upstream::{PoolConfig, Upstream};
///
/// let api = Upstream::new(["127.0.0.1:3000", "http://127.0.0.1:3001", "unix:/run/app.sock"])?;
/// let with_options = Upstream::builder(["127.0.0.1:3000"]).pool(PoolConfig::new().keep_idle(32)).build()?;
/// # drop((api, with_options));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Upstream(Forward<Retry<Remotes>>, Arc<builder::Template>);

type Remotes = Balance<Remote, Arc<dyn Pick>>;

impl Upstream {
    /// Creates a proxy to these servers with default options. See [`ServerAddress`] for the forms of their addresses.
    ///
    /// # Errors
    /// An address that cannot be parsed or whose scheme this build does not support, or an empty list. For
    /// `https://`, the system has no root certificates.
    pub fn new<A: AsRef<str>>(servers: impl IntoIterator<Item = A>) -> io::Result<Self> {
        Self::builder(servers).build()
    }

    /// Returns a builder for these servers. [`build`](UpstreamBuilder::build) returns the error of an invalid
    /// address.
    pub fn builder<A: AsRef<str>>(servers: impl IntoIterator<Item = A>) -> UpstreamBuilder {
        servers.into_iter().fold(UpstreamBuilder::new(), |builder, server| builder.server(server))
    }

    /// Checks that all servers can be reached: connects once to each, and closes the connection.
    ///
    /// Without this call, the first connection is made by the first request, since a server may be started later, and
    /// a server that cannot be reached is only logged as a warning (`endpoint ejected`). Await this method at startup
    /// to make it an error:
    ///
    /// ```no_run
    /// # async fn run() -> std::io::Result<()> {
    /// let api = vestibule::upstream::Upstream::new(["10.0.0.1:3000", "10.0.0.2:3000"])?;
    /// api.check().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error names each server to which no connection could be made within the connect timeout, and the cause.
    ///
    /// # Panics
    /// When it is polled outside of a Tokio runtime.
    pub async fn check(&self) -> io::Result<()> {
        let mut checks = JoinSet::new();
        for endpoint in self.endpoints().iter() {
            let remote = endpoint.service().clone();
            checks.spawn(async move { remote.check().await });
        }
        let mut failures = Vec::new();
        while let Some(result) = checks.join_next().await {
            failures.extend(result?.err().map(|error| Chain(&error).to_string()));
        }
        if failures.is_empty() {
            return Ok(());
        }
        failures.sort_unstable();
        Err(io::Error::new(io::ErrorKind::NotConnected, failures.join("; ")))
    }

    /// Returns the current servers, in the order in which they were added.
    pub fn endpoints(&self) -> Arc<[Endpoint<Remote>]> {
        self.balance().endpoints()
    }

    /// Returns the balancer. Its servers, weights, policy and limits can be read and changed at any time, and it can
    /// run active [health checks](Balance::check).
    pub fn balance(&self) -> &Balance<Remote, Arc<dyn Pick>> {
        self.0.get_ref().get_ref()
    }

    /// Returns the figures of its [tunnels](TunnelOptions).
    pub fn tunnel_stats(&self) -> TunnelStats {
        self.0.tunnel_stats()
    }

    /// Follows a source of servers: see [`Balance::follow`]. New servers have the options of this proxy. Spawn the
    /// future as a task.
    pub fn follow<D: discover::Discover + 'static>(
        &self,
        source: D,
    ) -> impl Future<Output = ()> + Send + use<D> {
        self.follow_with(source, discover::FollowOptions::new())
    }

    /// Follows a source of servers, with options.
    pub fn follow_with<D: discover::Discover + 'static>(
        &self,
        source: D,
        options: discover::FollowOptions,
    ) -> impl Future<Output = ()> + Send + use<D> {
        let template = self.1.clone();
        // The roots of the system are read for the first server that needs them.
        let secured = OnceLock::new();
        self.balance().follow(source, options, move |target| {
            let template = match target.address.scheme() {
                Scheme::Https => {
                    secured.get_or_init(|| builder::Template::clone(&template).secured())
                }
                Scheme::Http | Scheme::Http2 => &template,
            };
            template.endpoint(&target.address)
        })
    }
}

impl<B: HttpBody> Service<Request<B>> for Upstream {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture(self.0.call(request.map(Body::new)))
    }
}

/// The future of [`Upstream`].
///
/// It is not boxed: the server that awaits it boxes the futures of all layers together.
#[pin_project]
pub struct ResponseFuture(#[pin] forward::ResponseFuture<RetryFuture>);

type RetryFuture = retry::ResponseFuture<Remotes, <Remotes as Service<Request<Body>>>::Future>;

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().0.poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("balance", self.balance()).finish_non_exhaustive()
    }
}
