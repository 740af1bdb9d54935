//! Connections: from an accepted stream to the driver of its protocol.
//!
//! A server's [`Connection`] is one future for one task, through all of its stages:
//!
//! ```text
//! accepted stream ─▶ [PROXY header] ─▶ [TLS handshake] ─▶ choice of protocol ─▶ driver
//! ```
//!
//! A PROXY header is read from [trusted senders](ProxyProtocol) only. Each stage passes a [`Transport`] to the next:
//! the stream, bytes that were read ahead, the known facts of the client, the
//! [`DrainWatch`](crate::net::DrainWatch) by which a shutdown ends it, and the time at which it was accepted, where
//! the deadline shared by all stages starts. A driver returns its transport after an upgrade. TLS negotiates the
//! protocol (ALPN); without TLS the first bytes show whether the client sends the preface of HTTP/2.
//!
//! Connections of our own ([`client`]) go to HTTP servers ([`h1::client`]) and to FastCGI applications
//! ([`fcgi`]).

pub mod access_log;
mod call;
mod checkin;
pub mod client;
mod config;
mod delivery;
pub mod fcgi;
mod first_read;
pub mod h1;
#[cfg(feature = "h2")]
pub mod h2;
#[cfg(not(feature = "h2"))]
#[path = "conn/no_h2.rs"]
pub(crate) mod h2;
pub(crate) mod head_pool;
mod interim;
mod misdirected;
mod output;
pub(crate) mod per_client;
mod read_ahead;
#[cfg(any(
    feature = "hyper",
    feature = "process",
    feature = "upstream",
    all(test, feature = "h2")
))]
#[cfg_attr(
    not(feature = "upstream"),
    allow(dead_code, unreachable_pub, reason = "only upstreams use all of it")
)]
pub(crate) mod relay;
mod request_log;
mod server;
pub(crate) mod setup;
#[cfg(test)]
pub(crate) mod testing;
mod thread_buffers;
mod timer;
mod transport;
mod tunnel;
#[cfg(any(feature = "hyper", feature = "process", feature = "upstream"))]
#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "only upstreams use all of it"))]
pub mod tunnels;
pub mod upgrade;
mod websocket;

pub use checkin::{Checkin, SingleUse};
#[cfg(feature = "h2")]
pub use config::Http2Config;
pub use config::{Config, Http1Config, ProxyProtocol};
pub use delivery::Delivery;
pub use interim::{InterimRefused, InterimResponses, MAX_INTERIM};
pub(crate) use request_log::{RequestInfo, log_error, log_request};
pub use server::Connection;
pub use transport::Transport;
