//! Prepares the head of a response (RFC 9113 section 8.3.2).

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::proto::h1::{Misuse, parse_content_length};

/// Removes fields of HTTP/1.1 connections, and sets `Content-Length` and `Date`. `length` is that of the body,
/// `None` if unknown. Returns whether a body follows.
///
/// # Errors
/// As with HTTP/1.1: [`Misuse::Status`] for a status below 200, [`Misuse::Length`] for a `Content-Length` that
/// contradicts `length`.
pub(crate) fn prepare_response(
    status: StatusCode,
    headers: &mut HeaderMap,
    length: Option<u64>,
    is_head: bool,
    date: &[u8],
) -> Result<bool, Misuse> {
    if status.is_informational() {
        return Err(Misuse::Status);
    }
    remove_connection_fields(headers);
    if !headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_bytes(date)
    {
        headers.insert(DATE, date);
    }
    let own = headers.get(CONTENT_LENGTH).map(|v| parse_content_length(v.as_bytes()));
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        headers.remove(CONTENT_LENGTH);
        return Ok(false);
    }
    let stated = match own {
        // An empty body does not tell the length of the response to GET.
        _ if is_head => own.flatten().or_else(|| length.filter(|n| *n > 0)),
        Some(None) => return Err(Misuse::Length),
        Some(Some(own)) if length.is_some_and(|length| length != own) => {
            return Err(Misuse::Length);
        }
        Some(own) => own,
        None => length,
    };
    match stated {
        Some(n) if own == Some(Some(n)) => {}
        Some(n) => drop(headers.insert(CONTENT_LENGTH, decimal(n))),
        None => drop(headers.remove(CONTENT_LENGTH)),
    }
    Ok(!is_head && length != Some(0))
}

/// Returns a number as text. `HeaderValue::from` would allocate twice.
fn decimal(n: u64) -> HeaderValue {
    HeaderValue::from_str(itoa::Buffer::new().format(n)).expect("digits are visible")
}

/// Prepares the head of an interim response, which has no body and no `Date` of its own.
pub(crate) fn prepare_interim(headers: &mut HeaderMap) {
    remove_connection_fields(headers);
    headers.remove(CONTENT_LENGTH);
}

/// Removes the fields that are malformed in HTTP/2 (RFC 9113 section 8.2.2), and those of this hop.
fn remove_connection_fields(headers: &mut HeaderMap) {
    // Most responses have none of them, and a pass over the names costs less than a lookup of each.
    if !headers.keys().any(is_connection_field) {
        return;
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, TRAILER] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

fn is_connection_field(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "trailer"
            | "keep-alive"
            | "proxy-connection"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(
        status: u16,
        own: Option<&str>,
        length: Option<u64>,
        is_head: bool,
    ) -> Result<(bool, Option<String>), Misuse> {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(own) = own {
            headers.insert(CONTENT_LENGTH, own.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        let has_body = prepare_response(status, &mut headers, length, is_head, b"now")?;
        assert_eq!(headers[DATE], "now");
        assert!(!headers.contains_key(CONNECTION));
        let length = headers.get(CONTENT_LENGTH).map(|v| v.to_str().unwrap().to_owned());
        Ok((has_body, length))
    }

    #[test]
    fn length_of_response_follows_its_body_and_contradictions_are_refused() {
        for (status, own, length, is_head, expected) in [
            (200, None, Some(5), false, Ok((true, Some("5")))),
            (200, Some("5"), Some(5), false, Ok((true, Some("5")))),
            (200, Some("5"), None, false, Ok((true, Some("5")))),
            (200, Some("4"), Some(5), false, Err(Misuse::Length)),
            (200, Some("x"), None, false, Err(Misuse::Length)),
            (200, None, None, false, Ok((true, None))),
            (200, None, Some(0), false, Ok((false, Some("0")))),
            (200, Some("9"), Some(0), true, Ok((false, Some("9")))),
            (200, None, Some(0), true, Ok((false, None))),
            (200, None, Some(5), true, Ok((false, Some("5")))),
            (304, Some("9"), Some(0), false, Ok((false, None))),
            (204, None, Some(3), false, Ok((false, None))),
            (101, None, Some(0), false, Err(Misuse::Status)),
        ] {
            let expected = expected.map(|(body, length)| (body, length.map(str::to_owned)));
            assert_eq!(prepare(status, own, length, is_head), expected, "{status} {own:?}");
        }
    }
}
