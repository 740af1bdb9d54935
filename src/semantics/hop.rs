//! Hop-by-hop fields, which apply to one connection and must not be forwarded (RFC 9110 section 7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, header::CONNECTION};

use super::forwarded::is_client_field;

/// Fields for one connection only, whether or not `Connection` names them.
const HOP_BY_HOP: [&str; 7] = [
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade", // with every `Upgrade: h2c`, so no h2c upgrade is forwarded
    "keep-alive",
    "proxy-connection",
    "http2-settings", // RFC 9113 section 3.2.1 (obsolete, and the second half of an h2c upgrade)
];

/// Fields for all recipients, which `Connection` must not name (RFC 9110 section 7.6.1:
/// "a sender MUST NOT send a connection option corresponding to a field that is intended for all
/// recipients of the content").
///
/// They state the target of a message, its content, its sender and its cacheability. If one were removed,
/// the upstream server would read the message differently than the gateway.
const END_TO_END: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-range",
    "range",
    "authorization",
    "cookie",
    "set-cookie",
    "cache-control",
    "vary",
    "expires",
    "max-forwards", // decremented here, so it must not be lost (RFC 9110 section 7.6.2)
];

/// Removes the fields of this hop: `Connection`, every field that it names, `Keep-Alive`,
/// `Proxy-Connection`, `TE`, `Trailer`, `Transfer-Encoding`, `Upgrade` and `HTTP2-Settings`.
///
/// Call it on a received head *before* adding fields: `Connection: x-forwarded-for` then removes only the
/// peer's field of that name, never an added one. An end-to-end field that `Connection` names against
/// the rules (`Host`, `Content-Length`, `Content-Type`,
/// `Content-Encoding`, `Content-Range`, `Range`, `Authorization`, `Cookie`, `Set-Cookie`,
/// `Cache-Control`, `Vary`, `Expires`, `Max-Forwards`) stays.
///
/// Read `Upgrade` and `Transfer-Encoding` before, if you need them. `Proxy-Authenticate` and
/// `Proxy-Authorization` stay: RFC 9110 section 11.7 allows a chain of proxies to relay them. Remove
/// `Proxy-Authorization` from requests if you authenticate with it yourself.
///
/// A head without such fields costs one comparison for each name. Nothing is allocated unless
/// `Connection` is repeated.
///
/// ```
/// use http::HeaderMap;
/// use vestibule::semantics::hop;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("connection", "close, x-internal".parse().unwrap());
/// headers.insert("x-internal", "1".parse().unwrap());
/// headers.insert("accept", "*/*".parse().unwrap());
/// hop::strip(&mut headers);
/// assert_eq!(headers.len(), 1);
/// ```
pub fn strip(headers: &mut HeaderMap) {
    let found = find_fields(headers);
    if found == 0 {
        return;
    }
    if found & CONNECTION_BIT != 0 {
        // Usually there is one line: its value is a shared handle, and `rest` is an empty `Vec`.
        let rest: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().skip(1).cloned().collect();
        if let Some(first) = headers.remove(CONNECTION) {
            strip_named(headers, &first);
        }
        for list in &rest {
            strip_named(headers, list);
        }
    }
    for (i, name) in HOP_BY_HOP.iter().enumerate() {
        if found & (1 << i) != 0 {
            headers.remove(*name);
        }
    }
}

/// Removes the fields that the client names in `Connection`, and their names from it.
///
/// The server calls it before any service, because of what a client could do otherwise:
/// - Name a field that a layer adds, such as that of an authenticated user: [`strip`] would remove it from the forwarded
///   request.
/// - Name a field that a cache selects by: the stored response would be that for a request without the field.
///
/// Fields that name the client, such as `X-Forwarded-For`, stay: a proxy that has added them may have kept the `Connection` of
/// its client.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for the driver"))]
pub(crate) fn remove_named(headers: &mut HeaderMap) {
    let lists: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    let options = || {
        let options = lists.iter().flat_map(|list| list.as_bytes().split(|&b| b == b','));
        options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
    };
    // The options of the connection itself.
    let is_own = |option: &&[u8]| {
        let mut own = ["close", "keep-alive"].iter().chain(&HOP_BY_HOP);
        own.any(|own| option.eq_ignore_ascii_case(own.as_bytes()))
    };
    if options().all(|option| is_own(&option)) {
        return;
    }
    headers.remove(CONNECTION);
    let own = options().filter(is_own).collect::<Vec<_>>().join(&b", "[..]);
    if let (false, Ok(own)) = (own.is_empty(), HeaderValue::from_bytes(&own)) {
        headers.insert(CONNECTION, own);
    }
    for option in options().filter(|option| !is_own(option)) {
        let Ok(name) = HeaderName::from_bytes(option) else { continue };
        let name = name.as_str();
        if !END_TO_END.contains(&name) && !is_client_field(name.as_bytes()) {
            headers.remove(name);
        }
    }
}

/// The bit of `Connection` in the result of [`find_fields`], after one for each of [`HOP_BY_HOP`].
const CONNECTION_BIT: u8 = 1 << HOP_BY_HOP.len();

