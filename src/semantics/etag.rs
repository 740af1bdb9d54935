//! Entity tags (RFC 9110 section 8.8.3): parsing, writing, strong and weak comparison, lists.

use http::HeaderValue;

/// The maximum of tags read from one field value, 64. Clients send the tags of the versions that they
/// have stored: one, or a few.
///
/// The rest is ignored, which is safe: a list without a match sends the whole content
/// (`If-None-Match`) or refuses the request (`If-Match`).
pub const MAX_TAGS: usize = 64;

/// An entity tag, borrowed from a field value.
///
/// ```
/// use vestibule::semantics::etag::ETag;
///
/// let strong = ETag::parse(br#""v1""#).unwrap();
/// let weak = ETag::parse(br#"W/"v1""#).unwrap();
/// assert!(strong.weak_eq(weak));
/// assert!(!strong.strong_eq(weak));
/// assert_eq!(weak.to_value(), r#"W/"v1""#);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ETag<'a> {
    weak: bool,
    /// The opaque tag without its quotes; only `etagc` characters.
    opaque: &'a [u8],
}

/// The bytes are not an entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an entity tag")]
pub struct BadETag;

impl<'a> ETag<'a> {
    /// Creates a strong tag: representations with the same tag are identical byte for byte.
    ///
    /// # Errors
    /// If `opaque` has a quote, a space or a control character in it.
    pub fn strong(opaque: &'a [u8]) -> Result<Self, BadETag> {
        Self::new(false, opaque)
    }

    /// Creates a weak tag: representations with the same tag are equivalent.
    ///
    /// # Errors
    /// If `opaque` has a quote, a space or a control character in it.
    pub fn weak(opaque: &'a [u8]) -> Result<Self, BadETag> {
        Self::new(true, opaque)
    }

    /// Parses a field value that is a single tag, with optional white space around it.
    ///
    /// # Errors
    /// If it is not one entity tag: unquoted, a list, `*`.
    pub fn parse(value: &'a [u8]) -> Result<Self, BadETag> {
        let value = value.trim_ascii();
        let (weak, quoted) = value.strip_prefix(b"W/").map_or((false, value), |rest| (true, rest));
        let opaque =
            quoted.strip_prefix(b"\"").and_then(|q| q.strip_suffix(b"\"")).ok_or(BadETag)?;
        Self::new(weak, opaque)
    }

    fn new(weak: bool, opaque: &'a [u8]) -> Result<Self, BadETag> {
        if opaque.iter().all(|&b| is_etagc(b)) { Ok(Self { weak, opaque }) } else { Err(BadETag) }
    }

    /// Returns whether the tag is weak (`W/`).
    pub fn is_weak(self) -> bool {
        self.weak
    }

    /// Returns the opaque tag without its quotes.
    pub fn opaque(self) -> &'a [u8] {
        self.opaque
    }

    /// Strong comparison (RFC 9110 section 8.8.3.2): both are strong and their opaque tags are equal.
    pub fn strong_eq(self, other: ETag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Weak comparison (RFC 9110 section 8.8.3.2): the opaque tags are equal.
    pub fn weak_eq(self, other: ETag<'_>) -> bool {
        self.opaque == other.opaque
    }

    /// Returns the tag as a field value.
    pub fn to_value(self) -> HeaderValue {
        let mut text = Vec::with_capacity(self.opaque.len() + 4);
        text.extend_from_slice(if self.weak { b"W/\"" } else { b"\"" });
        text.extend_from_slice(self.opaque);
        text.push(b'"');
        HeaderValue::try_from(text).expect("etagc characters are field value characters")
    }
}

/// etagc = %x21 / %x23-7E / obs-text
fn is_etagc(b: u8) -> bool {
    b == 0x21 || (0x23..=0x7e).contains(&b) || b >= 0x80
}

