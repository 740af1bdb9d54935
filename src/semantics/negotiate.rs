//! Content negotiation: content codings (RFC 9110 section 12.5.3) and media types (section 12.5.1).

use http::{HeaderMap, header};

/// A content coding of precompressed files, or `identity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Not encoded.
    Identity,
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// Returns the value of `Content-Encoding`; `None` for [`Identity`](Self::Identity).
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Zstd => Some("zstd"),
            Self::Brotli => Some("br"),
            Self::Gzip => Some("gzip"),
        }
    }

    fn is(self, name: &[u8]) -> bool {
        match self {
            Self::Identity => name.eq_ignore_ascii_case(b"identity"),
            Self::Zstd => name.eq_ignore_ascii_case(b"zstd"),
            Self::Brotli => name.eq_ignore_ascii_case(b"br"),
            // RFC 9110 section 8.4.1.3: x-gzip is equivalent.
            Self::Gzip => {
                name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip")
            }
        }
    }
}

/// The maximum number of list elements, 32; the rest is ignored. Browsers send four.
const MAX_ELEMENTS: usize = 32;

/// The content codings that a request accepts, parsed from `Accept-Encoding`.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};
/// use vestibule::semantics::negotiate::{Accepts, Coding};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, br;q=0.8, *;q=0"));
/// let accepts = Accepts::of(&headers);
/// let here = [Coding::Brotli, Coding::Gzip, Coding::Identity];
/// assert_eq!(accepts.best(&here), Some(Coding::Gzip));
/// assert_eq!(accepts.best(&[Coding::Identity]), None, "excluded by the asterisk: 406");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// Quality values in thousandths, indexed by [`Coding`].
    weights: [u16; 4],
}

const ALL: [Coding; 4] = [Coding::Identity, Coding::Zstd, Coding::Brotli, Coding::Gzip];

impl Accepts {
    /// `identity` alone, for a request without the field. RFC 9110 allows any coding then, but clients
    /// that send no field often cannot decode.
    const PLAIN: Self = Self { weights: [1, 0, 0, 0] };

    /// Parses the `Accept-Encoding` fields of a request. Malformed elements are ignored.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut fields = headers.get_all(header::ACCEPT_ENCODING).iter().peekable();
        if fields.peek().is_none() {
            return Self::PLAIN;
        }
        let (mut named, mut any) = ([None; 4], None);
        let elements = fields.flat_map(|v| v.as_bytes().split(|&b| b == b','));
        for element in elements.take(MAX_ELEMENTS) {
            let Some((name, weight)) = element_of(element) else { continue };
            if name == b"*" {
                any = any.or(Some(weight));
            }
            for (coding, slot) in ALL.iter().zip(&mut named) {
                if coding.is(name) {
                    *slot = slot.or(Some(weight));
                }
            }
        }
        let mut weights = [0; 4];
        for (i, weight) in weights.iter_mut().enumerate() {
            // Identity is acceptable unless it is excluded, with the lowest weight.
            let unnamed = if i == 0 { any.unwrap_or(1) } else { any.unwrap_or(0) };
            *weight = named[i].unwrap_or(unnamed);
        }
        Self { weights }
    }

    /// Returns the available coding with the highest weight, the first one of equals; `None` if none is
    /// acceptable (406).
    pub fn best(&self, available: &[Coding]) -> Option<Coding> {
        let mut best = None;
        for &coding in available {
            let weight = self.weights[coding as usize];
            if weight > 0 && best.is_none_or(|(w, _)| weight > w) {
                best = Some((weight, coding));
            }
        }
        best.map(|(_, coding)| coding)
    }

    /// Returns the codings that are accepted with their weights, the preferred ones first. `identity` is there
    /// only with the weight 0, if it is not acceptable.
    pub(super) fn ranked(&self) -> Vec<(&'static str, u16)> {
        let codings = [Coding::Brotli, Coding::Gzip, Coding::Zstd];
        let weighed =
            codings.into_iter().map(|c| (c.name().unwrap_or(""), self.weights[c as usize]));
        let mut ranked: Vec<_> = weighed.filter(|(_, weight)| *weight > 0).collect();
        ranked.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        if self.weights[Coding::Identity as usize] == 0 {
            ranked.push(("identity", 0));
        }
        ranked
    }
}

