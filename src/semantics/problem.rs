//! Responses of the server itself: the status as a short text, as JSON (RFC 9457), or for gRPC.

mod grpc;

use std::{error::Error as StdError, time::Duration};

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, VARY},
};

use super::negotiate::{media_weight, prefers};
use crate::{
    body::Body,
    error::{Error, Kind},
};

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const PROBLEM_JSON: &str = "application/problem+json";

/// The format of a [`response`] of the server itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// `text/plain`: the status and its reason phrase, and a line of detail if there is one.
    #[default]
    Text,
    /// `application/problem+json` (RFC 9457): `status`, `title`, and `detail` if there is one.
    Json,
    /// Trailers only, for clients of gRPC: status 200 and no body, with `grpc-status` and `grpc-message` in the head.
    /// The code is that of gRPC's table for the status, for example 14, unavailable, for 502, 503 and 504. It has
    /// `cache-control: no-store`.
    Grpc,
}

impl Format {
    /// Returns `Grpc` for a POST of the type `application/grpc`, with or without a suffix such as `+proto`.
    /// Otherwise returns `Json` for a client that prefers `application/json` or `application/problem+json` to plain
    /// text, or that names either and gives plain text the same weight, and `Text` for all others.
    ///
    /// ```
    /// use http::{HeaderMap, HeaderValue, Method, header::ACCEPT};
    /// use vestibule::semantics::problem::Format;
    ///
    /// let of = |accept| {
    ///     let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
    ///     Format::of(&Method::GET, &headers)
    /// };
    /// assert_eq!(of("application/json, text/plain, */*"), Format::Json);
    /// assert_eq!(of("text/html, */*;q=0.8"), Format::Text);
    /// assert_eq!(Format::of(&Method::GET, &HeaderMap::new()), Format::Text);
    /// ```
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        if grpc::is_grpc(method, headers) {
            return Self::Grpc;
        }
        // A type that clients do not list: it matches `application/*` at most.
        const UNLISTED: &str = "application/octet-stream";
        let is_preferred = |json| {
            let (json_weight, text) = (media_weight(headers, json), media_weight(headers, TEXT));
            let is_named = prefers(headers, json, UNLISTED);
            json_weight > text || (json_weight > 0 && json_weight == text && is_named)
        };
        if headers.contains_key(ACCEPT) && (is_preferred(JSON) || is_preferred(PROBLEM_JSON)) {
            Self::Json
        } else {
            Self::Text
        }
    }

    /// Returns the format for a request whose `Accept` is not evaluated: `Grpc` or `Text`.
    #[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "for the driver of HTTP/2"))]
    pub(crate) fn without_accept(method: &Method, headers: &HeaderMap) -> Self {
        if grpc::is_grpc(method, headers) { Self::Grpc } else { Self::Text }
    }
}

/// The `Accept` field of a request, and whether it is one of gRPC, kept for a later [`Format`].
#[derive(Debug, Clone, Default)]
pub struct Accept {
    field: Option<HeaderValue>,
    is_grpc: bool,
}

impl Accept {
    /// Returns the field of a request. Several lines are joined.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let is_grpc = grpc::is_grpc(method, headers);
        let mut lines = headers.get_all(ACCEPT).iter();
        let first = lines.next();
        if first.is_none() || lines.next().is_none() {
            return Self { field: first.cloned(), is_grpc };
        }
        let lines: Vec<_> = headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes).collect();
        Self { field: HeaderValue::from_bytes(&lines.join(&b", "[..])).ok(), is_grpc }
    }

    /// Returns the format of a response to this request.
    pub fn format(&self) -> Format {
        match &self.field {
            _ if self.is_grpc => Format::Grpc,
            None => Format::Text,
            Some(accept) => {
                // The method decides about gRPC only.
                Format::of(&Method::GET, &HeaderMap::from_iter([(ACCEPT, accept.clone())]))
            }
        }
    }
}

/// Returns the status for an error of this kind.
///
/// | kind | status |
/// |---|---|
/// | `BadRequest` | 400 |
/// | `ClientTimeout` | 408 |
/// | `TooLarge` | 413 |
/// | `ClientGone` | 400, for a client that has left |
/// | `TooManyRequests` | 429 |
/// | `Overloaded` | 503 |
/// | `Timeout` | 504 |
/// | `BadGateway` | 502 |
/// | `Internal` | 500 |
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::BadRequest | Kind::ClientGone => StatusCode::BAD_REQUEST,
        Kind::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Kind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::BadGateway => StatusCode::BAD_GATEWAY,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns the response for an error of this kind: its [`status`], and for 429 and 503 `retry-after: 1`,