/// Returns whether a field value of `If-Match` or `If-None-Match` is the wildcard `*`.
pub fn is_any(value: &[u8]) -> bool {
    value.trim_ascii() == b"*"
}

/// Iterates over the tags in a field value of `If-Match` or `If-None-Match`, at most [`MAX_TAGS`].
///
/// It stops at the first element that is not a tag, since the rest cannot be parsed reliably.
///
/// ```
/// use vestibule::semantics::etag;
///
/// let tags: Vec<_> = etag::list(br#""a", W/"b,c",, "d""#).map(|t| t.opaque()).collect();
/// assert_eq!(tags, [&b"a"[..], b"b,c", b"d"]);
/// ```
pub fn list(value: &[u8]) -> impl Iterator<Item = ETag<'_>> {
    List(value).take(MAX_TAGS)
}

struct List<'a>(&'a [u8]);

impl<'a> Iterator for List<'a> {
    type Item = ETag<'a>;

    fn next(&mut self) -> Option<ETag<'a>> {
        // Empty list elements are allowed: RFC 9110 section 5.6.1.2.
        let skip = self.0.iter().take_while(|b| matches!(b, b' ' | b'\t' | b',')).count();
        let rest = &self.0[skip..];
        // A tag may contain a comma, so look for the second quote, not for the next comma.
        let start = if rest.starts_with(b"W/") { 2 } else { 0 };
        let end = rest
            .get(start..)
            .filter(|quoted| quoted.first() == Some(&b'"'))
            .and_then(|quoted| memchr::memchr(b'"', &quoted[1..]))
            .map(|at| start + 1 + at + 1);
        let tag = end.and_then(|end| ETag::parse(&rest[..end]).ok());
        self.0 = match (tag, end) {
            (Some(_), Some(end)) => &rest[end..],
            _ => &[],
        };
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opaques(value: &[u8]) -> Vec<&[u8]> {
        list(value).map(ETag::opaque).collect()
    }

    #[test]
    fn tag_comparison_follows_the_table_of_rfc_9110() {
        let table = [
            (r#"W/"1""#, r#"W/"1""#, false, true),
            (r#"W/"1""#, r#"W/"2""#, false, false),
            (r#"W/"1""#, r#""1""#, false, true),
            (r#""1""#, r#""1""#, true, true),
        ];
        for (a, b, strong, weak) in table {
            let (a, b) = (ETag::parse(a.as_bytes()).unwrap(), ETag::parse(b.as_bytes()).unwrap());
            assert_eq!((a.strong_eq(b), a.weak_eq(b)), (strong, weak), "{a:?} {b:?}");
        }
    }

    #[test]
    fn invalid_tag_is_refused() {
        for bad in [
            &b""[..],
            b"\"",
            b"abc",
            b"W/abc",
            b"w/\"a\"",
            b"\"a b\"",
            b"\"a\"b\"",
            b"*",
            b"\"\0\"",
        ] {
            assert_eq!(ETag::parse(bad).unwrap_err(), BadETag, "{bad:?}");
        }
        assert!(ETag::strong(b"a\"b").is_err());
        assert_eq!(ETag::parse(b"\"\"").unwrap().opaque(), b"");
    }

    #[test]
    fn tag_list_ends_at_first_invalid_tag() {
        assert_eq!(opaques(br#""a" , "b""#), [b"a", b"b"]);
        assert_eq!(opaques(br#""a", nonsense, "b""#), [b"a"]);
        assert_eq!(opaques(br#""a", "unclosed"#), [b"a"]);
        assert_eq!(opaques(br#" , ,"#), [b""; 0]);
        assert_eq!(opaques(b"W/"), [b""; 0]);
        assert!(is_any(b" * ") && !is_any(b"\"*\""));
    }

    #[test]
    fn tag_list_is_read_up_to_its_bound() {
        let many = "\"a\",".repeat(MAX_TAGS + 1);
        assert_eq!(opaques(many.as_bytes()).len(), MAX_TAGS);
    }
}
