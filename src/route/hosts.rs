//! `HostTable`: finds the service for a host name, exact or by wildcard.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use http::{Request, header};

use super::erased::Route;
use crate::body::Body;

/// Services by host. A lookup costs one hash for exact names and at most one per label for
/// wildcards, whatever the number of entries.
#[derive(Clone, Default)]
pub(super) struct HostTable {
    exact: HashMap<Box<str>, Arc<dyn Route>>,
    /// By the name behind `*.`.
    wildcard: HashMap<Box<str>, Arc<dyn Route>>,
    /// The length of the longest key in `wildcard`. Longer names are not looked up, so that a
    /// host field of thousands of dots costs nothing.
    longest_wildcard: usize,
}

/// The reason why a host pattern is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHost {
    #[error("the name is empty")]
    Empty,
    #[error("a port is no part of a host pattern: requests for all ports are matched")]
    Port,
    #[error("a wildcard is the first label, as in `*.example.com`")]
    Wildcard,
    #[error("an IPv6 address stands in brackets, as in `[::1]`")]
    Ipv6,
    #[error("the name has a character that no host name has; write international names as `xn--`")]
    Character,
    #[error("the host is registered already")]
    Duplicate,
}

impl HostTable {
    pub(super) fn insert(&mut self, pattern: &str, service: Arc<dyn Route>) -> Result<(), BadHost> {
        let (name, map) = match HostPattern::parse(pattern)? {
            HostPattern::Exact(name) => (name, &mut self.exact),
            HostPattern::Wildcard(name) => {
                self.longest_wildcard = self.longest_wildcard.max(name.len());
                (name, &mut self.wildcard)
            }
        };
        match map.entry(name) {
            Entry::Occupied(_) => Err(BadHost::Duplicate),
            Entry::Vacant(vacant) => {
                vacant.insert(service);
                Ok(())
            }
        }
    }

    /// Returns the service for the host of `request`.
    pub(super) fn find(&self, request: &Request<Body>) -> Option<&dyn Route> {
        if self.exact.is_empty() && self.wildcard.is_empty() {
            return None;
        }
        let host = to_lowercase(host_of(request)?);
        if let Some(service) = self.exact.get(&*host) {
            return Some(&**service);
        }
        self.find_wildcard(&host)
    }

    /// The longest wildcard wins: the first dot is tried first.
    fn find_wildcard(&self, host: &str) -> Option<&dyn Route> {
        if self.wildcard.is_empty() {
            return None;
        }
        memchr::memchr_iter(b'.', host.as_bytes())
            .filter(|dot| *dot > 0) // a name must stand for the star
            .map(|dot| &host[dot + 1..])
            .filter(|name| name.len() <= self.longest_wildcard)
            .find_map(|name| self.wildcard.get(name))
            .map(|service| &**service)
    }
}

/// A pattern in lower case and without a dot at its end.
#[derive(Debug, PartialEq, Eq)]
enum HostPattern {
    Exact(Box<str>),
    /// The name behind `*.`.
    Wildcard(Box<str>),
}

impl HostPattern {
    fn parse(pattern: &str) -> Result<Self, BadHost> {
        let name = pattern.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let below = name.strip_prefix("*.");
        check_name(below.unwrap_or(name))?;
        Ok(match below {
            Some(below) => Self::Wildcard(below.into()),
            None => Self::Exact(name.into()),
        })
    }
}

fn check_name(name: &str) -> Result<(), BadHost> {
    if let Some(address) = name.strip_prefix('[') {
        let address = match address.split_once(']') {
            Some((address, "")) => address,
            Some((_, port)) if port.starts_with(':') => return Err(BadHost::Port),
            Some(_) | None => return Err(BadHost::Ipv6),
        };
        return address.parse::<std::net::Ipv6Addr>().map(|_| ()).map_err(|_| BadHost::Ipv6);
    }
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match name {
        "" => Err(BadHost::Empty),
        _ if name.contains('*') => Err(BadHost::Wildcard),
        _ if name.matches(':').count() > 1 => Err(BadHost::Ipv6),
        _ if name.contains(':') => Err(BadHost::Port),
        _ if !name.bytes().all(is_name_byte) => Err(BadHost::Character),
        _ => Ok(()),
    }
}

/// Returns the host that a request is for, without its port.
fn host_of(request: &Request<Body>) -> Option<&str> {
    // RFC 9112 section 3.2.2: the host of an absolute-form target overrides `Host`.
    let host = match request.uri().host() {
        Some(host) => host,
        None => without_port(request.headers().get(header::HOST)?.to_str().ok()?),
    };
    // A dot at the end is the root of DNS: `example.com.` is `example.com`.
    Some(host.strip_suffix('.').unwrap_or(host))
}

fn without_port(host: &str) -> &str {
    // An IPv6 address has colons of its own, and stands in brackets for that reason.
    let end = if host.starts_with('[') { host.find(']').map(|i| i + 1) } else { host.find(':') };
    &host[..end.unwrap_or(host.len())]
}

/// Does not allocate for a name that is in lower case, as most clients send it.
fn to_lowercase(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        return host.to_ascii_lowercase().into();
    }
    host.into()
}

impl fmt::Debug for HostTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = self.exact.keys().map(|name| name.to_string());
        let wildcard = self.wildcard.keys().map(|name| format!("*.{name}"));
        let mut names: Vec<_> = exact.chain(wildcard).collect();
        names.sort_unstable();
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_kept_in_lower_case_without_the_dot_at_its_end() {
        let exact = |name: &str| Ok(HostPattern::Exact(name.into()));
        for name in ["a", "a.b-c.com", "_x.local", "127.0.0.1", "[::1]", "xn--bcher-kva.example"] {
            assert_eq!(HostPattern::parse(name), exact(name));
        }
        assert_eq!(HostPattern::parse("Example.COM."), exact("example.com"));
        let wildcard = HostPattern::Wildcard("example.com".into());
        assert_eq!(HostPattern::parse("*.EXAMPLE.com"), Ok(wildcard));
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for (pattern, error) in [
            ("", BadHost::Empty),
            (".", BadHost::Empty),
            ("*", BadHost::Wildcard),
            ("*.", BadHost::Wildcard),
            ("*example.com", BadHost::Wildcard),
            ("a.*.com", BadHost::Wildcard),
            ("*.*.com", BadHost::Wildcard),
            ("a:80", BadHost::Port),
            ("[::1]:80", BadHost::Port),
            ("http://a", BadHost::Port),
            ("::1", BadHost::Ipv6),
            ("[::1", BadHost::Ipv6),
            ("[x]", BadHost::Ipv6),
            ("a/b", BadHost::Character),
            ("bücher.example", BadHost::Character),
        ] {
            assert_eq!(HostPattern::parse(pattern), Err(error), "{pattern}");
        }
    }
}
