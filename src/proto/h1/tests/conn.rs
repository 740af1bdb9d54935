//! Rules that involve both halves, and calls in a wrong state.

use std::sync::Arc;

use bytes::BytesMut;
use http::{Method, StatusCode};

use super::{
    run::now,
    side::{
        GET, GET_10, GET_10_KEEP, HEAD, POST, ask, client, feed, headers, respond, server,
        server_after,
    },
};
use crate::proto::h1::{Conn, Event, Fault, Limits, Misuse, Server};

// Keep-alive.

#[test]
fn response_to_http_1_0_ends_with_connection_unless_length_is_known_and_both_agree() {
    let head = respond(&mut server_after(GET_10), 200, &[], Some(1)).unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n");
    let head = respond(&mut server_after(GET_10_KEEP), 200, &[], Some(1)).unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n");
    for request in [GET_10, GET_10_KEEP] {
        let mut conn = server_after(request);
        let head = respond(&mut conn, 200, &[], None).unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        let mut out = BytesMut::new();
        assert_eq!(conn.send_data(3, &mut out), Ok(&b""[..]));
        conn.send_end(now(), Some(&headers(&[("x", "y")])), &mut out).unwrap();
        assert!(out.is_empty(), "no chunks and no trailers in HTTP/1.0: {out:?}");
        assert!(conn.is_closed());
    }
}

#[test]
fn close_is_obeyed_and_announced() {
    let told = |head: String| head.contains("connection: close\r\n");
    let mut conn = server_after("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(told(respond(&mut conn, 204, &[], None).unwrap()));

    let mut conn = server_after(GET);
    assert!(told(respond(&mut conn, 204, &[("connection", "x, Close")], None).unwrap()));
    assert!(!conn.keeps_alive());

    let mut conn = server_after(GET);
    conn.disable_keep_alive();
    assert!(!conn.is_closed(), "the present exchange goes on");
    assert!(told(respond(&mut conn, 204, &[], None).unwrap()));
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_closed());

    let mut idle = server();
    idle.disable_keep_alive();
    assert!(idle.is_closed() && !idle.wants_read());
}

#[test]
fn next_request_waits_until_the_current_one_is_answered() {
    let mut conn = server();
    let mut input = BytesMut::from(format!("{GET}{GET}").as_str());
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::End(None)))));
    assert!(matches!(conn.recv(now(), &mut input), Ok(None)) && !conn.wants_read());
    assert_eq!(input.len(), GET.len());
    respond(&mut conn, 204, &[], None).unwrap();
    assert!(!conn.wants_read());
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.wants_read() && conn.is_idle());
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
}

#[test]
fn s3_body_after_early_response_is_still_read_as_body() {
    let mut conn = server_after(POST);
    respond(&mut conn, 413, &[], Some(0)).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(!conn.is_idle() && conn.is_reading_body() && conn.wants_read() && conn.keeps_alive());
    assert_eq!(conn.remaining_body(), Some(5));
    let mut input = BytesMut::from("GET /" as &str);
    input.extend_from_slice(GET.as_bytes());
    let Ok(Some(Event::Data(data))) = conn.recv(now(), &mut input) else { panic!() };
    assert_eq!(data, "GET /");
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::End(None)))));
    assert!(conn.is_idle());
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
}

#[test]
fn fault_after_early_response_closes_without_an_answer() {
    let mut conn = server_after("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    respond(&mut conn, 200, &[], Some(2)).unwrap();
    let fault = conn.recv(now(), &mut BytesMut::from("zz\r\n")).unwrap_err();
    assert_eq!(fault, Fault::Chunk);
    let mut out = BytesMut::new();
    assert!(!conn.send_error(fault.status(), b"", &mut out) && out.is_empty());
    assert_eq!(conn.send_data(2, &mut out), Ok(&b""[..]), "what was begun may be ended");
    conn.send_end(now(), None, &mut out).unwrap();
    assert!(conn.is_closed());
}

#[test]
fn half_closed_client_still_gets_its_answer() {
    let mut conn = server_after(GET);
    assert!(matches!(conn.recv_eof(now()), Ok(None)));
    let head = respond(&mut conn, 200, &[], Some(2)).unwrap();
    assert!(head.contains("connection: close"));
    conn.send_data(2, &mut BytesMut::new()).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_closed());
}

