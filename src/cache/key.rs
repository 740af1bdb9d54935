//! `Key`: the key of a stored response.

use std::{borrow::Cow, cell::RefCell, fmt, sync::Arc};

use http::{Request, Uri, header, uri::Scheme};

use super::spelling::decode_unreserved;
use crate::{
    peer::Peer,
    semantics::{
        cache::invalidate::without_defaults,
        target::{OriginalUri, normalize},
    },
};

/// The maximum length of a key, 4 KiB. A request with a longer one bypasses the cache.
pub const MAX_KEY: usize = 4096;

/// The key of a stored response: scheme, host, normal path and query.
///
/// A key always contains a host, so that a response of one site never answers a request for another. Equivalent spellings of
/// a path (RFC 3986 section 6.2.2) have the same key: escapes are decoded, except those of reserved characters, since `/a%2Bb`
/// and `/a+b` are different paths to some servers. The default port, the case of the host and its trailing dot are insignificant.
/// The inner service gets the spelling of the key, so that a response does not depend on the spelling of the first client:
/// escapes are in capitals, and bytes that a path cannot contain are escaped. A site that signs the path as it is sent needs
/// [`bypass_if`](super::CacheBuilder::bypass_if).
///
/// ```
/// use vestibule::cache::Key;
///
/// let key = Key::new("https", "Example.com:443", "/caf%C3%A9", Some("a=1")).unwrap();
/// assert_eq!(key.to_string(), "https://example.com/café?a=1");
/// assert!(Key::new("https", "", "/", None).is_none());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

thread_local! {
    /// The text of a new key, so that the key is the only allocation.
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The hasher of tables with keys, which clients choose: its seed is random.
pub(super) type KeyHasher = foldhash::quality::RandomState;

/// The part of the query that belongs to the key. The request is always forwarded with the whole query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueryKey {
    /// The query, unchanged.
    #[default]
    Exact,
    /// The parameters, sorted by name, so that their order makes no difference.
    Sorted,
    /// The parameters with these names, sorted.
    Only(Vec<String>),
    /// All parameters except those with these names, sorted: for advertising parameters, which do not affect
    /// responses.
    Without(Vec<String>),
}

impl Key {
    /// Creates a key. Returns `None` if the host is empty or invalid, if the path has no [normal form](normalize), or if the
    /// key is longer than [`MAX_KEY`].
    pub fn new(scheme: &str, authority: &str, path: &str, query: Option<&str>) -> Option<Self> {
        let host = without_defaults(authority, scheme);
        // Otherwise the host of the key would have another key.
        let is_normal = without_defaults(host, scheme) == host;
        let classes = host.bytes().fold(0, |classes, b| classes | HOST[usize::from(b)]);
        let is_valid = !host.starts_with(':') && classes & OTHER == 0;
        if host.is_empty() || !is_normal || !is_valid {
            return None;
        }
        let normal = normalize(path).ok()?; // also checks the escapes
        let path = match memchr::memchr(b'%', path.as_bytes()) {
            Some(_) => Cow::Owned(decode_unreserved(path)),
            None => normal,
        };
        // A literal `?` would begin the query here.
        let path = match memchr::memchr(b'?', path.as_bytes()) {
            Some(_) => Cow::Owned(path.replace('?', "%3F")),
            None => path,
        };
        // Before the text is built, since the buffer of the thread is kept and never shrinks.
        let len = scheme.len() + 3 + host.len() + path.len() + query.map_or(0, |q| q.len() + 1);
        if len > MAX_KEY {
            return None;
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            for part in [scheme, "://", host] {
                text.push_str(part);
            }
            if classes & UPPER != 0 {
                text[scheme.len() + 3..].make_ascii_lowercase();
            }
            text.push_str(&path);
            if let Some(query) = query {
                text.push('?');
                text.push_str(query);
            }
            Some(Self(text.as_str().into()))
        })
    }

    /// Creates the key of a request, with the scheme of its [`Peer`] and the host of its target or `Host`. Returns
    /// `None` if there is no host, or more than one.
    pub(super) fn of<B>(request: &Request<B>, query: &QueryKey) -> Option<Self> {
        let scheme = scheme_of(request);
        let authority = authority_of(request)?;
        let uri = uri_of(request);
        query.key(scheme.as_str(), authority, uri.path(), uri.query())
    }

    /// Creates a key from the text of a stored key.
    pub(super) fn restore(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the scheme and the host, for example `https` and `example.com`, and both, `https://example.com`.
    pub(super) fn origin(&self) -> (&str, &str, &str) {
        let end_of_scheme = memchr::memchr(b':', self.0.as_bytes()).unwrap_or(self.0.len());
        let host = (end_of_scheme + "://".len()).min(self.0.len());
        let after_host = &self.0.as_bytes()[host..];
        let end = memchr::memchr(b'/', after_host).map_or(self.0.len(), |at| host + at);
        (&self.0[..end_of_scheme], &self.0[host..end], &self.0[..end])
    }

    /// Returns the path, in its normal form.
    pub(super) fn path(&self) -> &str {
        let (_, _, origin) = self.origin();
        let path = &self.0[origin.len()..];
        path.split_once('?').map_or(path, |(path, _)| path)
    }

    /// Returns the key as text, for example `https://example.com/path?query`. Prefixes are compared with this text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl QueryKey {
    /// Creates a key with the part of `query` that belongs to it.
    pub(super) fn key(
        &self,
        scheme: &str,
        authority: &str,
        path: &str,
        query: Option<&str>,
    ) -> Option<Key> {
        let Some(query) = query.filter(|_| *self != Self::Exact) else {
            return Key::new(scheme, authority, path, query);
        };
        let selected = self.select(query);
        Key::new(scheme, authority, path, Some(&*selected).filter(|text| !text.is_empty()))
    }

    fn select(&self, query: &str) -> String {
        let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
        let mut parameters: Vec<&str> = query.split('&').filter(|p| !p.is_empty()).collect();
        match self {
            Self::Exact => return query.to_owned(),
            Self::Sorted => {}
            Self::Only(names) => parameters.retain(|p| names.contains(&name(p))),
            Self::Without(names) => parameters.retain(|p| !names.contains(&name(p))),
        }
        // A stable sort: the order of parameters with the same name has a meaning.
        parameters.sort_by_key(|p| name(p));
        parameters.join("&")
    }
}

