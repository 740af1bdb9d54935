//! `Vary`: which fields of a request select the variant (RFC 9111 section 4.1), and their normal form.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{super::negotiate, directives::trim};

/// Maximum number of fields in `Vary`: 16. A response with more is not stored.
pub const MAX_FIELDS: usize = 16;

/// The fields of a request that select a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// `*`, an invalid name, or more than [`MAX_FIELDS`]: no other request matches.
    Any,
    /// These fields, sorted; empty without `Vary`, or if it names only `Host`.
    Fields(Box<[HeaderName]>),
}

/// The values of the fields that select a variant, in a normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VaryKey(Bytes);

impl Vary {
    /// Reads all lines of the field. `Host` selects nothing, since the host is part of a cache's key, in its normal form.
    ///
    /// ```
    /// use http::{HeaderMap, header::VARY};
    /// use vestibule::semantics::cache::Vary;
    ///
    /// let mut headers = HeaderMap::new();
    /// headers.append(VARY, "Accept-Language, accept-encoding".parse().unwrap());
    /// let Vary::Fields(fields) = Vary::of(&headers) else { panic!() };
    /// assert_eq!(fields.len(), 2);
    /// headers.append(VARY, ", *".parse().unwrap());
    /// assert_eq!(Vary::of(&headers), Vary::Any);
    /// ```
    pub fn of(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for line in headers.get_all(header::VARY) {
            for element in line.as_bytes().split(|&b| b == b',').map(trim) {
                if element.is_empty() {
                    continue;
                }
                // `*` is a name by its syntax.
                match HeaderName::from_bytes(element) {
                    Ok(header::HOST) => {}
                    Ok(name) if element != b"*" && names.len() < MAX_FIELDS => names.push(name),
                    Ok(_) | Err(_) => return Self::Any,
                }
            }
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        names.dedup();
        Self::Fields(names.into())
    }

    /// Returns whether the response has no `Vary`, so that each request selects it.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Fields(names) if names.is_empty())
    }

    /// Returns the key of the variant that a request selects; `None` if none matches.
    ///
    /// Requests have the same key if they differ only in the order and spelling of lists: `Accept-Encoding` and
    /// `Accept-Language` are compared by their meaning, other fields without the white space around commas and the
    /// division of a list into lines.
    pub fn key(&self, request: &HeaderMap) -> Option<VaryKey> {
        let Self::Fields(names) = self else { return None };
        if names.is_empty() {
            return Some(VaryKey(Bytes::new()));
        }
        let mut key = Vec::new();
        for name in names {
            match selecting_value(request, name) {
                // No value begins with a line feed.
                Some(value) => key.extend([b"=", &value[..], b"\n"].concat()),
                None => key.extend(b"-\n"),
            }
        }
        Some(VaryKey(key.into()))
    }
}

impl Vary {
    /// Returns the values of the fields of a request as they were sent; `None` if they are longer than `max` bytes. Requests
    /// with the same form have the same [key](Self::key).
    ///
    /// ```
    /// use http::{HeaderMap, HeaderName, header};
    /// use vestibule::semantics::cache::Vary;
    ///
    /// let map = |name: HeaderName, text: &str| HeaderMap::from_iter([(name, text.parse().unwrap())]);
    /// let vary = Vary::of(&map(header::VARY, "accept-encoding"));
    /// let (request, other) =
    ///     (map(header::ACCEPT_ENCODING, "gzip, br"), map(header::ACCEPT_ENCODING, "br, gzip"));
    /// let form = vary.sent_form(&request, 100).unwrap();
    /// assert!(vary.is_sent_as(&form, &request) && !vary.is_sent_as(&form, &other));
    /// assert_eq!(vary.key(&request), vary.key(&other));
    /// assert!(vary.sent_form(&request, form.len() - 1).is_none());
    /// ```
    pub fn sent_form(&self, request: &HeaderMap, max: usize) -> Option<Vec<u8>> {
        let Self::Fields(names) = self else { return None };
        let lines = |name| request.get_all(name).iter().map(|value| value.len() + 2);
        let len = names.iter().map(|name| lines(name).sum::<usize>() + 1).sum();
        // Before anything is copied: cookies may be long.
        if len > max {
            return None;
        }
        let mut form = Vec::with_capacity(len);
        for name in names {
            for value in request.get_all(name) {
                form.push(LINE);
                form.extend_from_slice(value.as_bytes());
                form.push(b'\n'); // no value contains one
            }
            form.push(END);
        }
        Some(form)
    }