#[test]
fn eof_directly_after_a_head_without_body_is_its_end() {
    let mut conn = server();
    assert!(matches!(conn.recv(now(), &mut BytesMut::from(GET)), Ok(Some(Event::Head(_)))));
    assert!(matches!(conn.recv_eof(now()), Ok(Some(Event::End(None)))));
    assert!(respond(&mut conn, 200, &[], Some(0)).is_ok());
}

// Misuse.

#[test]
fn misuse_changes_neither_state_nor_buffer() {
    let mut conn = server();
    let mut out = BytesMut::from("before");
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State), "nothing was asked");
    assert_eq!(conn.send_data(1, &mut out), Err(Misuse::State));
    assert_eq!(conn.send_end(now(), None, &mut out), Err(Misuse::State));

    feed(&mut conn, GET);
    assert_eq!(conn.send_data(1, &mut out), Err(Misuse::State));
    assert_eq!(conn.send_end(now(), None, &mut out), Err(Misuse::State));
    for status in [100, 101, 103, 199] {
        assert_eq!(respond(&mut conn, status, &[], Some(0)), Err(Misuse::Status));
    }
    let length = |n| [("content-length", n)];
    assert_eq!(respond(&mut conn, 200, &length("4"), Some(5)), Err(Misuse::Length));
    for bad in ["5, 5", "+5", "", "05"] {
        assert_eq!(respond(&mut conn, 200, &length(bad), Some(5)), Err(Misuse::Length));
        assert_eq!(respond(&mut conn, 200, &length(bad), None), Err(Misuse::Length));
    }
    assert!(conn.keeps_alive(), "a head that was not sent does not close");

    respond(&mut conn, 200, &length("5"), Some(5)).unwrap();
    assert_eq!(respond(&mut conn, 200, &[], Some(5)), Err(Misuse::State), "a second head");
    assert_eq!(conn.send_data(6, &mut out), Err(Misuse::TooLong));
    assert_eq!(conn.send_data(usize::MAX, &mut out), Err(Misuse::TooLong));
    conn.send_data(4, &mut out).unwrap();
    assert_eq!(conn.send_data(2, &mut out), Err(Misuse::TooLong));
    assert_eq!(conn.send_end(now(), None, &mut out), Err(Misuse::TooShort));
    conn.send_data(1, &mut out).unwrap();
    conn.send_end(now(), None, &mut out).unwrap();
    assert_eq!(conn.send_end(now(), None, &mut out), Err(Misuse::State), "a second end");
    assert_eq!(out, "before");
    assert!(conn.is_idle());
}

#[test]
fn client_conn_works_after_misuse() {
    let mut conn = client();
    let post = |c: &mut _, f: &[_], n| ask(c, &Method::POST, "http://a/", f, n);
    assert_eq!(post(&mut conn, &[("content-length", "4")], Some(5)), Err(Misuse::Length));
    assert_eq!(post(&mut conn, &[("content-length", "x")], Some(5)), Err(Misuse::Length));
    assert_eq!(ask(&mut conn, &Method::CONNECT, "a:1", &[], Some(0)), Err(Misuse::Target));
    assert_eq!(ask(&mut conn, &Method::GET, "*", &[], Some(0)), Err(Misuse::Target));
    assert!(conn.is_idle() && conn.keeps_alive());
    post(&mut conn, &[], Some(5)).unwrap();
    assert_eq!(post(&mut conn, &[], Some(5)), Err(Misuse::State));
}

#[test]
fn body_that_is_moved_elsewhere_ends_like_one_that_is_received() {
    let (mut conn, mut input) = (client(), BytesMut::new());
    assert_eq!(conn.recv_moved(now(), 1), Err(Misuse::State));
    ask(&mut conn, &Method::GET, "http://a/", &[], Some(0)).unwrap();
    input.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Data(data))) if data == "abc"));
    assert_eq!(conn.recv_moved(now(), 8), Err(Misuse::TooLong));
    conn.recv_moved(now(), 5).unwrap();
    assert_eq!(conn.remaining_body(), Some(2));
    conn.recv_moved(now(), 2).unwrap();
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::End(None)))));
    assert!(conn.keeps_alive());
}

