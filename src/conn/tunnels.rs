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

/// How long nothing may move in a tunnel, unless set otherwise, as with [`TcpBalance`](crate::upstream::TcpBalance): 10 minutes.
/// Most applications send a ping more often than that.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a tunnel may last, unless set otherwise, 24 hours: a client whose login has ended meanwhile does not keep
/// what it was allowed for ever.
pub const TUNNEL_TOTAL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How long a tunnel goes on when a shutdown has begun, unless set otherwise, 10 s: less than the
/// [`shutdown_timeout`](crate::serve::Serve::shutdown_timeout), after which it would be aborted.
pub const TUNNEL_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How many tunnels there are at a time, unless set otherwise. Each takes a connection to a server, and up to 32 KiB
/// while bytes wait for a slow reader.
pub const MAX_TUNNELS: usize = 4096;

/// How long the peers of a tunnel may take to end it when a shutdown ends it, 1 s.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Which connections through a gateway may switch to another protocol, and their bounds.
///
/// A request that [asks for a switch](crate::semantics::upgrade::requested) to one of the protocols is sent to the server with
/// its `Upgrade`, and only when the server has answered 101 for this protocol the bytes that follow belong to the
/// tunnel. Until then they are a request of HTTP/1.1. Any other response is returned as it is, and the connections
/// serve further requests. Of all other requests `Upgrade` is removed, as a server may ignore it (RFC 9110 section
/// 7.8): of those with a body, for several protocols or for one that is not allowed. `h2c` is never allowed.
///
/// The request is never sent twice once its head may have reached a server. A tunnel counts as a request in flight to its end,
/// for permits, limits and policies; its duration does not count as latency, nor its end as a failure.
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

    /// Allows no switch.
    pub fn off() -> Self {
        Self::new().protocols([])
    }

    /// Which protocols may be switched to. Rules of the gateway for requests do not apply to what a tunnel carries.
    /// Default: `websocket`.
    ///
    /// # Panics
    /// A name is no valid field value.
    #[must_use]
    pub fn protocols(mut self, names: impl IntoIterator<Item = &'static str>) -> Self {
        self.protocols = names.into_iter().map(HeaderValue::from_static).collect();
        self
    }

    /// How long nothing may move in a tunnel, in either direction. Default: [`TUNNEL_IDLE_TIMEOUT`].
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// How long a tunnel may last. Default: [`TUNNEL_TOTAL_TIMEOUT`].
    #[must_use]
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.limits.total_timeout = Some(timeout);
        self
    }

    /// How long a tunnel goes on when a shutdown has begun. Then it is closed in order, a WebSocket on both sides by a
    /// Close frame with the code 1001, unless another frame is incomplete. Default:
    /// [`TUNNEL_DRAIN_TIMEOUT`].
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How many tunnels there may be at a time; further requests for one are answered with 503. Default:
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

/// Figures of the tunnels of a gateway since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunnelStats {
    /// Tunnels, and requests for one that the server has not answered.
    pub active: usize,
    /// Tunnels that have begun.
    pub opened: u64,
    /// Requests for a tunnel that were answered with 503, since as many as may were active.
    pub refused: u64,
    /// Bytes from clients to servers. They count when their tunnel has ended.
    pub sent: u64,
    /// Bytes from servers to clients. They count when their tunnel has ended.
    pub received: u64,
}

/// The tunnels of one gateway, over all clones.
#[derive(Debug)]
pub(crate) struct Tunnels {
    options: TunnelOptions,
    permits: Arc<Semaphore>,
    opened: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// As many tunnels as may be are active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many tunnels as may be are active")]
pub struct TooManyTunnels;

/// A request for a switch to another protocol, with its share of the number of tunnels.
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
        let asked = upgrade::requested_by(method, version, request.headers());
        let is_allowed = |asked: &&HeaderValue| {
            let mut allowed = self.options.protocols.iter();
            request.body().is_end_stream()
                && allowed.any(|name| name.as_bytes().eq_ignore_ascii_case(asked.as_bytes()))
        };
        let Some(protocol) = asked.filter(is_allowed).cloned() else { return Ok(None) };
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => Ok(Some(Box::new(Switch {
                protocol,
                tunnels: self.clone(),
                request: RequestInfo::from_request(request),
                _permit: permit,
            }))),
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
    /// Asks for the switch in a request whose fields of the client's hop were removed.
    pub(crate) fn ask<B>(&self, request: &mut Request<B>) {
        upgrade::set(request.headers_mut(), self.protocol.clone());
    }

    /// Begins the tunnel if the server has agreed. The fields of its hop were removed from the response.
    pub(crate) fn complete(self, response: &mut Response) {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            upgrade::set(response.headers_mut(), self.protocol.clone());
            self.begin(response);
        }
    }
}