/// A byte that a host cannot contain.
const OTHER: u8 = 1;

/// A capital letter.
const UPPER: u8 = 2;

/// The class of each byte of a host.
static HOST: [u8; 256] = {
    let (mut table, mut b) = ([OTHER; 256], 0);
    while b < 256 {
        table[b] = match b as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' | b'[' | b']' => 0,
            b'A'..=b'Z' => UPPER,
            _ => OTHER,
        };
        b += 1;
    }
    table
};

/// Returns the scheme of the client's URL.
fn scheme_of<B>(request: &Request<B>) -> Scheme {
    match request.extensions().get::<Peer>() {
        Some(peer) => peer.scheme(),
        None => request.uri().scheme().cloned().unwrap_or(Scheme::HTTP),
    }
}

/// Returns the host and port of the request; `None` if it has no host or more than one.
fn authority_of<B>(request: &Request<B>) -> Option<&str> {
    // RFC 9112 section 3.2.2: the host of an absolute-form target overrides `Host`.
    if let Some(authority) = request.uri().authority() {
        return Some(authority.as_str());
    }
    let headers = request.headers();
    // Usually no field is repeated.
    let is_repeated = headers.len() != headers.keys_len()
        && headers.get_all(header::HOST).iter().nth(1).is_some();
    if is_repeated { None } else { headers.get(header::HOST)?.to_str().ok() }
}