    /// Returns whether a request has this [form](Self::sent_form).
    pub fn is_sent_as(&self, form: &[u8], request: &HeaderMap) -> bool {
        let Self::Fields(names) = self else { return false };
        let mut rest = form;
        let mut takes = |text: &[u8]| match rest.strip_prefix(text) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        };
        let is_same = names.iter().all(|name| {
            let mut lines = request.get_all(name).iter();
            lines.all(|line| takes(&[LINE]) && takes(line.as_bytes()) && takes(b"\n"))
                && takes(&[END])
        });
        is_same && rest.is_empty()
    }
}

/// The byte before each line of a field, and the byte after a field, in the form of [`Vary::sent_form`].
const LINE: u8 = b'=';
const END: u8 = b';';

impl VaryKey {
    /// Returns the bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for VaryKey {
    /// Restores a key from its bytes.
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

/// Returns the value of a field in its normal form; `None` if it is absent.
fn selecting_value(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    if *name == header::ACCEPT_ENCODING {
        let value = normalize_accept_encoding(request);
        return Some(value.map_or_else(|| b"identity".to_vec(), |v| v.as_bytes().to_vec()));
    }
    if !request.contains_key(name) {
        return None;
    }
    if *name == header::ACCEPT_LANGUAGE {
        return Some(languages(request));
    }
    Some(elements(request, name).collect::<Vec<_>>().join(&b","[..]))
}

/// Returns the elements of a list, without empty ones.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    let elements = lines.flat_map(|line| negotiate::split(line.as_bytes(), b',')).map(trim);
    elements.filter(|element| !element.is_empty())
}

/// Returns languages in lower case, without spaces, sorted: with equal weights their order has no meaning.
fn languages(request: &HeaderMap) -> Vec<u8> {
    let mut ranges: Vec<Vec<u8>> = elements(request, &header::ACCEPT_LANGUAGE)
        .map(|element| {
            let bytes = element.iter().filter(|b| !matches!(b, b' ' | b'\t'));
            bytes.map(u8::to_ascii_lowercase).collect()
        })
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges.join(&b","[..])
}

/// Returns `Accept-Encoding` in a normal form that names only codings of [`negotiate::Coding`], the preferred
/// ones first; `None` if the field is absent, or accepts only `identity`.
///
/// A cache forwards this form instead of the client's, so that the origin's choice depends only on values that the
/// key contains.
///
/// ```
/// use http::{HeaderMap, header::ACCEPT_ENCODING};
/// use vestibule::semantics::cache::vary::normalize_accept_encoding;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(ACCEPT_ENCODING, "deflate, br;q=0.9, gzip".parse().unwrap());
/// assert_eq!(normalize_accept_encoding(&headers).unwrap(), "gzip, br;q=0.9");
/// headers.insert(ACCEPT_ENCODING, "deflate, gzip, br".parse().unwrap());
/// assert_eq!(normalize_accept_encoding(&headers).unwrap(), "br, gzip");
/// ```
pub fn normalize_accept_encoding(request: &HeaderMap) -> Option<HeaderValue> {
    let ranked = negotiate::Accepts::of(request).ranked();
    let mut text = String::new();
    let (mut rank, mut last) = (10, None);
    for (name, weight) in ranked {
        if last.is_some_and(|last| weight < last) {
            rank -= 1;
        }
        last = Some(weight);
        let comma = if text.is_empty() { "" } else { ", " };
        let written = match (weight, rank) {
            (0, _) => write!(text, "{comma}{name};q=0"),
            (_, 10) => write!(text, "{comma}{name}"),
            (_, rank) => write!(text, "{comma}{name};q=0.{rank}"),
        };
        written.expect("a string can be written to");
    }
    if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
}
