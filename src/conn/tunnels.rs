//! `TunnelOptions`: connections through a gateway that switch to another protocol, such as WebSocket.

mod run;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{RequestInfo, relay::Limits};
use crate::{Response, body::HttpBody, semantics::upgrade};

/// The default maximum time without traffic in either direction of a tunnel: 10 minutes, as with
/// [`TcpBalance`](crate::upstream::TcpBalance). Most applications send a ping more often.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// The default maximum duration of a tunnel: 24 hours. It bounds how long a client keeps its access after its
/// credentials have expired.
pub const TUNNEL_TOTAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The default time for which a tunnel continues when a shutdown has started: 10 s, less than the
/// [`shutdown_timeout`](crate::serve::Serve::shutdown_timeout), after which it would be aborted.
pub const TUNNEL_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The default maximum number of tunnels at a time: 4,096. Each takes a connection to a server, and up to 256 KiB while
/// bytes wait for slow readers: one read in each direction.
pub const MAX_TUNNELS: usize = 4096;

/// Time that both peers of a tunnel have to close it when a shutdown ends it: 1 s.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The protocols to which connections through a gateway may switch, and the bounds of such tunnels.
///
/// A request that [asks for a switch](crate::semantics::upgrade::requested) to an allowed protocol is sent to the
/// server with its `Upgrade`. If the server answers 101 with this protocol, the following bytes of both connections
/// belong to the tunnel; until then the client's bytes are parsed as HTTP/1.1. After any other response, both
/// connections serve further requests. `Upgrade` is removed from requests that have a body, name several protocols or
/// name one that is not allowed (RFC 9110 section 7.8 lets a server ignore it). `h2c` is never allowed.
///
/// The request is not retried if its head may have reached a server. A tunnel counts as a request in flight until it
/// ends, for permits, limits and policies. Its duration does not count as latency, and its end not as a failure.
///
/// ```
/// use std::time::Duration;
/// use vestibule::upstream::{TunnelOptions, Upstream};
///
/// let tunnels = TunnelOptions::new().idle_timeout(Duration::from_secs(60)).max_tunnels(100);
/// let chat = Upstream::builder(["10.0.0.1:3000"]).tunnels(tunnels).build()?;
/// assert_eq!(chat.tunnel_stats().active, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TunnelOptions {
    protocols: Arc<[HeaderValue]>,
    limits: Limits,
    drain_timeout: Duration,
    max_tunnels: usize,
}

impl TunnelOptions {
    /// Allows `websocket` (RFC 6455), with the default bounds.
    pub fn new() -> Self {
        Self {
            protocols: Arc::new([HeaderValue::from_static("websocket")]),
            limits: Limits {
                idle_timeout: TUNNEL_IDLE_TIMEOUT,
                total_timeout: Some(TUNNEL_TOTAL_TIMEOUT),
            },
            drain_timeout: TUNNEL_DRAIN_TIMEOUT,
            max_tunnels: MAX_TUNNELS,
        }
    }

    /// Allows no protocol.
    pub fn off() -> Self {
        Self::new().protocols([])
    }

    /// Sets the allowed protocols. The gateway's rules for requests do not apply to the bytes of a tunnel. Default:
    /// `websocket`.
    ///
    /// # Panics
    /// If a name is not a valid field value.
    #[must_use]
    pub fn protocols(mut self, names: impl IntoIterator<Item = &'static str>) -> Self {
        self.protocols = names.into_iter().map(HeaderValue::from_static).collect();
        self
    }

