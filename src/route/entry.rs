//! What a router compares a request with: host patterns and path prefixes.

use bytes::Bytes;
use http::{Request, Uri, header, uri::PathAndQuery};

use crate::body::Body;

/// The host that a request is for, without its port.
pub(super) fn host_of(request: &Request<Body>) -> Option<&str> {
    // RFC 9112 section 3.2.2: the host of an absolute-form target stands above `Host`.
    let host = match request.uri().host() {
        Some(host) => host,
        None => without_port(request.headers().get(header::HOST)?.to_str().ok()?),
    };
    Some(host.strip_suffix('.').unwrap_or(host)) // the root of DNS, said or not said
}

fn without_port(host: &str) -> &str {
    // An IPv6 address has colons of its own, and stands in brackets for that.
    let end = if host.starts_with('[') { host.find(']').map(|i| i + 1) } else { host.find(':') };
    &host[..end.unwrap_or(host.len())]
}

/// A host name, or with `*.` in front all names below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Exact(Box<str>),
    /// With its dot in front: `.example.com`.
    Below(Box<str>),
}

impl Host {
    pub(super) fn new(pattern: &str) -> Self {
        let name = without_port(pattern).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        match name.strip_prefix('*') {
            Some(below) if below.starts_with('.') => Self::Below(below.into()),
            Some(_) | None => Self::Exact(name.into()),
        }
    }

    /// Who is asked first: the higher rank.
    pub(super) fn rank(&self) -> (bool, usize) {
        match self {
            Self::Exact(name) => (true, name.len()),
            Self::Below(name) => (false, name.len()),
        }
    }

    pub(super) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Below(name) => {
                let (host, name) = (host.as_bytes(), name.as_bytes());
                // Longer, not as long: something must stand for the star.
                host.len() > name.len()
                    && host[host.len() - name.len()..].eq_ignore_ascii_case(name)
            }
        }
    }
}

/// A path prefix of whole segments, in normal form: empty, or `/a/b` without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix(Box<str>);

impl Prefix {
    pub(super) fn new(prefix: &str) -> Self {
        let inner = prefix.trim_end_matches('/');
        let slash = if inner.is_empty() || inner.starts_with('/') { "" } else { "/" };
        Self(format!("{slash}{inner}").into())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Does it cover `path`, which is in normal form?
    pub(super) fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// `uri`, whose path is covered, without this prefix.
    ///
    /// The rest keeps the bytes that the client sent: an escape never makes or hides a slash
    /// (`%2F` stays in the normal form), so the raw path has the same segments as the normal one,
    /// and as many are cut off as the prefix has.
    pub(super) fn below(&self, uri: &Uri) -> Uri {
        let path = uri.path();
        let segments = self.0.matches('/').count();
        let cut = path.match_indices('/').nth(segments).map_or(path.len(), |(at, _)| at);
        let (rest, query) = (&path[cut..], uri.query());
        let mut below = Vec::with_capacity(2 + rest.len() + query.map_or(0, str::len));
        below.extend_from_slice(if rest.is_empty() { b"/" } else { rest.as_bytes() });
        if let Some(query) = query {
            below.push(b'?');
            below.extend_from_slice(query.as_bytes());
        }
        let below = PathAndQuery::from_maybe_shared(Bytes::from(below));
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(below.expect("the end of a valid path, from a slash on"));
        Uri::from_parts(parts).expect("the URI was valid with a longer path")
    }
}
