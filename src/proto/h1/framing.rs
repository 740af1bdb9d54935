//! The end of a message: the numbered steps of RFC 9112 section 6.3.
//!
//! Request smuggling exploits differences in this logic. A message that two parties could read
//! differently is refused, never repaired.

use http::{Method, StatusCode, Version};

use super::{Fault, scan};

/// The way in which the end of a body is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// By its number of bytes; zero if there is no body.
    Known(u64),
    /// By the last chunk.
    Chunked,
    /// By the end of the connection, in responses only.
    UntilClose,
}

/// The framing fields of a head, recorded in order.
#[derive(Debug, Default)]
pub(super) struct FramingFields {
    content_length: Option<u64>,
    codings: Codings,
}

/// The transfer codings of all `Transfer-Encoding` fields together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// `chunked` alone, the only coding that is supported.
    Chunked,
    /// Unknown codings.
    Unknown,
    /// Unknown codings, then `chunked` as the final one.
    UnknownThenChunked,
}

impl FramingFields {
    /// Records a `Content-Length`, at most one.
    pub(super) fn record_content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let n = parse_content_length(value).ok_or(Fault::ContentLength)?;
        // Repeated fields are refused even if they are equal: other readers may pick either.
        if self.content_length.replace(n).is_some() {
            return Err(Fault::ContentLength);
        }
        Ok(())
    }

    /// Records a `Content-Length` that may repeat equal lengths. Returns the length the first time, then
    /// `None`.
    pub(super) fn record_repeated_content_length(
        &mut self,
        value: &[u8],
    ) -> Result<Option<u64>, Fault> {
        let before = self.content_length;
        for number in value.split(|&b| b == b',') {
            let n = parse_content_length(scan::trim(number)).ok_or(Fault::ContentLength)?;
            if self.content_length.is_some_and(|other| other != n) {
                return Err(Fault::ContentLength);
            }
            self.content_length = Some(n);
        }
        Ok(self.content_length.filter(|_| before.is_none()))
    }

    /// Records a `Transfer-Encoding`: a list of plain tokens. No registered coding has parameters, and
    /// an empty member is an attempt to hide another.
    pub(super) fn record_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        for coding in value.split(|&b| b == b',') {
            let coding = scan::trim(coding);
            if coding.is_empty() || scan::token_len(coding) != coding.len() {
                return Err(Fault::TransferEncoding);
            }
            self.codings = match (self.codings, coding.eq_ignore_ascii_case(b"chunked")) {
                (Codings::None, true) => Codings::Chunked,
                (Codings::None | Codings::Unknown, false) => Codings::Unknown,
                (Codings::Unknown, true) => Codings::UnknownThenChunked,
                // Section 6.1: `chunked` is applied once, and last.
                (Codings::Chunked | Codings::UnknownThenChunked, _) => {
                    return Err(Fault::TransferEncoding);
                }
            };
        }
        Ok(())
    }

    /// Returns whether no framing field was recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.content_length.is_none() && self.codings == Codings::None
    }

    /// Returns the length of a request's body.
    pub(super) fn request_length(&self, version: Version) -> Result<Length, Fault> {
        self.explicit_length(version).map(|l| l.unwrap_or(Length::Known(0))) // step 7
    }

    /// Returns the length of the body of a response to a request with this method.
    pub(super) fn response_length(
        &self,
        status: StatusCode,
        method: &Method,
        version: Version,
    ) -> Result<Length, Fault> {
        let explicit = self.explicit_length(version)?;
        // 1. No body after HEAD, nor with 1xx, 204 and 304, whatever the fields say.
        if method == Method::HEAD
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        {
            return Ok(Length::Known(0));
        }
        Ok(explicit.unwrap_or(Length::UntilClose)) // step 8
    }

    fn explicit_length(&self, version: Version) -> Result<Option<Length>, Fault> {
        match (self.codings, self.content_length) {
            (Codings::None, Some(n)) => Ok(Some(Length::Known(n))), // step 6
            (Codings::None, None) => Ok(None),
            // 3. Both: the RFC lets a server pick one, which is what smuggling exploits.
            (_, Some(_)) => Err(Fault::Ambiguous),
            // A transfer coding in HTTP/1.0 is faulty framing (section 6.1).
            (_, None) if version == Version::HTTP_10 => Err(Fault::TransferEncoding),
            (Codings::Chunked, None) => Ok(Some(Length::Chunked)), // step 4
            // 4. Without a final `chunked` the end of a request is unknown: 400. A response would
            // end with the connection, in an unsupported coding.
            (Codings::Unknown, None) => Err(Fault::TransferEncoding),
            // Section 6.1: an unsupported coding is 501.
            (Codings::UnknownThenChunked, None) => Err(Fault::TransferCoding),
        }
    }
}

/// Largest length of a body or chunk: signed 64-bit readers overflow beyond it.
pub(super) const MAX_LENGTH: u64 = i64::MAX.unsigned_abs();

/// Parses one plain decimal number of at most [`MAX_LENGTH`]. A sign, list, space or leading zero is
/// refused, because other readers take those for lists, octal or nothing.
pub(in crate::proto) fn parse_content_length(value: &[u8]) -> Option<u64> {
    let number = match value {
        [] | [b'0', _, ..] => None,
        digits => digits.iter().try_fold(0u64, |n, &b| {
            let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
            n.checked_mul(10)?.checked_add(digit)
        }),
    };
    number.filter(|&n| n <= MAX_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_one_plain_number() {
        assert_eq!(parse_content_length(b"0"), Some(0));
        assert_eq!(parse_content_length(b"9223372036854775807"), Some(MAX_LENGTH));
        for bad in [
            "",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "+3",
            "-0",
            "010",
            "00",
            "0x10",
            "1Z",
            "5, 5",
            "3 1",
            "0_1",
        ] {
            assert_eq!(parse_content_length(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn request_without_framing_has_no_body_and_response_ends_with_its_connection() {
        let framing = FramingFields::default();
        assert_eq!(framing.request_length(Version::HTTP_10), Ok(Length::Known(0)));
        let of = |s, m| framing.response_length(s, &m, Version::HTTP_11);
        assert_eq!(of(StatusCode::OK, Method::GET), Ok(Length::UntilClose));
        assert_eq!(of(StatusCode::OK, Method::HEAD), Ok(Length::Known(0)));
        assert_eq!(of(StatusCode::NOT_MODIFIED, Method::GET), Ok(Length::Known(0)));
    }
}
