//! `Sticky`: the endpoint that a signed cookie names.

use std::{collections::HashMap, fmt, time::Duration};

use http::HeaderValue;

use super::{Candidates, Pick, Prepared, siphash::SipKey};

/// Default name of the cookie.
pub const STICKY_COOKIE: &str = "vestibule_endpoint";

type Tag = [u8; 16];

/// Binds a client to the endpoint that answered its first request, by a cookie. Another policy picks the endpoint of
/// new clients, and of those whose endpoint was removed or is not available.
///
/// The value of the cookie is the SipHash-2-4-128 of the endpoint's key under the secret. It does not reveal the key,
/// and without the secret a client cannot compute the value of another endpoint. All gateways of a site need the same
/// secret. A response gets no new cookie if the request's cookie names its endpoint.
///
/// A draining endpoint still gets the requests of its sessions.
///
/// Two balancers of one host need cookies of different [names](Self::cookie): with the same name each would replace
/// the cookie of the other, whose endpoint it does not know.
///
/// The cookie has `Path=/`, `HttpOnly` and `SameSite=Lax`; it is a session cookie without
/// [`max_age`](Self::max_age).
///
/// ```
/// use vestibule::policy::pick::{RoundRobin, Sticky};
///
/// let secret = *b"16 random bytes!";
/// let policy = Sticky::new(secret, RoundRobin::new()).cookie("backend").unwrap().secure(true);
/// assert!(Sticky::new(secret, RoundRobin::new()).cookie("back end").is_none());
/// # drop(policy);
/// ```
pub struct Sticky<P> {
    inner: P,
    secret: SipKey,
    name: Box<str>,
    max_age: Option<Duration>,
    is_secure: bool,
}

/// The endpoints by the value of their cookies.
struct Tags {
    indexes: HashMap<Tag, usize>,
    inner: Prepared,
}

impl<P: Pick> Sticky<P> {
    /// Creates the policy. `inner` picks the endpoint of a new client. The secret must be random.
    pub fn new(secret: [u8; 16], inner: P) -> Self {
        let name = STICKY_COOKIE.into();
        Self { inner, secret: SipKey::new(&secret), name, max_age: None, is_secure: false }
    }

    /// Sets the name of the cookie, a token (RFC 6265 section 4.1.1). Returns `None` for any other name. Default
    /// [`STICKY_COOKIE`].
    #[must_use]
    pub fn cookie(mut self, name: &str) -> Option<Self> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return None;
        }
        self.name = name.into();
        Some(self)
    }

    /// Sets `Max-Age`, in whole seconds. By default the cookie lasts for the browser session.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets the attribute `Secure`: the client sends the cookie over TLS only. Default `false`.
    #[must_use]
    pub fn secure(mut self, on: bool) -> Self {
        self.is_secure = on;
        self
    }

    fn tag(&self, key: &str) -> Tag {
        self.secret.hash128(key.as_bytes())
    }

    fn tags(&self, candidates: Candidates<'_>) -> Tags {
        let indexes = candidates.iter().enumerate().map(|(i, c)| (self.tag(c.key), i)).collect();
        let inner = self.inner.prepare(candidates.of(candidates.source(), None));
        Tags { indexes, inner }
    }

    /// Returns the endpoint that the request's cookie names, if it is in the set.
    fn named(&self, tags: &Tags, candidates: Candidates<'_>) -> Option<usize> {
        let value = candidates.request()?.cookie(&self.name)?;
        tags.indexes.get(&decode(value)?).copied()
    }

    fn pick_from(&self, tags: &Tags, candidates: Candidates<'_>) -> Option<usize> {
        if let Some(index) = self.named(tags, candidates)
            && candidates.get(index).is_eligible_for_session()
        {
            return Some(index);
        }
        self.inner.pick(candidates.with_prepared(&tags.inner))
    }
}

impl<P: Pick> Pick for Sticky<P> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        match candidates.prepared::<Tags>() {
            Some(tags) => self.pick_from(tags, candidates),
            None => self.pick_from(&self.tags(candidates), candidates),
        }
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        Prepared::new(self.tags(candidates))
    }

    fn set_cookie(&self, candidates: Candidates<'_>, picked: usize) -> Option<HeaderValue> {
        let tag = self.tag(candidates.get(picked).key);
        let request = candidates.request()?;
        if request.cookie(&self.name).and_then(decode) == Some(tag) {
            return None;
        }
        let mut text = format!("{}={}; Path=/; HttpOnly; SameSite=Lax", self.name, encode(tag));
        if let Some(age) = self.max_age {
            text.push_str(&format!("; Max-Age={}", age.as_secs()));
        }
        if self.is_secure {
            text.push_str("; Secure");
        }
        Some(HeaderValue::try_from(text).expect("a token, hexadecimal digits and attributes"))
    }
}

fn encode(tag: Tag) -> String {
    format!("{:032x}", u128::from_be_bytes(tag))
}

/// Decodes exactly 32 lower-case hexadecimal digits.
fn decode(value: &[u8]) -> Option<Tag> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if value.len() != 32 || !value.iter().all(is_digit) {
        return None;
    }
    let number = u128::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()?;
    Some(number.to_be_bytes())
}

impl<P: fmt::Debug> fmt::Debug for Sticky<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret is not printed.
        f.debug_struct("Sticky")
            .field("inner", &self.inner)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
