//! Deadlines for the progress of the peer.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::{
    run::now,
    side::{GET, ask, feed},
};
use crate::{
    peer::MinRate,
    proto::h1::{Client, Conn, Fault, Limits, Server},
};

fn limits() -> Arc<Limits> {
    Arc::new(Limits {
        head_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(3),
        body_timeout: Duration::from_secs(5),
        ..Limits::default()
    })
}

#[test]
fn r1_head_has_one_deadline_however_it_trickles() {
    let start = now();
    let mut conn = Conn::<Server>::new(limits(), start);
    let deadline = conn.deadline();
    assert_eq!(deadline, Some(start + Duration::from_secs(2)), "also before the first byte");
    let mut input = BytesMut::new();
    for byte in "GET / HTTP/1.1\r\nHost: a\r\n".bytes() {
        input.extend_from_slice(&[byte]);
        assert!(matches!(conn.recv(start + Duration::from_secs(1), &mut input), Ok(None)));
        assert_eq!(conn.deadline(), deadline);
    }
    assert_eq!(conn.timeout(), Some(Fault::Timeout));
    assert!(!conn.wants_read() && !conn.keeps_alive() && conn.deadline().is_none());
}

#[test]
fn silent_connection_times_out_without_a_response() {
    let mut conn = Conn::<Server>::new(limits(), now());
    assert_eq!(conn.timeout(), None);
    assert!(conn.is_closed());
}

#[test]
fn idle_timeout_is_separate_and_next_head_starts_with_its_first_byte() {
    let start = now();
    let at = |s| start + Duration::from_secs(s);
    let mut conn = Conn::<Server>::new(limits(), start);
    feed(&mut conn, GET);
    assert_eq!(conn.deadline(), None, "it is our turn");
    let (none, mut out) = (HeaderMap::new(), BytesMut::new());
    conn.send_head(at(10), StatusCode::NO_CONTENT, &none, None, b"", &mut out).unwrap();
    conn.send_end(at(10), None, &mut out).unwrap();
    assert_eq!(conn.deadline(), Some(at(13)));
    let mut input = BytesMut::from("GE");
    assert!(conn.recv(at(11), &mut input).unwrap().is_none());
    assert_eq!(conn.deadline(), Some(at(13)), "2 s from the first byte");
    input.extend_from_slice(b"T");
    assert!(conn.recv(at(12), &mut input).unwrap().is_none());
    assert_eq!(conn.deadline(), Some(at(13)));
}

#[test]
fn body_timeout_restarts_with_progress() {
    let start = now();
    let at = |s| start + Duration::from_secs(s);
    let mut conn = Conn::<Server>::new(limits(), start);
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut input = BytesMut::from(chunked);
    conn.recv(at(1), &mut input).unwrap().unwrap();
    assert_eq!(conn.deadline(), Some(at(6)));
    input.extend_from_slice(b"5\r\nhel");
    conn.recv(at(4), &mut input).unwrap().unwrap();
    assert_eq!(conn.deadline(), Some(at(9)));
    // Size lines and trailers are not progress, because they could arrive byte by byte.
    input.extend_from_slice(b"lo");
    conn.recv(at(5), &mut input).unwrap().unwrap();
    for (second, bytes) in [(6, "\r\n0"), (7, ";a\r\n"), (8, "X: y"), (9, "\r\n")] {
        input.extend_from_slice(bytes.as_bytes());
        assert!(conn.recv(at(second), &mut input).unwrap().is_none());
        assert_eq!(conn.deadline(), Some(at(10)));
    }
    conn.resume(at(20));
    assert_eq!(conn.deadline(), Some(at(25)), "the pause was ours");
    assert_eq!(conn.timeout(), Some(Fault::Timeout));
}

#[test]
fn request_body_has_minimum_rate_and_response_has_none() {
    let start = now();
    let at = |s| start + Duration::from_secs(s);
    let limits = Arc::new(Limits {
        body_timeout: Duration::from_secs(5),
        body_rate: MinRate::new(10, Duration::from_secs(8)),
        ..Limits::default()
    });
    let mut conn = Conn::<Server>::new(limits.clone(), start);
    let mut input = BytesMut::from(POST_1000);
    conn.recv(start, &mut input).unwrap().unwrap();
    assert_eq!(conn.deadline(), Some(at(5)), "nothing at all");
    for second in [4, 8] {
        input.extend_from_slice(b"x");
        conn.recv(at(second) - Duration::from_secs(1), &mut input).unwrap().unwrap();
    }
    assert_eq!(conn.deadline(), Some(at(8) + Duration::from_millis(200)), "a byte is worth 0.1 s");
    conn.resume(at(8));
    assert_eq!(conn.deadline(), Some(at(13)), "a pause that was ours: all begins again");
    assert_eq!(conn.timeout(), Some(Fault::Timeout));

    let mut conn = Conn::<Client>::new(limits, start);
    ask(&mut conn, &Method::GET, "http://a/", &[], Some(0)).unwrap();
    conn.send_end(start, None, &mut BytesMut::new()).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 200 \r\nContent-Length: 100\r\n\r\nx");
    for second in [0, 4, 8, 12] {
        while conn.recv(at(second), &mut input).unwrap().is_some() {}
        assert_eq!(conn.deadline(), Some(at(second + 5)));
        input.extend_from_slice(b"x");
    }
}

