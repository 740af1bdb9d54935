//! Validates trailers, which HTTP/2 carries without a rule of its own, as HTTP/1.1 does.

use http::{HeaderMap, HeaderName, HeaderValue, header::TE};

use super::request::{check_field, is_ambiguous, is_of_connection};
use crate::proto::h1::{Fault, Limits, is_forbidden_trailer};

/// Checks the trailers of a request against the bounds of HTTP/1.1, and for fields that must not be trailers (RFC 9110
/// section 6.5.1).
pub(crate) fn validate_trailers(trailers: &HeaderMap, limits: &Limits) -> Result<(), Fault> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + ": \r\n".len()
    };
    let bytes = trailers.iter().map(line).sum::<usize>() + "\r\n".len();
    if trailers.len() > limits.fields || bytes > limits.trailer_bytes {
        return Err(Fault::FieldsTooLarge);
    }
    if trailers.keys().any(is_forbidden_trailer) {
        return Err(Fault::Trailer);
    }
    trailers.iter().try_for_each(|(name, value)| check_field(name, value, limits))
}

/// Removes the fields of trailers that apply to a connection, or could frame a message in HTTP/1.1. The others pass as they
/// are, since the message before them is complete: a `grpc-message` may end with a space.
pub(crate) fn remove_framing(trailers: &mut HeaderMap) {
    let frames = |name: &&HeaderName| is_of_connection(name) || **name == TE || is_ambiguous(name);
    let removed: Vec<_> = trailers.keys().filter(frames).cloned().collect();
    for name in removed {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn trailers_that_http1_refuses_are_refused() {
        let limits = Limits::default();
        let check = |name, value| validate_trailers(&of(&[(name, value)]), &limits);
        assert_eq!(check("grpc-status", "0"), Ok(()));
        for name in ["content-length", "host", "authorization", "x-forwarded-for", "set-cookie"] {
            assert_eq!(check(name, "a"), Err(Fault::Trailer), "{name}");
        }
        for name in ["content_length", "transfer_encoding"] {
            assert_eq!(check(name, "5"), Err(Fault::AmbiguousName), "{name}");
        }
        assert_eq!(check("connection", "x"), Err(Fault::Trailer));
        assert_eq!(check("x", " y"), Err(Fault::FieldValue));
    }

    #[test]
    fn trailers_lose_only_framing_fields() {
        let mut trailers = of(&[
            ("te", "trailers"),
            ("grpc-message", "no such key: "),
            ("transfer_encoding", "chunked"),
            ("connection", "x"),
            ("x_y", "1"),
        ]);
        remove_framing(&mut trailers);
        assert_eq!(trailers, of(&[("grpc-message", "no such key: "), ("x_y", "1")]));
    }

    #[test]
    fn trailers_are_bounded() {
        let limits = Limits::default().max_trailer_bytes(20).max_fields(2);
        let (longest, two) = (of(&[("x", "12345678901234")]), of(&[("a", "1"), ("b", "2")]));
        assert_eq!(validate_trailers(&of(&[("x", "1234567890123")]), &limits), Ok(()));
        assert_eq!(validate_trailers(&longest, &limits), Err(Fault::FieldsTooLarge));
        assert_eq!(validate_trailers(&two, &limits), Ok(()));
        let three = of(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let limits = limits.max_trailer_bytes(1 << 10);
        assert_eq!(validate_trailers(&three, &limits), Err(Fault::FieldsTooLarge));
    }
}
