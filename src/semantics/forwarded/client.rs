//! The client that trusted proxies name: `Forwarded` (RFC 7239), `X-Forwarded-For`, `X-Real-IP`.

mod parse;

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED, uri::Scheme};

use self::parse::{parse_forwarded, parse_loose_node, parse_rfc7239_node};
use super::{X_FORWARDED_FOR, X_FORWARDED_PROTO, folds_to, is_client_field};

static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Maximum number of elements that are examined from the end of the list, 16; a longer chain is an error.
/// Real chains have two or three.
pub const MAX_HOPS: usize = 16;

/// Maximum size of the field in bytes, all lines together: 4 KiB, about a hundred addresses. A client can send
/// any number of elements before those of the proxies.
pub const MAX_BYTES: usize = 4 << 10;

/// The field in which trusted proxies name the client.
///
/// It is one field, and the proxies must write it: the client can forge every field that they forward
/// unchecked. So there is no variant that reads several fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientField {
    /// `Forwarded` (RFC 7239). It also has the scheme.
    Forwarded,
    /// `X-Forwarded-For`: addresses, to which each proxy appends that of its client. The usual field
    /// (nginx, HAProxy, Envoy, load balancers).
    XForwardedFor,
    /// `X-Real-IP`: one address, which the proxy sets (nginx).
    XRealIp,
}

/// The client that a field names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedClient {
    /// Its address. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub ip: IpAddr,
    /// Its port, if the field has it.
    pub port: Option<u16>,
    /// The scheme that it used, if the field has it: `http` or `https`.
    pub scheme: Option<Scheme>,
}

/// An error: a field of a trusted proxy is malformed, ambiguous or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidClientField {
    field: &'static str,
    reason: &'static str,
}

/// The sender of a request to a proxy, as the proxy names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Address(IpAddr, Option<u16>),
    /// `unknown`, or an obfuscated identifier (RFC 7239 sections 6.2 and 6.3).
    Unidentified,
}

/// The element of one proxy.
#[derive(Debug, Clone, Copy)]
struct Element<'a> {
    /// The text in the field.
    text: &'a [u8],
    /// The value of `for`; `unknown` without that parameter.
    node: &'a [u8],
    proto: Option<&'a [u8]>,
    /// Whether a parameter is repeated.
    has_duplicate: bool,
}

impl ClientField {
    /// Returns the name of the field.
    pub fn name(self) -> HeaderName {
        match self {
            Self::Forwarded => FORWARDED,
            Self::XForwardedFor => X_FORWARDED_FOR.clone(),
            Self::XRealIp => X_REAL_IP.clone(),
        }
    }