/// Returns the quality value of a media type by the `Accept` fields of a request, in thousandths.
///
/// The most specific range that matches decides, the first one of equals. Without a match the value is
/// 0, without the field it is 1000. Parameters of ranges and malformed elements are ignored.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::ACCEPT};
/// use vestibule::semantics::negotiate::media_weight;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(ACCEPT, HeaderValue::from_static("text/html;q=0.5, text/*;q=0.2, */*;q=0.1"));
/// assert_eq!(media_weight(&headers, "text/html"), 500);
/// assert_eq!(media_weight(&headers, "text/plain"), 200);
/// assert_eq!(media_weight(&headers, "application/json"), 100);
/// ```
pub fn media_weight(headers: &HeaderMap, media_type: &str) -> u16 {
    weighed(headers, media_type).0
}

/// Returns whether a request prefers `media_type` to `to`: it has the higher [weight](media_weight), or
/// the same weight by a more specific range.
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::ACCEPT};
/// use vestibule::semantics::negotiate::prefers;
///
/// let mut headers = HeaderMap::new();
/// headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
/// assert!(prefers(&headers, "application/json", "text/html"));
/// headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
/// assert!(!prefers(&headers, "application/json", "text/html"), "the same weight");
/// ```
pub fn prefers(headers: &HeaderMap, media_type: &str, to: &str) -> bool {
    weighed(headers, media_type) > weighed(headers, to)
}

/// The weight of a media type, and the specificity of the range that gives it.
fn weighed(headers: &HeaderMap, media_type: &str) -> (u16, u8) {
    let mut fields = headers.get_all(header::ACCEPT).iter().peekable();
    if fields.peek().is_none() {
        return (1000, 0);
    }
    let mut best = None;
    let elements = fields.flat_map(|v| split(v.as_bytes(), b','));
    for (range, weight) in elements.take(MAX_ELEMENTS).filter_map(range_of) {
        if let Some(specific) = specificity(range, media_type.as_bytes())
            && best.is_none_or(|(_, s)| specific > s)
        {
            best = Some((weight, specific));
        }
    }
    best.unwrap_or((0, 0))
}

/// Parses a media range and its weight, without other parameters; `None` if the weight is malformed.
fn range_of(element: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = split(element, b';').map(<[u8]>::trim_ascii);
    let range = parts.next()?;
    let weight = parts.find_map(|part| match part {
        [b'q' | b'Q', b'=', value @ ..] => Some(weight_of(value)),
        _ => None,
    });
    Some((range, weight.unwrap_or(Some(1000))?))
}

/// The specificity of a range that matches a media type; `None` if it does not match.
fn specificity(range: &[u8], media_type: &[u8]) -> Option<u8> {
    if range == b"*/*" {
        return Some(0);
    }
    if let Some(kind @ [.., b'/']) = range.strip_suffix(b"*") {
        let begins = media_type.get(..kind.len())?.eq_ignore_ascii_case(kind);
        return begins.then_some(1);
    }
    range.eq_ignore_ascii_case(media_type).then_some(2)
}

/// Splits at a separator outside of quoted strings.
pub(super) fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => return b == separator && !quoted,
        }
        false
    })
}

/// Parses a coding and its weight in thousandths; `None` if it is malformed.
fn element_of(element: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = element.split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|n| !n.is_empty())?;
    let weight = match parts.next() {
        None => 1000,
        Some(parameter) => match parameter.split_at_checked(2)? {
            (b"q=" | b"Q=", value) => weight_of(value)?,
            _ => return None,
        },
    };
    parts.next().is_none().then_some((name, weight))
}

/// qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )
fn weight_of(value: &[u8]) -> Option<u16> {
    let (whole, digits) = match value {
        [whole @ (b'0' | b'1')] => (whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', digits @ ..] if digits.len() <= 3 => (whole, digits),
        _ => return None,
    };
    let mut weight = u16::from(whole - b'0') * 1000;
    for (digit, worth) in digits.iter().zip([100, 10, 1]) {
        if !digit.is_ascii_digit() {
            return None;
        }
        weight += u16::from(digit - b'0') * worth;
    }
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests;
