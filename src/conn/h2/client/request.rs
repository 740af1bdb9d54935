//! Conversion of a request's head to HTTP/2 (RFC 9113 section 8.3.1).

use h2::ext::Protocol;
use http::{
    HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::proto::h2::own_values;

/// Converts a head. Returns `None` if its target cannot be expressed in HTTP/2.
///
/// `Host` becomes the authority. `TE: trailers` is added, since trailers are forwarded, and gRPC requires it.
pub(super) fn convert(parts: &request::Parts, scheme: &Scheme) -> Option<Request<()>> {
    let mut headers = parts.headers.clone();
    let authority = match headers.remove(HOST) {
        Some(host) => Authority::try_from(host.as_bytes()).ok()?,
        None => parts.uri.authority()?.clone(),
    };
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    headers.remove("http2-settings");
    headers.insert(TE, HeaderValue::from_static("trailers"));
    own_values(&mut headers);
    let path = match parts.uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') => path.clone(),
        Some(path) if path.as_str() == "*" && parts.method == Method::OPTIONS => path.clone(),
        Some(path) if path.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{path}")).ok()?
        }
        None => PathAndQuery::from_static("/"),
        Some(_) => return None,
    };
    if parts.method == Method::CONNECT {
        return None;
    }
    let uri = Uri::builder().scheme(scheme.clone()).authority(authority).path_and_query(path);
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri.build().ok()?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Some(request)
}

/// Makes a converted head that of an extended CONNECT for a WebSocket, which has no key (RFC 8441 section 5).
pub(super) fn convert_switch(request: &mut Request<()>) {
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    request.headers_mut().remove(CONTENT_LENGTH); // HTTP/1.1 clients may send zero, and a tunnel has none
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_becomes_the_authority_and_fields_of_http1_are_removed() {
        let (parts, ()) = Request::get("/a?b")
            .header(HOST, "a.example:81")
            .header(CONNECTION, "close")
            .header("x", "y")
            .body(())
            .unwrap()
            .into_parts();
        let request = convert(&parts, &Scheme::HTTPS).unwrap();
        assert_eq!(request.uri(), "https://a.example:81/a?b");
        assert_eq!(request.headers().len(), 2);
        assert_eq!(
            (&request.headers()["x"], &request.headers()[TE]),
            (&"y".parse().unwrap(), &"trailers".parse().unwrap())
        );
    }

    #[test]
    fn target_without_a_form_in_http2_is_refused() {
        for (method, uri, host) in [
            (Method::CONNECT, "a:443", Some("a")),
            (Method::GET, "*", Some("a")),
            (Method::GET, "/", None),
            (Method::GET, "/", Some("a b")),
        ] {
            let mut request = Request::builder().method(method).uri(uri);
            if let Some(host) = host {
                request = request.header(HOST, host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert!(convert(&parts, &Scheme::HTTP).is_none(), "{uri}");
        }
    }
}
