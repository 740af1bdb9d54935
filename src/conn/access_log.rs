//! The access log: one entry for each response, when the last of it has left or the connection has
//! ended.
//!
//! It is written by the server's driver, since only the driver sees what leaves: also for requests that
//! break the protocol or are too slow (400, 408, 414, 431, 501, 505), for those that the driver itself
//! refuses (503, 504), and for a client that left before its response. Each of pipelined responses has
//! an entry of its own.
//!
//! By default an entry is an `info` event of the target [`TARGET`]; where that target is not enabled
//! nothing is kept for it. [`Config::access_log`](super::Config::access_log) and
//! [`Serve::access_log`](crate::serve::Serve::access_log) write entries elsewhere, in the combined
//! format for example:
//!
//! ```
//! use vestibule::conn::{Config, access_log::Entry};
//!
//! fn combined(entry: &Entry) -> String {
//!     let text = |field: Option<&str>| field.unwrap_or("-").to_owned();
//!     let method = text(entry.method.as_ref().map(|method| method.as_str()));
//!     let uri = entry.uri.as_ref().map_or("-".to_owned(), ToString::to_string);
//!     let status = text(entry.status.as_ref().map(|status| status.as_str()));
//!     let user_agent = text(entry.user_agent.as_ref().and_then(|value| value.to_str().ok()));
//!     format!("{} \"{method} {uri}\" {status} {} {user_agent:?}", entry.peer, entry.bytes)
//! }
//!
//! let config = Config::new().access_log(|entry| println!("{}", combined(entry)));
//! # drop(config);
//! ```

mod transfers;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Method, StatusCode, Uri, Version, header, request, uri::Scheme};

use super::RequestInfo;
use crate::{
    error::panic_message,
    peer::{Peer, RequestId},
};

pub(super) use transfers::Transfers;

/// The `tracing` target of the default access log.
pub const TARGET: &str = "vestibule::access";

/// What the access log knows of one response.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The client and how it came: address, scheme, TLS facts. It is the connection's, unless the
    /// response has a [`Peer`] in its extensions: a layer that knows better puts it there.
    pub peer: Peer,
    /// The number of the request.
    pub id: RequestId,
    /// The request's method; `None` if its head could not be read.
    pub method: Option<Method>,
    /// The request's target; `None` if its head could not be read. Its query may hold secrets: the
    /// default log writes the path alone.
    pub uri: Option<Uri>,
    /// The request's version; `None` if its head could not be read.
    pub version: Option<Version>,
    /// The request's `Referer`.
    pub referer: Option<HeaderValue>,
    /// The request's `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// The status that was sent; `None` if no response was, since the client left before it or the
    /// connection was aborted.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body that the kernel has taken, without its head and its framing. The
    /// client may have read less: the kernel holds some for it.
    pub bytes: u64,
    /// Whether the kernel has taken the whole response.
    pub complete: bool,
    /// From the first byte of the request's head to this entry. A pipelined request's time begins when
    /// the response before it is complete.
    pub elapsed: Duration,
}

impl Entry {
    /// That of a request with this head.
    pub(super) fn new(peer: &Peer, id: RequestId, parts: &request::Parts) -> Self {
        Self {
            method: Some(parts.method.clone()),
            uri: Some(parts.uri.clone()),
            version: Some(parts.version),
            referer: parts.headers.get(header::REFERER).cloned(),
            user_agent: parts.headers.get(header::USER_AGENT).cloned(),
            ..Self::without_head(peer, id)
        }
    }

    /// That of a request whose head could not be read.
    pub(super) fn without_head(peer: &Peer, id: RequestId) -> Self {
        Self {
            peer: peer.clone(),
            id,
            method: None,
            uri: None,
            version: None,
            referer: None,
            user_agent: None,
            status: None,
            bytes: 0,
            complete: false,
            elapsed: Duration::ZERO,
        }
    }
}

/// Writes an entry as an `info` event of [`TARGET`], as the default access log does.
///
/// Its fields are `client`, `request_id`, `scheme`, `method`, `path`, `version`, `status`, `bytes`,
/// `complete` and `micros`, without those that the entry has not.
pub fn trace(entry: &Entry) {
    tracing::info!(
        target: TARGET,
        client = %entry.peer,
        request_id = %entry.id,
        scheme = Scheme::as_str(&entry.peer.scheme()),
        method = entry.method.as_ref().map(Method::as_str),
        path = entry.uri.as_ref().map(Uri::path),
        version = entry.version.map(tracing::field::debug),
        status = entry.status.map(|status| status.as_u16()),
        bytes = entry.bytes,
        complete = entry.complete,
        micros = u64::try_from(entry.elapsed.as_micros()).unwrap_or(u64::MAX),
    );
}

/// Where entries are written.
#[derive(Clone, Default)]
pub(crate) enum AccessLog {
    Off,
    #[default]
    Trace,
    Custom(Arc<dyn Fn(&Entry) + Send + Sync>),
}

impl AccessLog {
    /// Whether an entry would be written now; else none need be made.
    pub(super) fn is_enabled(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Trace => tracing::event_enabled!(target: TARGET, tracing::Level::INFO),
            Self::Custom(_) => true,
        }
    }

    /// Writes an entry. A connection that is dropped writes the last ones, so no panic leaves this.
    fn write(&self, entry: &Entry) {
        let write = || match self {
            Self::Off => {}
            Self::Trace => trace(entry),
            Self::Custom(write) => write(entry),
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(write)) {
            let request = RequestInfo::without_head(&entry.peer, entry.id);
            let panic = panic_message(&*panic);
            super::log_request!(
                error,
                "vestibule::request",
                &request,
                panic,
                "the access log panicked"
            );
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "Off",
            Self::Trace => "Trace",
            Self::Custom(_) => "Custom",
        })
    }
}

#[cfg(test)]
mod tests;