    /// Sets the maximum time without traffic in either direction. Default: [`TUNNEL_IDLE_TIMEOUT`].
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// Sets the maximum duration of a tunnel. Default: [`TUNNEL_TOTAL_TIMEOUT`].
    #[must_use]
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.limits.total_timeout = Some(timeout);
        self
    }

    /// Sets how long a tunnel continues when a shutdown has started. Then it is closed gracefully: in a WebSocket both
    /// sides get a Close frame with the code 1001, unless another frame is incomplete. Default:
    /// [`TUNNEL_DRAIN_TIMEOUT`].
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Sets the maximum number of tunnels at a time; a further request for one is answered with 503. 0 allows none. Default:
    /// [`MAX_TUNNELS`].
    #[must_use]
    pub fn max_tunnels(mut self, n: usize) -> Self {
        self.max_tunnels = n.min(Semaphore::MAX_PERMITS);
        self
    }
}

impl Default for TunnelOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Counters of the tunnels of a gateway since its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunnelStats {
    /// Open tunnels, and requests for one that the server has not yet answered.
    pub active: usize,
    /// Tunnels that were opened.
    pub opened: u64,
    /// Requests for a tunnel that were answered with 503, since the maximum number was active.
    pub refused: u64,
    /// Bytes from clients to servers, added when a tunnel ends.
    pub sent: u64,
    /// Bytes from servers to clients, added when a tunnel ends.
    pub received: u64,
}

/// The tunnels of one gateway, shared by its clones.
#[derive(Debug)]
pub(crate) struct Tunnels {
    options: TunnelOptions,
    permits: Arc<Semaphore>,
    opened: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The maximum number of tunnels is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the maximum number of tunnels is active (max_tunnels)")]
pub struct TooManyTunnels;

/// A request for a switch to another protocol, with the permit of its tunnel.
pub(crate) struct Switch {
    protocol: HeaderValue,
    tunnels: Arc<Tunnels>,
    request: RequestInfo,
    _permit: OwnedSemaphorePermit,
}

impl Tunnels {
    pub(crate) fn new(options: TunnelOptions) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(options.max_tunnels)),
            options,
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
    }

    /// Returns the switch that a request asks for, if it is allowed.
    pub(crate) fn switch<B: HttpBody>(
        self: &Arc<Self>,
        request: &Request<B>,
    ) -> Result<Option<Box<Switch>>, TooManyTunnels> {
        let (method, version) = (request.method(), request.version());
        let requested = upgrade::requested_by(method, version, request.headers());
        let is_allowed = |requested: &&HeaderValue| {
            let mut allowed = self.options.protocols.iter();
            request.body().is_end_stream()
                && allowed.any(|name| name.as_bytes().eq_ignore_ascii_case(requested.as_bytes()))
        };
        let Some(protocol) = requested.filter(is_allowed).cloned() else { return Ok(None) };
        self.admit(protocol, request).map(|switch| Some(Box::new(switch)))
    }

    /// Returns the permit of a tunnel for `request`. `protocol` is for the log.
    pub(crate) fn admit<B>(
        self: &Arc<Self>,
        protocol: HeaderValue,
        request: &Request<B>,
    ) -> Result<Switch, TooManyTunnels> {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(Switch {
                protocol,
                tunnels: self.clone(),
                request: RequestInfo::from_request(request),
                _permit: permit,
            }),
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                Err(TooManyTunnels)
            }
        }
    }

    pub(crate) fn stats(&self) -> TunnelStats {
        TunnelStats {
            active: self.options.max_tunnels - self.permits.available_permits(),
            opened: self.opened.load(Relaxed),
            refused: self.refused.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        }
    }
}

impl Switch {
    /// Returns the request, for log lines.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for CONNECT"))]
    pub(crate) fn request(&self) -> &RequestInfo {
        &self.request
    }

    /// Adds `Upgrade` to a request whose hop-by-hop fields were removed.
    pub(crate) fn set_upgrade<B>(&self, request: &mut Request<B>) {
        upgrade::set(request.headers_mut(), self.protocol.clone());
    }

    /// Begins the tunnel if the server has answered 101. The hop-by-hop fields of the response were removed before.
    pub(crate) fn complete(self, response: &mut Response) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upgrade::set(response.headers_mut(), self.protocol.clone());
            self.begin(response);
        }
    }
}