    const fn display_name(self) -> &'static str {
        match self {
            Self::Forwarded => "Forwarded",
            Self::XForwardedFor => "X-Forwarded-For",
            Self::XRealIp => "X-Real-IP",
        }
    }

    /// Returns the client that trusted proxies name in this field; `None` if they name none. The request must
    /// come from a trusted proxy.
    ///
    /// The list is walked from its end to the first address for which `is_trusted` is false: that one is
    /// the client, which may have forged the elements before it. If all addresses are trusted, the first
    /// one is the client. The walk also ends at a node that is `unknown`, obfuscated or absent; then the
    /// proxy that wrote it counts as the client.
    ///
    /// The list in `headers` then begins with the client. Other fields that name a client are removed,
    /// since the proxies may have forwarded them unchecked: `Forwarded`, `X-Forwarded-For`, `X-Real-IP`,
    /// `X-Client-IP` and `True-Client-IP`, also spelled with `_` or `.` for `-`.
    ///
    /// # Errors
    /// If the elements of trusted proxies are malformed, or the field exceeds [`MAX_HOPS`] or
    /// [`MAX_BYTES`]; if a `Forwarded` is malformed anywhere, since an unclosed quote hides the elements
    /// after it; if `X-Real-IP` is repeated. `headers` are not changed then.
    ///
    /// ```
    /// use http::HeaderMap;
    /// use vestibule::{peer::Network, semantics::forwarded::ClientField};
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.insert("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.2".parse().unwrap());
    /// let ours: Network = "10.0.0.0/8".parse().unwrap();
    /// let client = ClientField::XForwardedFor.resolve(&mut headers, |ip| ours.contains(ip));
    /// assert_eq!(client.unwrap().unwrap().ip.to_string(), "192.0.2.7");
    /// assert_eq!(headers["x-forwarded-for"], "192.0.2.7, 10.0.0.2");
    /// ```
    pub fn resolve(
        self,
        headers: &mut HeaderMap,
        is_trusted: impl Fn(IpAddr) -> bool,
    ) -> Result<Option<NamedClient>, InvalidClientField> {
        let name = self.name();
        let elements = self.parse_elements(headers, &name)?;
        let (begin, client) = self.find_client(&elements, is_trusted)?;
        let is_as_it_was = |rest: &[Element<'_>]| {
            let mut lines = headers.get_all(&name).iter().map(HeaderValue::as_bytes);
            let first = rest.first().zip(lines.next());
            // Empty elements before the client would confuse the upstream server.
            first.is_some_and(|(e, line)| line.starts_with(e.text)) && lines.next().is_none()
        };
        let rest = match &elements[begin..] {
            [] => None,
            rest if begin == 0 && is_as_it_was(rest) => {
                remove_other_client_fields(headers, &name);
                return Ok(client);
            }
            rest => Some(rest.iter().map(|e| e.text).collect::<Vec<_>>().join(&b", "[..])),
        };
        remove_other_client_fields(headers, &name);
        headers.remove(&name);
        if let Some(rest) = rest {
            let value = HeaderValue::from_bytes(&rest).expect("made of parts of field values");
            headers.insert(name, value);
        }
        Ok(client)
    }

    /// Returns the elements of all lines of the field, in order.
    fn parse_elements<'a>(
        self,
        headers: &'a HeaderMap,
        name: &HeaderName,
    ) -> Result<Vec<Element<'a>>, InvalidClientField> {
        let mut elements = Vec::new();
        let (mut lines, mut bytes) = (0, 0);
        for line in headers.get_all(name) {
            lines += 1;
            bytes += line.len();
            if bytes > MAX_BYTES {
                return Err(self.invalid("it is too long"));
            }
            let line = line.as_bytes();
            match self {
                // Parse each line separately: a quote must be closed in the line that opens it.
                Self::Forwarded => parse_forwarded(line, &mut elements)
                    .ok_or_else(|| self.invalid("it does not follow the grammar of RFC 7239"))?,
                Self::XForwardedFor => {
                    let parts = line.split(|&b| b == b',').map(<[u8]>::trim_ascii);
                    elements.extend(parts.filter(|part| !part.is_empty()).map(Element::of_node));
                }
                Self::XRealIp if lines > 1 => return Err(self.invalid("it is repeated")),
                Self::XRealIp => elements.push(Element::of_node(line.trim_ascii())),
            }
        }
        Ok(elements)
    }

    /// Returns the index of the client's element, and the client. Without a client the index is the number of
    /// elements.
    fn find_client(
        self,
        elements: &[Element<'_>],
        is_trusted: impl Fn(IpAddr) -> bool,
    ) -> Result<(usize, Option<NamedClient>), InvalidClientField> {
        let (mut begin, mut client) = (elements.len(), None);
        for (index, element) in elements.iter().enumerate().rev() {
            if elements.len() - index > MAX_HOPS {
                return Err(self.invalid("it names too many proxies"));
            }
            if element.has_duplicate {
                return Err(self.invalid("a parameter is repeated"));
            }
            let node = self.parse_node(element.node);
            let node = node.ok_or_else(|| self.invalid("an address is malformed"))?;
            let Node::Address(ip, port) = node else { break };
            begin = index;
            client = Some(NamedClient { ip, port, scheme: element.proto.and_then(parse_scheme) });
            if !is_trusted(ip) {
                break;
            }
        }
        Ok((begin, client))
    }

    fn parse_node(self, text: &[u8]) -> Option<Node> {
        let text = str::from_utf8(text).ok()?;
        // Squid writes `unknown` into X-Forwarded-For too.
        if text.eq_ignore_ascii_case("unknown") {
            return Some(Node::Unidentified);
        }
        match self {
            Self::Forwarded => parse_rfc7239_node(text),
            Self::XForwardedFor | Self::XRealIp => parse_loose_node(text),
        }
    }

    const fn invalid(self, reason: &'static str) -> InvalidClientField {
        InvalidClientField { field: self.display_name(), reason }
    }
}

impl<'a> Element<'a> {
    /// Makes an element of an address without parameters.
    const fn of_node(text: &'a [u8]) -> Self {
        Self { text, node: text, proto: None, has_duplicate: false }
    }
}

/// Returns the scheme in the `X-Forwarded-Proto` of a trusted proxy: `http` or `https`; `None` if the field is
/// absent.
///
/// # Errors
/// If the field is repeated, a list, or another scheme.
///
/// ```
/// use http::{HeaderMap, uri::Scheme};
/// use vestibule::semantics::forwarded::x_forwarded_proto;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-proto", "https".parse().unwrap());
/// assert_eq!(x_forwarded_proto(&headers), Ok(Some(Scheme::HTTPS)));
/// ```
pub fn x_forwarded_proto(headers: &HeaderMap) -> Result<Option<Scheme>, InvalidClientField> {
    let mut lines = headers.get_all(&X_FORWARDED_PROTO).iter();
    let Some(value) = lines.next() else { return Ok(None) };
    let found = parse_scheme(value.as_bytes().trim_ascii()).filter(|_| lines.next().is_none());
    let reason = "it is not one scheme, http or https";
    found.map(Some).ok_or(InvalidClientField { field: "X-Forwarded-Proto", reason })
}

/// Removes every field that names the client; see [`Trust::Replace`](super::Trust::Replace).
pub fn remove_client_fields(headers: &mut HeaderMap) {
    remove_fields_if(headers, is_client_field);
}

/// Removes the fields that name a client, except `chosen`.
fn remove_other_client_fields(headers: &mut HeaderMap, chosen: &HeaderName) {
    const NAMES: [&[u8]; 5] =
        [b"forwarded", b"x-forwarded-for", b"x-real-ip", b"x-client-ip", b"true-client-ip"];
    remove_fields_if(headers, |name| {
        name != chosen.as_str().as_bytes() && NAMES.iter().any(|known| folds_to(name, known))
    });
}

/// Removes the fields whose name `is_removed` selects. One pass over the names; without such fields nothing is
/// allocated.
pub(super) fn remove_fields_if(headers: &mut HeaderMap, is_removed: impl Fn(&[u8]) -> bool) {
    let removed = headers.keys().filter(|name| is_removed(name.as_str().as_bytes()));
    for name in removed.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}

fn parse_scheme(text: &[u8]) -> Option<Scheme> {
    match text {
        _ if text.eq_ignore_ascii_case(b"https") => Some(Scheme::HTTPS),
        _ if text.eq_ignore_ascii_case(b"http") => Some(Scheme::HTTP),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