// Calls in a wrong state.

#[test]
fn incomplete_head_cannot_be_answered() {
    let (mut conn, mut input) = (server(), BytesMut::from("GET / HT"));
    assert!(conn.recv(now(), &mut input).unwrap().is_none());
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State));
    input.extend_from_slice(b"TP/1.1\r\nHost: a\r\n\r\n");
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(respond(&mut conn, 200, &[], Some(0)).is_ok());
}

#[test]
fn connection_closed_without_request_cannot_be_answered() {
    let mut conn = server();
    assert!(matches!(conn.recv_eof(now()), Ok(None)));
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State));
    let mut conn = server();
    conn.recv(now(), &mut BytesMut::from("GET /\r\n\r\n")).unwrap_err();
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State), "send_error is for that");
    assert!(conn.send_error(StatusCode::BAD_REQUEST, b"", &mut BytesMut::new()));
}

#[test]
fn truncated_body_can_still_be_answered() {
    let mut conn = server_after(POST);
    assert_eq!(conn.recv_eof(now()).unwrap_err(), Fault::Truncated);
    assert!(!conn.is_closed(), "an answer may still go out");
    let head = respond(&mut conn, 400, &[], Some(0)).unwrap();
    assert!(head.contains("connection: close"));
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_closed());
}

#[test]
fn earlier_head_request_does_not_empty_the_last_answer() {
    let mut conn = server_after(HEAD);
    respond(&mut conn, 204, &[], None).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    let fault = conn.recv(now(), &mut BytesMut::from("GET / HTTP/1.1\r\n\r\n")).unwrap_err();
    let mut out = BytesMut::new();
    assert!(conn.send_error(fault.status(), b"", &mut out));
    assert!(out.ends_with(b"\r\n\r\n400 Bad Request\n"), "{out:?}");
}

#[test]
fn request_with_close_closes_the_connection() {
    let mut conn = client();
    let head = ask(&mut conn, &Method::GET, "http://a/", &[("connection", "close")], Some(0));
    assert_eq!(head.unwrap(), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 204 \r\n\r\n");
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(conn.is_closed() && !conn.is_idle(), "it does not go back to the pool");
}

#[test]
fn r7_maximal_bounds_restrict_nothing() {
    let most = usize::MAX;
    let limits = Limits {
        head_bytes: most,
        start_line_bytes: most,
        fields: most,
        name_bytes: most,
        chunk_extension_bytes: most,
        trailer_bytes: most,
        ..Limits::default()
    };
    let mut conn = Conn::<Server>::new(Arc::new(limits), now());
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = format!("1;{}\r\na\r\n0\r\nX: y\r\n\r\n", "e".repeat(5_000));
    let (mut input, mut events) = (BytesMut::new(), 0);
    for byte in head.bytes().chain(chunks.bytes()) {
        input.extend_from_slice(&[byte]);
        events += usize::from(conn.recv(now(), &mut input).unwrap().is_some());
    }
    assert_eq!(events, 3, "head, data and end");
}

#[test]
fn r7_bounds_beyond_capacity_of_header_map_do_not_panic() {
    let most = usize::MAX;
    let limits =
        Limits { fields: most, head_bytes: most, trailer_bytes: most, ..Limits::default() };
    let fields: String = (0..40_000).map(|n| format!("x{n}:\r\n")).collect();
    let new = || Conn::<Server>::new(Arc::new(limits.clone()), now());
    let mut input = BytesMut::from(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_str());
    assert_eq!(new().recv(now(), &mut input).unwrap_err(), Fault::FieldsTooLarge);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    let mut input = BytesMut::from(format!("{head}{fields}\r\n").as_str());
    let mut conn = new();
    conn.recv(now(), &mut input).unwrap();
    assert_eq!(conn.recv(now(), &mut input).unwrap_err(), Fault::FieldsTooLarge);
}