/// Returns the target that the client sent. A router may have removed a prefix of the path.
fn uri_of<B>(request: &Request<B>) -> &Uri {
    request.extensions().get::<OriginalUri>().map_or_else(|| request.uri(), |OriginalUri(uri)| uri)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(authority: &str, path: &str, query: Option<&str>) -> Option<String> {
        Key::new("http", authority, path, query).map(|key| key.to_string())
    }

    #[test]
    fn s4_key_requires_one_valid_host() {
        for host in ["", ".", "..", ":80", "a b", "a/b", "user@host", "a?b", "a#b", "\u{e9}"] {
            assert_eq!(key(host, "/", None), None, "{host:?}");
        }
        let request = |hosts: &[&str]| {
            let mut request = Request::new(());
            for host in hosts {
                request.headers_mut().append(header::HOST, host.parse().unwrap());
            }
            Key::of(&request, &QueryKey::Exact)
        };
        assert_eq!(request(&[]), None);
        assert_eq!(request(&["a", "b"]), None);
        assert_eq!(request(&["a"]).unwrap().as_str(), "http://a/");
    }

    #[test]
    fn key_above_its_maximum_is_refused_before_it_is_built() {
        let path = |len: usize| format!("/{}", "a".repeat(len - "http://a/".len()));
        assert_eq!(key("a", &path(1 << 20), None), None);
        assert_eq!(TEXT.with_borrow(String::capacity), 0);
        let longest = path(MAX_KEY);
        assert_eq!(key("a", &longest, None).unwrap().as_str().len(), MAX_KEY);
        assert_eq!(key("a", &longest, Some("")), None);
        assert_eq!(key("ab", &longest, None), None);
        // A `?` in the path takes three bytes in the key.
        assert!(key("a", &longest.replacen("aaa", "%3F", 1), None).is_some());
        assert_eq!(key("a", &longest.replacen("aa", "%3F", 1), None), None);
    }

    #[test]
    fn key_of_the_host_of_a_key_is_the_same() {
        for host in ["a", "a.", "a:80", "a.:80", "A:81", "a.:81", "a:443", "[::1]:80"] {
            let first = key(host, "/b", None).unwrap();
            let again = Key::restore(&first).origin().1.to_owned();
            assert_eq!(key(&again, "/b", None).unwrap(), first, "{host:?}");
        }
        for host in ["a..", "a..:80", "a:80.", "a:80:80", "a:80.:80"] {
            assert_eq!(key(host, "/b", None), None, "{host:?}");
        }
    }

    #[test]
    fn origin_of_a_key_is_its_scheme_and_host() {
        for (host, path) in [("a.example", "/"), ("a:81", "/b:/c"), ("[::1]", "/"), ("a", "*")] {
            let key = Key::new("https", host, path, Some("d")).unwrap();
            let host = if path == "*" { "a*?d" } else { host };
            assert_eq!(key.origin(), ("https", host, &*format!("https://{host}")));
        }
    }

    #[test]
    fn equivalent_targets_have_the_same_key() {
        for (host, path) in [("A.example:80", "/%61b"), ("a.EXAMPLE.", "/ab"), ("a.example", "/ab")]
        {
            assert_eq!(key(host, path, None).unwrap(), "http://a.example/ab");
        }
        for (path, normal) in [
            ("/caf%c3%A9%7e", "/café~"),
            ("/%25%5c%2f%3f%23%5b%5D%40%3a", "/%25%5C%2F%3F%23%5B%5D%40%3A"),
            ("/%21%24%26%27%28%29%2a%2b%2c%3b%3d", "/%21%24%26%27%28%29%2A%2B%2C%3B%3D"),
        ] {
            assert_eq!(key("a", path, None).unwrap(), format!("http://a{normal}"));
        }
    }

    #[test]
    fn different_targets_have_different_keys() {
        let keys = [
            key("a", "/b", None),
            key("a", "/b", Some("")),
            key("a", "/b?c", None),
            key("a", "/b", Some("c")),
            key("a", "/b%3Fc", Some("d")),
            key("a", "/b", Some("c?d")),
            key("a", "/b%2Fc", None),
            key("a", "/b/c", None),
            key("a", "/b+c", None),
            key("a", "/b%2Bc", None),
            key("a", "/b;c", None),
            key("a", "/b%3Bc", None),
            key("a:81", "/b/c", None),
            key("[::1]", "/b/c", None),
            Key::new("https", "a", "/b", None).map(|k| k.to_string()),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().flatten().collect();
        assert_eq!(distinct.len(), keys.len(), "{keys:?}");
    }

    #[test]
    fn key_is_bounded() {
        let path = |n: usize| format!("/{}", "x".repeat(n - "http://a/".len()));
        assert!(key("a", &path(MAX_KEY), None).is_some());
        assert!(key("a", &path(MAX_KEY + 1), None).is_none());
    }

    #[test]
    fn query_key_sorts_and_filters_parameters() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let query = "b=2&a=1&b=1&utm_x=9&&c";
        for (selection, want) in [
            (QueryKey::Exact, "b=2&a=1&b=1&utm_x=9&&c"),
            (QueryKey::Sorted, "a=1&b=2&b=1&c&utm_x=9"),
            (QueryKey::Only(names(&["b", "z"])), "b=2&b=1"),
            (QueryKey::Without(names(&["utm_x", "c"])), "a=1&b=2&b=1"),
        ] {
            assert_eq!(selection.select(query), want, "{selection:?}");
        }
    }
}