#[test]
fn request_body_has_total_timeout_at_any_pace() {
    let start = now();
    let at = |s| start + Duration::from_secs(s);
    let limits = Limits {
        body_timeout: Duration::from_secs(100),
        body_rate: MinRate::NONE,
        body_total_timeout: Duration::from_secs(100),
        ..Limits::default()
    };
    let mut conn = Conn::<Server>::new(Arc::new(limits), start);
    let mut input = BytesMut::from(POST_1000);
    conn.recv(at(7), &mut input).unwrap().unwrap();
    input.extend_from_slice(&[b'x'; 999]);
    conn.recv(at(99), &mut input).unwrap().unwrap();
    assert_eq!(conn.deadline(), Some(at(107)));
    input.extend_from_slice(b"x");
    while conn.recv(at(100), &mut input).unwrap().is_some() {}
    assert_eq!(conn.deadline(), None, "it is over, and our turn");
}

const POST_1000: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";

#[test]
fn timeout_longer_than_the_clock_is_none() {
    let limits = Limits { head_timeout: Duration::MAX, ..Limits::default() };
    assert_eq!(Conn::<Server>::new(Arc::new(limits), now()).deadline(), None);
}

#[test]
fn client_timeout_starts_at_the_end_of_its_request() {
    let start = now();
    let at = |s| start + Duration::from_secs(s);
    let mut conn = Conn::<Client>::new(limits(), start);
    let (target, none, mut out) =
        (Uri::from_static("http://a/"), HeaderMap::new(), BytesMut::new());
    conn.send_head(start, &Method::PUT, &target, &none, Some(5), b"", &mut out).unwrap();
    assert_eq!(conn.deadline(), None, "the peer may wait for the body");
    conn.recv(at(5), &mut BytesMut::from("HTTP/1.1 100 \r\n\r\n")).unwrap();
    assert_eq!(conn.deadline(), None);
    conn.send_data(5, &mut out).unwrap();
    conn.send_end(at(10), None, &mut out).unwrap();
    assert_eq!(conn.deadline(), Some(at(12)));
    assert_eq!(conn.timeout(), Some(Fault::Timeout), "an answer is owed");
}

#[test]
fn pooled_connection_times_out_without_an_error() {
    let start = now();
    let mut conn = Conn::<Client>::new(limits(), start);
    ask(&mut conn, &Method::GET, "http://a/", &[], Some(0)).unwrap();
    conn.send_end(start, None, &mut BytesMut::new()).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 204 \r\n\r\n");
    while conn.recv(start, &mut input).unwrap().is_some() {}
    assert_eq!(conn.deadline(), Some(start + Duration::from_secs(3)));
    assert_eq!(conn.timeout(), None);
}

#[test]
fn response_that_begins_early_has_no_deadline_until_the_request_is_complete() {
    let start = now();
    let mut conn = Conn::<Client>::new(limits(), start);
    let (mut out, uri) = (BytesMut::new(), Uri::from_static("/"));
    let mut headers = HeaderMap::new();
    headers.insert("host", "a".parse().unwrap());
    conn.send_head(start, &Method::POST, &uri, &headers, Some(4), b"", &mut out).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    assert!(matches!(conn.recv(start, &mut input), Ok(Some(_))));
    assert_eq!(conn.deadline(), None, "the server may wait for the rest of the request");
    conn.send_data(4, &mut out).unwrap();
    let end = start + Duration::from_secs(60);
    conn.send_end(end, None, &mut out).unwrap();
    assert_eq!(conn.deadline(), Some(end + Duration::from_secs(5)), "from the end of the request");
}

#[test]
fn abandoned_request_has_the_deadline_of_its_response_and_no_successor() {
    let start = now();
    let mut conn = Conn::<Client>::new(limits(), start);
    let (mut out, uri) = (BytesMut::new(), Uri::from_static("/"));
    conn.send_head(start, &Method::POST, &uri, &HeaderMap::new(), None, b"", &mut out).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert!(matches!(conn.recv(start, &mut input), Ok(Some(_))));
    conn.abandon_body();
    assert_eq!(conn.deadline(), Some(start + Duration::from_secs(5)));
    assert!(conn.send_data(1, &mut out).is_err());
    while let Ok(Some(_)) = conn.recv(start, &mut input) {}
    assert!(!conn.is_idle() && !conn.keeps_alive());
}
