//! Output that no call can write: names, values, methods and targets that would end a line early, and
//! bodies where none is allowed.

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Uri};

use super::{
    run::now,
    side::{GET, HEAD, ask, client, framings, headers, respond, server_after},
};
use crate::proto::h1::Misuse;

/// `a`, the byte, `z`.
fn around(byte: u8) -> [u8; 3] {
    [b'a', byte, b'z']
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

// S15: CR, LF and NUL cannot be built with the types of `http`, on which the encoder relies; and
// without `unsafe`, which the crate denies, there is no other way to build them.

#[test]
fn s15_name_that_is_no_token_cannot_be_built() {
    for byte in 0..=255 {
        for name in [&around(byte)[..], &[byte], &[b'a', byte], &[byte, b'z']] {
            let built = HeaderName::from_bytes(name).is_ok();
            // `http` is at least as strict as the grammar: it refuses `"` too.
            assert!(!built || is_tchar(byte), "{byte:#x} in a name");
        }
    }
    assert!(HeaderName::from_bytes(b"").is_err());
}

#[test]
fn s15_value_with_control_byte_other_than_tab_cannot_be_built() {
    for byte in 0..=255u8 {
        let fine = byte == b'\t' || !byte.is_ascii_control();
        for value in [&around(byte)[..], &[byte], &[b'a', byte], &[byte, b'z']] {
            assert_eq!(HeaderValue::from_bytes(value).is_ok(), fine, "{byte:#x} in a value");
            let shared = bytes::Bytes::copy_from_slice(value);
            assert_eq!(HeaderValue::from_maybe_shared(shared).is_ok(), fine, "{byte:#x}");
        }
    }
}

#[test]
fn s15_method_that_is_no_token_cannot_be_built() {
    for byte in 0..=255 {
        for method in [&around(byte)[..], &[byte], &[b'a', byte], &[byte, b'z']] {
            assert!(Method::from_bytes(method).is_err() || is_tchar(byte), "{byte:#x}");
        }
    }
    assert!(Method::from_bytes(b"").is_err());
}

#[test]
fn s15_target_with_fragment_or_invisible_byte_is_not_written() {
    let (mut built, mut written) = (0, 0);
    for byte in 0..=255u8 {
        for prefix in ["/", "/?", "http://a/", "http://a/?", "http://a?"] {
            // Above ASCII, `http` accepts UTF-8.
            let target = format!("{prefix}a{}z", char::from(byte));
            let Ok(target) = Uri::try_from(&*target) else { continue };
            built += 1;
            let mut out = BytesMut::from("before|");
            let none = headers(&[]);
            let (get, mut conn) = (&Method::GET, client());
            let sent = conn.send_head(now(), get, &target, &none, Some(0), b"", &mut out);
            if byte > 0x7e {
                assert_eq!(sent, Err(Misuse::Target), "{byte:#x} in {target:?}");
            }
            if sent.is_err() {
                assert_eq!(out, "before|", "a misuse wrote something");
                assert!(conn.is_idle());
                continue;
            }
            written += 1;
            let line = out[7..].split(|b| *b == b'\r').next().unwrap();
            let mut parts = line.split(|b| *b == b' ');
            let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
            assert_eq!((method, parts.next().unwrap()), (&b"GET"[..], &b"HTTP/1.1"[..]));
            assert!(parts.next().is_none(), "one line of three parts: {}", line.escape_ascii());
            assert!(path.iter().all(|b| b.is_ascii_graphic() && *b != b'#'), "{path:?}");
        }
    }
    assert!(built > written && written > 300, "{built} were built and {written} written");
}

#[test]
fn s15_host_from_target_is_visible_ascii() {
    for byte in 0..=255u8 {
        let target = format!("http://a{}z/", char::from(byte));
        let Ok(target) = Uri::try_from(&*target) else { continue };
        let mut out = BytesMut::new();
        let none = headers(&[]);
        client().send_head(now(), &Method::GET, &target, &none, Some(0), b"", &mut out).unwrap();
        let head = std::str::from_utf8(&out).unwrap();
        let host = head.split("\r\nhost: ").nth(1).unwrap().split("\r\n").next().unwrap();
        assert!(!host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'@'));
    }
}

#[test]
fn s15_forms_that_a_proxy_must_not_pass_on_are_not_written() {
    let fields = [
        ("transfer-encoding", ",chunked"),
        ("transfer-encoding", "identity"),
        ("content-length", "5"),
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
        ("trailer", "x"),
        ("x", "a\tb\u{85}"),
    ];
    let request = ask(&mut client(), &Method::GET, "http://a/", &fields, None).unwrap();
    assert_eq!(
        request,
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\tb\u{85}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let fields = [("content-length", "5"), ("transfer-encoding", ",chunked")];
    let response = respond(&mut server_after(GET), 200, &fields, None).unwrap();
    assert_eq!(response, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "and no chunks then");
}

#[test]
fn s15_length_without_its_body_is_refused_or_left_out() {
    // GET with a length, its body stripped: neither the length alone nor a hung request.
    let fields = [("content-length", "5")];
    let request = ask(&mut client(), &Method::GET, "http://a/", &fields, Some(0));
    assert_eq!(request, Err(Misuse::Length));
    let request = ask(&mut client(), &Method::GET, "http://a/", &[], Some(0)).unwrap();
    assert_eq!(framings(&request), 0);
}

// S5: a request is framed or has no body.

#[test]
fn s5_request_without_length_takes_no_data() {
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::POST] {
        let mut conn = client();
        ask(&mut conn, &method, "http://a/", &[], Some(0)).unwrap();
        let mut out = BytesMut::new();
        assert_eq!(conn.send_data(1, &mut out), Err(Misuse::TooLong), "{method}");
        let trailers = headers(&[("x", "y")]);
        conn.send_end(now(), Some(&trailers), &mut out).unwrap();
        assert!(out.is_empty(), "the next request follows the head: {out:?}");
    }
}

// S18: no framing without a body.

#[test]
fn s18_no_response_without_a_body_says_how_long_it_is() {
    let fields =
        [("content-length", "5"), ("transfer-encoding", "chunked"), ("trailer", "x"), ("x", "y")];
    for status in [204, 304] {
        for (request, length) in [(GET, Some(5)), (GET, None), (HEAD, Some(0)), (HEAD, None)] {
            let head = respond(&mut server_after(request), status, &fields, length).unwrap();
            assert_eq!(framings(&head), 0, "{head}");
            assert!(head.ends_with("\r\nx: y\r\n\r\n"), "{head}");
        }
    }
    for status in 100..=199 {
        let sent = respond(&mut server_after(GET), status, &fields, Some(0));
        assert_eq!(sent, Err(Misuse::Status), "an interim response has no other way out");
    }
}

#[test]
fn s18_response_to_head_has_neither_body_nor_chunks() {
    let mut conn = server_after(HEAD);
    let head = respond(&mut conn, 200, &[("transfer-encoding", "chunked")], None).unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK\r\n\r\n");
    let mut out = BytesMut::new();
    assert_eq!(conn.send_data(1, &mut out), Err(Misuse::TooLong));
    conn.send_end(now(), None, &mut out).unwrap();
    assert!(out.is_empty(), "no last chunk: {out:?}");
    assert!(conn.is_idle());
}
