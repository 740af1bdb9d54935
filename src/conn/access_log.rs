//! The access log: one entry for each response, when it has been sent completely or the connection has
//! ended.
//!
//! It is written by the server's driver, since only the driver sees the bytes sent. There are entries
//! also for requests that violate the protocol or are too slow (400, 408, 414, 431, 501, 505), for those
//! that the driver itself refuses (503, 504), and for clients that disconnect before their response. Each
//! pipelined response has its own entry.
//!
//! By default an entry is an `info` event of the target [`TARGET`]; if that target is disabled, no memory
//! is kept for entries. [`Config::access_log`](super::Config::access_log) and
//! [`Serve::access_log`](crate::serve::Serve::access_log) write entries elsewhere. This is the combined
//! format of Apache and nginx. The function runs on the thread that serves the client, so give the lines to a
//! writer that does not block, such as `NonBlocking` of the crate `tracing-appender`:
//!
//! ```
//! use std::time::SystemTime;
//! use http::HeaderValue;
//! use vestibule::{Router, conn::access_log::Entry, semantics::date::HttpDate, serve};
//!
//! fn combined(entry: &Entry, now: SystemTime) -> String {
//!     let client = entry.peer.ip().map_or("-".to_owned(), |ip| ip.to_string());
//!     // "Sun, 06 Nov 1994 08:49:37 GMT" becomes "06/Nov/1994:08:49:37 +0000".
//!     let date = HttpDate::from(now).to_string();
//!     let date = format!("{}/{}/{}:{} +0000", &date[5..7], &date[8..11], &date[12..16], &date[17..25]);
//!     let request = match (&entry.method, &entry.uri, entry.version) {
//!         (Some(method), Some(uri), Some(version)) => format!("{method} {uri} {version:?}"),
//!         _ => "-".to_owned(), // its head could not be read
//!     };
//!     // 499 is nginx's status for a client that left before its response.
//!     let status = entry.status.map_or(499, |status| status.as_u16());
//!     // `{:?}` escapes the quotes in a field.
//!     let text = |field: &Option<HeaderValue>| {
//!         let value = field.as_ref().map_or("-".into(), |v| String::from_utf8_lossy(v.as_bytes()));
//!         format!("{value:?}")
//!     };
//!     let (referer, user_agent) = (text(&entry.referer), text(&entry.user_agent));
//!     let bytes = entry.bytes;
//!     format!("{client} - - [{date}] {request:?} {status} {bytes} {referer} {user_agent}")
//! }
//!
//! let server = serve("127.0.0.1:8080", Router::new())
//!     .access_log(|entry| println!("{}", combined(entry, SystemTime::now())));
//! # drop(server);
//! ```
//!
//! For several sites in one log, write [`Entry::host`] in front of the line, as Apache's `vhost_combined`.

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

/// An entry of the access log: one request and its response.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The client: address, scheme, TLS facts. It is that of the connection, unless a layer has put a
    /// [`Peer`] into the response's extensions.
    pub peer: Peer,
    /// The id of the request.
    pub id: RequestId,
    /// The request's method; `None` if its head could not be read.
    pub method: Option<Method>,
    /// The request's target; `None` if its head could not be read. Its query may hold secrets: the
    /// default log writes the path alone.
    pub uri: Option<Uri>,
    /// The request's `Host`, which is also set from the authority of a target that has one, and from `:authority` of HTTP/2.
    pub host: Option<HeaderValue>,
    /// The request's version; `None` if its head could not be read.
    pub version: Option<Version>,
    /// The request's `Referer`.
    pub referer: Option<HeaderValue>,
    /// The request's `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// The status of the response; `None` if none was sent, because the client disconnected or the
    /// connection was aborted.
    pub status: Option<StatusCode>,
    /// Bytes of the response's body that were written to the socket, without head and framing. The client
    /// may have read less: some may still be in the kernel's send queue.
    pub bytes: u64,
    /// Whether the whole response was written to the socket.
    pub complete: bool,
    /// Whether this crate generated the response in place of the application: the driver, the router, a layer or the proxy
    /// has refused or redirected the request, or has turned an error into a response. Such responses of layers have
    /// [`LocalReply`](crate::semantics::problem::LocalReply) in their extensions.
    pub local_reply: bool,
    /// The time from the first byte of the request's head to this entry. That of a pipelined request starts
    /// when the previous response is complete.
    pub elapsed: Duration,
}

impl Entry {
    /// Creates the entry of a request with this head.
    pub(super) fn new(peer: &Peer, id: RequestId, parts: &request::Parts) -> Self {
        Self {
            method: Some(parts.method.clone()),
            uri: Some(parts.uri.clone()),
            version: Some(parts.version),
            host: parts.headers.get(header::HOST).cloned(),
            referer: parts.headers.get(header::REFERER).cloned(),
            user_agent: parts.headers.get(header::USER_AGENT).cloned(),
            ..Self::without_head(peer, id)
        }
    }

    /// Creates the entry of a request whose head could not be read.
    pub(super) fn without_head(peer: &Peer, id: RequestId) -> Self {
        Self {
            peer: peer.clone(),
            id,
            method: None,
            uri: None,
            host: None,
            version: None,
            referer: None,
            user_agent: None,
            status: None,
            bytes: 0,
            complete: false,
            local_reply: false,
            elapsed: Duration::ZERO,
        }
    }
}

/// Emits an entry as an `info` event of [`TARGET`], as the default access log does.
///
/// Its fields are `client`, `request_id`, `scheme`, `method`, `path`, `version`, `status`, `bytes`,
/// `complete`, `local_reply` and `micros`, without those that are `None` in the entry.
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
        local_reply = entry.local_reply,
        micros = u64::try_from(entry.elapsed.as_micros()).unwrap_or(u64::MAX),
    );
}

/// The destination of entries.
#[derive(Clone, Default)]
pub(crate) enum AccessLog {
    Off,
    #[default]
    Trace,
    Custom(Arc<dyn Fn(&Entry) + Send + Sync>),
}

impl AccessLog {
    /// Returns whether an entry would be written now. If not, none need be created.
    pub(super) fn is_enabled(&self) -> bool {
        match self {
            Self::Off => false,
            Self::Trace => tracing::event_enabled!(target: TARGET, tracing::Level::INFO),
            Self::Custom(_) => true,
        }
    }

    /// Writes an entry. It catches panics, since a connection writes its last entries in `drop`.
    pub(super) fn write(&self, entry: &Entry) {
        let write = || match self {
            Self::Off => {}
            Self::Trace => trace(entry),
            Self::Custom(write) => write(entry),
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(write)) {
            let request = RequestInfo::new(&entry.peer, entry.id, None);
            let panic = panic_message(&*panic);
            super::log_request!(
                error,
                "vestibule::request",
                &request,
                panic,
                "the access log's function panicked"
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