/// Returns which hop-by-hop fields are present, one bit for each: one pass over the names, without hashing.
fn find_fields(headers: &HeaderMap) -> u8 {
    let mut found = 0;
    for name in headers.keys() {
        let name = name.as_str();
        // The compiled code compares lengths first, which excludes nearly every name.
        found |= match name {
            "connection" => CONNECTION_BIT,
            "te" => 1,
            "trailer" => 1 << 1,
            "transfer-encoding" => 1 << 2,
            "upgrade" => 1 << 3,
            "keep-alive" => 1 << 4,
            "proxy-connection" => 1 << 5,
            "http2-settings" => 1 << 6,
            _ => 0,
        };
    }
    found
}

/// Removes the fields that one `Connection` value names.
fn strip_named(headers: &mut HeaderMap, list: &HeaderValue) {
    for option in list.as_bytes().split(|&b| b == b',') {
        // Skip an option that is not a token; the others in the list still count.
        let Ok(option) = std::str::from_utf8(option.trim_ascii()) else { continue };
        if option.eq_ignore_ascii_case("close") || option.eq_ignore_ascii_case("keep-alive") {
            continue; // the usual options; `Keep-Alive` is removed by its own bit
        }
        if !END_TO_END.iter().any(|name| option.eq_ignore_ascii_case(name)) {
            headers.remove(option);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn strip_map(fields: &[(&str, &str)]) -> Vec<String> {
        let mut headers = map(fields);
        strip(&mut headers);
        headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    #[test]
    fn every_hop_by_hop_field_is_removed_without_connection_naming_it() {
        for name in HOP_BY_HOP.iter().chain(&["connection"]) {
            assert_eq!(
                strip_map(&[("host", "a"), (name, "x"), (name, "y")]),
                ["host: a"],
                "{name}"
            );
        }
        for (i, name) in HOP_BY_HOP.iter().enumerate() {
            assert_eq!(find_fields(&map(&[(name, "x")])), 1 << i, "the bit of {name}");
        }
    }

    #[test]
    fn fields_named_by_connection_are_removed_in_any_case_and_any_list() {
        let fields = [
            ("connection", "close, X-One ,,\tx-two"),
            ("x-one", "1"),
            ("x-one", "again"),
            ("x-two", "2"),
            ("connection", "x-THREE"),
            ("x-three", "3"),
            ("x-four", "4"),
        ];
        assert_eq!(strip_map(&fields), ["x-four: 4"]);
    }

    #[test]
    fn connection_field_cannot_strip_fields_that_are_added_afterwards() {
        let mut headers = map(&[("connection", "X-Forwarded-For"), ("x-forwarded-for", "6.6.6.6")]);
        strip(&mut headers);
        assert!(headers.is_empty());
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        strip(&mut headers);
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
    }

    #[test]
    fn removal_of_named_fields_keeps_the_options_of_the_connection() {
        let removed = |fields: &[(&str, &str)]| -> Vec<String> {
            let mut headers = map(fields);
            remove_named(&mut headers);
            headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
        };
        let own = [("connection", "Upgrade,, HTTP2-Settings"), ("te", "trailers")];
        assert_eq!(removed(&own), ["connection: Upgrade,, HTTP2-Settings", "te: trailers"]);
        let fields = [
            ("connection", "X-User , close,("),
            ("x-user", "a"),
            ("x-user", "b"),
            ("upgrade", "websocket"),
            ("connection", "upgrade, Origin"),
            ("origin", "b"),
            ("x-other", "c"),
        ];
        let mut left = removed(&fields);
        left.sort_unstable();
        assert_eq!(left, ["connection: close, upgrade", "upgrade: websocket", "x-other: c"]);
        for kept in ["cookie", "authorization", "x-forwarded-for", "forwarded", "x-real-ip"] {
            let field = format!("{kept}: a");
            assert_eq!(removed(&[("connection", &kept.to_uppercase()), (kept, "a")]), [field]);
        }
    }

    #[test]
    fn end_to_end_fields_are_kept_although_connection_names_them() {
        for name in END_TO_END {
            assert_eq!(
                strip_map(&[(name, "1"), ("connection", &name.to_uppercase())]),
                [format!("{name}: 1")]
            );
        }
    }

    #[test]
    fn strip_removes_all_fields_of_h2c_upgrade() {
        let fields = [
            ("host", "a"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("connection", "Upgrade, HTTP2-Settings"),
        ];
        assert_eq!(strip_map(&fields), ["host: a"]);
    }

    #[test]
    fn connection_option_that_is_not_a_token_removes_nothing() {
        let mut headers = map(&[("x-one", "1"), ("x-two", "2")]);
        headers.insert(CONNECTION, HeaderValue::from_bytes(b"\xff, x-one, \x80").unwrap());
        strip(&mut headers);
        assert_eq!(headers, map(&[("x-two", "2")]));
        assert_eq!(strip_map(&[("connection", "a b, (, "), ("x", "1")]), ["x: 1"]);
    }
}
