//! `RequestKey`: the part of a request that selects its endpoint.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use http::{
    Extensions, HeaderMap, HeaderName, Method, Request, Uri,
    header::{COOKIE, HOST},
};

use super::siphash::SipKey;
use crate::peer::Peer;

/// The head of a request to be sent.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The extensions, with the [`Peer`].
    pub extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    /// Borrows the head of `request`.
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// Returns the value of the first cookie with this name (RFC 6265 section 5.4), without enclosing quotes.
    pub fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        let fields = self.headers.get_all(COOKIE).into_iter();
        let pairs = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
        let value = pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
            let (key, value) = pair.split_at_checked(name.len())?;
            (key == name.as_bytes()).then(|| value.strip_prefix(b"="))?
        })?;
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(unquoted.unwrap_or(value))
    }
}

type KeyFn = dyn for<'a> Fn(RequestHead<'a>) -> Option<Cow<'a, [u8]>> + Send + Sync;

/// The part of a request that selects its endpoint: requests with the same key go to the same endpoint.
///
/// ```
/// use std::borrow::Cow;
/// use vestibule::policy::pick::RequestKey;
///
/// let by_tenant = RequestKey::header("x-tenant".parse().unwrap());
/// let by_first_segment = RequestKey::from_fn(|request| {
///     request.uri.path().split('/').nth(1).map(|name| Cow::Borrowed(name.as_bytes()))
/// });
/// # drop((by_tenant, by_first_segment));
/// ```
#[derive(Clone)]
pub struct RequestKey(Part);

#[derive(Clone)]
enum Part {
    ClientAddress,
    Path,
    PathAndQuery,
    Host,
    Header(HeaderName),
    Cookie(Box<str>),
    Fn(Arc<KeyFn>),
}

impl RequestKey {
    /// The client's address in the request's [`Peer`].
    pub const fn client_address() -> Self {
        Self(Part::ClientAddress)
    }

    /// The path, without the query.
    pub const fn path() -> Self {
        Self(Part::Path)
    }

    /// The path and the query, like a cache key.
    pub const fn path_and_query() -> Self {
        Self(Part::PathAndQuery)
    }

    /// The authority of the target, or else the `Host` field.
    pub const fn host() -> Self {
        Self(Part::Host)
    }

    /// The first value of a header field.
    pub const fn header(name: HeaderName) -> Self {
        Self(Part::Header(name))
    }

    /// The value of a cookie.
    pub fn cookie(name: impl Into<Box<str>>) -> Self {
        Self(Part::Cookie(name.into()))
    }

    /// The result of a closure; `None` for a request without a key.
    pub fn from_fn<F>(key: F) -> Self
    where
        F: for<'a> Fn(RequestHead<'a>) -> Option<Cow<'a, [u8]>> + Send + Sync + 'static,
    {
        Self(Part::Fn(Arc::new(key)))
    }

    /// Returns the hash of the request's key, if it has one.
    pub(super) fn hash(&self, request: RequestHead<'_>) -> Option<u64> {
        let hash = |bytes: &[u8]| SipKey::fixed().hash64(bytes);
        match &self.0 {
            Part::ClientAddress => match request.extensions.get::<Peer>()?.ip()? {
                IpAddr::V4(ip) => Some(hash(&ip.octets())),
                IpAddr::V6(ip) => Some(hash(&ip.octets())),
            },
            Part::Path => Some(hash(request.uri.path().as_bytes())),
            Part::PathAndQuery => Some(hash(request.uri.path_and_query()?.as_str().as_bytes())),
            Part::Host => match request.uri.authority() {
                Some(authority) => Some(hash(authority.as_str().as_bytes())),
                None => Some(hash(request.headers.get(HOST)?.as_bytes())),
            },
            Part::Header(name) => Some(hash(request.headers.get(name)?.as_bytes())),
            Part::Cookie(name) => Some(hash(request.cookie(name)?)),
            Part::Fn(key) => Some(hash(&key(request)?)),
        }
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what: &dyn fmt::Debug = match &self.0 {
            Part::ClientAddress => &"client address",
            Part::Path => &"path",
            Part::PathAndQuery => &"path and query",
            Part::Host => &"host",
            Part::Header(name) => name,
            Part::Cookie(name) => name,
            Part::Fn(_) => &"function",
        };
        f.debug_tuple("RequestKey").field(what).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookies: &[&str]) -> Request<()> {
        let request = cookies.iter().fold(Request::builder(), |r, c| r.header(COOKIE, *c));
        request.uri("http://example.com/a/b?c").body(()).unwrap()
    }

    #[test]
    fn cookie_is_found_among_others_and_by_its_whole_name() {
        let request = request(&["ab=0; a_=1;b=\"2\"", " c = 4; a=3 ; a=9", "=; d"]);
        let head = RequestHead::of(&request);
        for (name, value) in [("a", "3"), ("ab", "0"), ("b", "2")] {
            assert_eq!(head.cookie(name), Some(value.as_bytes()), "{name}");
        }
        for name in ["c", "d", "_", "aa"] {
            assert_eq!(head.cookie(name), None, "{name}");
        }
    }

    #[test]
    fn keys_differ_by_their_part_and_may_be_absent() {
        let mut request = request(&["id=7"]);
        let hash = |bytes: &[u8]| Some(SipKey::fixed().hash64(bytes));
        let of = |key: &RequestKey, request: &Request<()>| key.hash(RequestHead::of(request));
        assert_eq!(of(&RequestKey::path(), &request), hash(b"/a/b"));
        assert_eq!(of(&RequestKey::path_and_query(), &request), hash(b"/a/b?c"));
        assert_eq!(of(&RequestKey::host(), &request), hash(b"example.com"));
        assert_eq!(of(&RequestKey::cookie("id"), &request), hash(b"7"));
        assert_eq!(of(&RequestKey::header(HOST), &request), None);
        assert_eq!(of(&RequestKey::client_address(), &request), None);
        let method = RequestKey::from_fn(|r| Some(r.method.as_str().as_bytes().into()));
        assert_eq!(of(&method, &request), hash(b"GET"));
        let peer = Peer::tcp("10.0.0.9:1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        request.extensions_mut().insert(peer);
        assert_eq!(of(&RequestKey::client_address(), &request), hash(&[10, 0, 0, 9]));
    }
}