/// since a full queue has usually advanced after a second.
pub fn of_kind(kind: Kind, detail: Option<&str>, format: Format) -> Response<Body> {
    let mut response = response(status(kind), detail, format);
    if matches!(kind, Kind::Overloaded | Kind::TooManyRequests) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Marks a response that this crate has generated in place of the application, in the response's extensions.
///
/// [`response`] adds it, and so do the layers that refuse or redirect requests. The access log reports it as
/// [`local_reply`](crate::conn::access_log::Entry::local_reply). Add it to the refusals of your own layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalReply;

/// The client exceeds its request rate.
///
/// As the source of an error of [`Kind::TooManyRequests`] it gives [`of_error`] the value of `retry-after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client exceeds its request rate; the next request is allowed in {retry_after:?}")]
pub struct RateLimited {
    /// The time until its next request is allowed.
    pub retry_after: Duration,
}

impl RateLimited {
    /// Returns the time in whole seconds, as in `retry-after` (RFC 9110 section 10.2.3): rounded up, since a
    /// client that retries too early is refused again, and at least 1.
    pub fn retry_after_secs(&self) -> u64 {
        let partial = u64::from(self.retry_after.subsec_nanos() > 0);
        self.retry_after.as_secs().saturating_add(partial).max(1)
    }
}

/// Returns the response for an error: that of the kind of the first [`Error`] in its chain of causes, or of
/// [`Kind::Internal`] if there is none. If the source of that is [`RateLimited`], `retry-after` is its time.
pub fn of_error(
    error: &(dyn StdError + 'static),
    detail: Option<&str>,
    format: Format,
) -> Response<Body> {
    let ours = Error::find(error);
    let mut response = of_kind(ours.map_or(Kind::Internal, Error::kind), detail, format);
    let source = ours.and_then(StdError::source);
    if let Some(limited) = source.and_then(|e| e.downcast_ref::<RateLimited>()) {
        response.headers_mut().insert(RETRY_AFTER, limited.retry_after_secs().into());
    }
    response
}

/// Returns a response with this status. A text has the status and its reason phrase, as in the status line;
/// `detail` is one sentence for the client, without a full stop.
///
/// It has `vary: accept`, since its format depends on that field, and [`LocalReply`] in its extensions.
/// With [`Format::Grpc`] its own status is 200.
///
/// ```
/// use http::StatusCode;
/// use vestibule::semantics::problem::{Format, response};
///
/// let text = response(StatusCode::PAYLOAD_TOO_LARGE, Some("at most 9 bytes"), Format::Text);
/// assert_eq!(text.body().as_bytes().unwrap(), "413 Payload Too Large\nat most 9 bytes\n");
/// let json = response(StatusCode::BAD_GATEWAY, None, Format::Json);
/// assert_eq!(json.headers()["content-type"], "application/problem+json");
/// assert_eq!(json.body().as_bytes().unwrap(), r#"{"status":502,"title":"Bad Gateway"}"#);
/// ```
pub fn response(status: StatusCode, detail: Option<&str>, format: Format) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let mut out = BytesMut::new();
    let content_type = match format {
        Format::Grpc => return grpc::response(status, detail),
        Format::Text => {
            out.extend([status.as_str(), " ", title, "\n"].map(str::as_bytes).concat());
            out.extend(detail.into_iter().flat_map(|detail| [detail, "\n"]).flat_map(str::bytes));
            "text/plain; charset=utf-8"
        }
        Format::Json => {
            out.extend([r#"{"status":"#, status.as_str(), r#","title":"#].concat().bytes());
            write_json_string(title, &mut out);
            if let Some(detail) = detail {
                out.extend(br#","detail":"#);
                write_json_string(detail, &mut out);
            }
            out.extend(b"}");
            PROBLEM_JSON
        }
    };
    let mut response = Response::new(Body::from(out.freeze()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response.extensions_mut().insert(LocalReply);
    response
}

/// Writes a JSON string (RFC 8259 section 7).
fn write_json_string(text: &str, out: &mut BytesMut) {
    out.extend(b"\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend([b'\\', c as u8]),
            '\0'..='\x1f' => out.extend(format!("\\u{:04x}", u32::from(c)).bytes()),
            _ => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    out.extend(b"\"");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_follows_the_accept_field() {
        let cases: [(&[&str], Format); 14] = [
            (&[], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/plain"], Format::Text),
            (&["application/json"], Format::Json),
            (&["application/problem+json"], Format::Json),
            (&["application/*"], Format::Json),
            (&["application/json, text/plain, */*"], Format::Json),
            (&["application/json, */*"], Format::Json),
            (&["text/plain, application/json;q=0.9"], Format::Text),
            (&["application/json;q=0.1, */*;q=0.5"], Format::Text),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], Format::Text),
            (&["image/png"], Format::Text),
            (&["text/html", "application/json"], Format::Json),
            (&["application/json;q=0"], Format::Text),
        ];
        for (lines, want) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT, line.parse().unwrap());
            }
            assert_eq!(Format::of(&Method::GET, &headers), want, "{lines:?}");
            assert_eq!(Accept::of(&Method::GET, &headers).format(), want, "{lines:?}");
        }
    }

    #[test]
    fn json_escapes_quotes_and_control_characters() {
        let json = response(StatusCode::OK, Some("a\"b\\c\u{1}\nd\u{e9}"), Format::Json);
        let want =
            "{\"status\":200,\"title\":\"OK\",\"detail\":\"a\\\"b\\\\c\\u0001\\u000ad\u{e9}\"}";
        assert_eq!(json.body().as_bytes().unwrap(), want);
        let bare = response(StatusCode::from_u16(599).unwrap(), None, Format::Json);
        assert_eq!(bare.body().as_bytes().unwrap(), r#"{"status":599,"title":""}"#);
    }
}
