//! Interim responses and errors.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{
    run::now,
    side::{EXPECT, GET, HEAD, POST, feed, respond, server, server_after},
};
use crate::proto::h1::{Conn, Server};

// Errors.

#[test]
fn send_error_writes_one_complete_response() {
    let mut conn = server();
    let mut out = BytesMut::new();
    assert!(conn.send_error(StatusCode::BAD_REQUEST, b"date: now\r\n", &mut out));
    let expected = "HTTP/1.1 400 Bad Request\r\ndate: now\r\n\
        content-type: text/plain; charset=utf-8\r\ncontent-length: 16\r\nconnection: close\r\n\r\n\
        400 Bad Request\n";
    assert_eq!(out, expected);
    assert!(!conn.send_error(StatusCode::BAD_REQUEST, b"", &mut out));
    assert_eq!(out, expected);
    assert!(conn.is_closed());
}

#[test]
fn send_error_after_head_request_has_no_body() {
    let mut out = BytesMut::new();
    assert!(server_after(HEAD).send_error(StatusCode::NOT_FOUND, b"", &mut out));
    assert!(out.ends_with(b"content-length: 0\r\nconnection: close\r\n\r\n"), "{out:?}");
}

#[test]
fn send_error_to_refused_head_request_has_no_body() {
    let (mut conn, mut out) = (server(), BytesMut::new());
    let mut input = BytesMut::from("HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    let fault = conn.recv(now(), &mut input).unwrap_err();
    assert!(conn.send_error(fault.status(), b"", &mut out));
    assert!(out.ends_with(b"content-length: 0\r\nconnection: close\r\n\r\n"), "{out:?}");
    // An answered HEAD does not affect the next request.
    let (mut conn, mut out) = (server_after(HEAD), BytesMut::new());
    respond(&mut conn, 304, &[], None).unwrap();
    conn.send_end(now(), None, &mut out).unwrap();
    assert!(conn.recv(now(), &mut BytesMut::from("GET / HTTP/1.1\n")).is_err());
    assert!(conn.send_error(StatusCode::BAD_REQUEST, b"", &mut out));
    assert!(out.ends_with(b"400 Bad Request\n"), "{out:?}");
}

#[test]
fn s18_send_error_refuses_interim_status_and_omits_body_of_bodiless_status() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let mut out = BytesMut::new();
        assert!(server_after(GET).send_error(status, b"", &mut out));
        let (code, reason) = (status.as_str(), status.canonical_reason().unwrap());
        assert_eq!(out, format!("HTTP/1.1 {code} {reason}\r\nconnection: close\r\n\r\n"));
    }
    for status in [100, 101, 199] {
        let (mut conn, mut out) = (server_after(GET), BytesMut::new());
        assert!(!conn.send_error(StatusCode::from_u16(status).unwrap(), b"", &mut out));
        assert!(out.is_empty() && !conn.is_closed(), "a final answer may still be sent");
    }
}

#[test]
fn values_with_bytes_above_ascii_are_written_unchanged() {
    let mut map = HeaderMap::new();
    map.insert(header::SERVER, HeaderValue::from_bytes(b"\xff\xe9").unwrap());
    let mut out = BytesMut::new();
    server_after(GET).send_head(now(), StatusCode::OK, &map, Some(0), b"", &mut out).unwrap();
    assert!(out.windows(10).any(|w| w == b"server: \xff\xe9"));
}

// Expect.

fn continued(conn: &mut Conn<Server>) -> String {
    let mut out = BytesMut::new();
    conn.send_continue(&mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn s18_100_continue_has_no_fields_and_is_sent_once() {
    let mut conn = server_after(EXPECT);
    assert!(conn.wants_continue());
    assert_eq!(continued(&mut conn), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(!conn.wants_continue());
    assert_eq!(continued(&mut conn), "");
    let head = respond(&mut conn, 200, &[], Some(0)).unwrap();
    assert!(!head.contains("close"), "the client was told to send its body");
    assert_eq!(continued(&mut server_after(POST)), "", "the client does not wait for it");
}

#[test]
fn s17_final_answer_instead_of_100_closes() {
    let mut conn = server_after(EXPECT);
    let head = respond(&mut conn, 413, &[], Some(0)).unwrap();
    assert!(head.contains("connection: close\r\n"));
    assert!(!conn.keeps_alive() && !conn.wants_continue());
    assert_eq!(continued(&mut conn), "", "after a final head it would be part of the body");
}

#[test]
fn client_that_sends_body_unasked_gets_no_100() {
    let mut conn = server_after(EXPECT);
    feed(&mut conn, "he");
    assert!(!conn.wants_continue(), "RFC 9110 section 10.1.1: 100 may then be left out");
    assert_eq!(continued(&mut conn), "");
    let head = respond(&mut conn, 200, &[], Some(0)).unwrap();
    assert!(!head.contains("close"), "it is clear that the body comes");
}

#[test]
fn s17_100_is_never_sent_after_a_final_head() {
    let mut conn = server_after(EXPECT);
    feed(&mut conn, "hello");
    respond(&mut conn, 200, &[], Some(26)).unwrap();
    assert!(!conn.wants_continue());
    assert_eq!(continued(&mut conn), "");
}

#[test]
fn closed_connection_awaits_no_100() {
    let mut conn = server_after(EXPECT);
    conn.recv_eof(now()).unwrap_err();
    assert!(!conn.wants_continue());
    assert_eq!(continued(&mut conn), "");
}
