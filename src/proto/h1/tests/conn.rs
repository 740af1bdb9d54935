//! The writing half, and the rules that join both halves.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use super::run::now;
use crate::proto::h1::{Client, Conn, Event, Fault, Limits, Misuse, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const GET_10: &str = "GET / HTTP/1.0\r\n\r\n";
const GET_10_KEEP: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

fn server() -> Conn<Server> {
    Conn::new(Arc::new(Limits::default()), now())
}

fn client() -> Conn<Client> {
    Conn::new(Arc::new(Limits::default()), now())
}

/// A server that has read all of `bytes`.
fn server_after(bytes: &str) -> Conn<Server> {
    let mut conn = server();
    feed(&mut conn, bytes);
    conn
}

fn feed(conn: &mut Conn<Server>, bytes: &str) {
    let mut input = BytesMut::from(bytes);
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(input.is_empty(), "{input:?} is left");
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    map
}

/// The head that the server sends, or why it does not; then nothing may have been written.
fn respond(
    conn: &mut Conn<Server>,
    status: u16,
    fields: &[(&'static str, &str)],
    length: Option<u64>,
) -> Result<String, Misuse> {
    let status = StatusCode::from_u16(status).unwrap();
    let mut out = BytesMut::from("before|");
    let sent = conn.send_head(now(), status, &headers(fields), length, b"", &mut out);
    let out = String::from_utf8(out.to_vec()).unwrap();
    let written = out.strip_prefix("before|").unwrap();
    if sent.is_err() {
        assert_eq!(written, "", "a misuse wrote something");
    }
    sent.map(|()| written.to_owned())
}

fn ask(
    conn: &mut Conn<Client>,
    method: &Method,
    target: &str,
    fields: &[(&'static str, &str)],
    length: Option<u64>,
) -> Result<String, Misuse> {
    let target: Uri = target.parse().unwrap();
    let mut out = BytesMut::from("before|");
    let sent = conn.send_head(now(), method, &target, &headers(fields), length, b"", &mut out);
    let out = String::from_utf8(out.to_vec()).unwrap();
    let written = out.strip_prefix("before|").unwrap();
    if sent.is_err() {
        assert_eq!(written, "", "a misuse wrote something");
    }
    sent.map(|()| written.to_owned())
}

fn framings(head: &str) -> usize {
    head.matches("content-length:").count() + head.matches("transfer-encoding:").count()
}

// Framing of responses.

#[test]
fn a_response_has_exactly_one_framing_field_whatever_its_headers_say() {
    let odd: [&[(&str, &str)]; 5] = [
        &[],
        &[("transfer-encoding", "chunked")],
        &[("transfer-encoding", ",chunked"), ("transfer-encoding", "gzip")],
        &[("content-length", "3")],
        &[("content-length", "3"), ("transfer-encoding", "chunked"), ("content-length", "4")],
    ];
    for fields in odd {
        for length in [None, Some(3)] {
            let head = respond(&mut server_after(GET), 200, fields, length).unwrap();
            assert_eq!(framings(&head), 1, "{head}");
            assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1);
        }
    }
}

#[test]
fn the_length_chooses_the_framing() {
    let known = respond(&mut server_after(GET), 200, &[], Some(5)).unwrap();
    assert_eq!(known, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    let most = respond(&mut server_after(GET), 200, &[], Some(u64::MAX)).unwrap();
    assert_eq!(most, "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n");
    let unknown = respond(&mut server_after(GET), 200, &[], None).unwrap();
    assert_eq!(unknown, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let own = respond(&mut server_after(GET), 200, &[("content-length", "7")], None).unwrap();
    assert_eq!(own, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n");
}

#[test]
fn a_status_without_body_has_no_framing_field_and_takes_no_data() {
    for status in [204, 304] {
        for length in [None, Some(0), Some(5)] {
            let mut conn = server_after(GET);
            let fields = [("content-length", "5"), ("transfer-encoding", "chunked")];
            let head = respond(&mut conn, status, &fields, length).unwrap();
            assert_eq!(framings(&head), 0, "{head}");
            assert!(conn.sends_no_body());
            let mut out = BytesMut::new();
            assert_eq!(conn.send_data(1, &mut out), Err(Misuse::TooLong));
            conn.send_end(now(), None, &mut out).unwrap();
            assert!(out.is_empty() && conn.is_idle());
        }
    }
}

#[test]
fn a_response_to_head_keeps_its_length_and_takes_no_data() {
    for (own, length, line) in [
        (Some("7"), None, "content-length: 7\r\n"),
        (Some("7"), Some(0), "content-length: 7\r\n"),
        (Some("x"), None, ""),
        (None, Some(5), "content-length: 5\r\n"),
        (None, Some(0), ""),
        (None, None, ""),
    ] {
        let mut conn = server_after(HEAD);
        let fields: Vec<_> = own.iter().map(|v| ("content-length", *v)).collect();
        let head = respond(&mut conn, 200, &fields, length).unwrap();
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{line}\r\n"));
        let mut out = BytesMut::new();
        assert_eq!(conn.send_data(1, &mut out), Err(Misuse::TooLong));
        conn.send_end(now(), Some(&headers(&[("x", "y")])), &mut out).unwrap();
        assert!(out.is_empty() && conn.is_idle());
    }
}

#[test]
fn hop_by_hop_fields_are_never_copied() {
    let fields = [
        ("connection", "x-real-ip"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("x", "y"),
    ];
    let head = respond(&mut server_after(GET), 200, &fields, Some(0)).unwrap();
    assert_eq!(head, "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn prepared_lines_are_written_as_they_are() {
    let mut out = BytesMut::new();
    let (none, date) = (HeaderMap::new(), b"date: now\r\n");
    server_after(GET).send_head(now(), StatusCode::OK, &none, Some(0), date, &mut out).unwrap();
    assert_eq!(out, "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn every_status_has_a_status_line_that_a_client_reads() {
    for status in 200..=999 {
        let head = respond(&mut server_after(GET), status, &[], Some(0)).unwrap();
        let mut conn = client();
        ask(&mut conn, &Method::GET, "http://a/", &[], Some(0)).unwrap();
        let event = conn.recv(now(), &mut BytesMut::from(&*head)).unwrap();
        let Some(Event::Head(parts)) = event else { panic!("{head}") };
        assert_eq!(parts.status.as_u16(), status);
    }
}

// Keep-alive.

#[test]
fn a_response_to_http_1_0_ends_with_the_connection_unless_it_has_a_length_and_both_agree() {
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
fn whoever_says_close_is_obeyed_and_told() {
    let told = |head: String| head.contains("connection: close\r\n");
    let mut conn = server_after("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(told(respond(&mut conn, 204, &[], None).unwrap()));

    let mut conn = server_after(GET);
    assert!(told(respond(&mut conn, 204, &[("connection", "x, Close")], None).unwrap()));
    assert!(!conn.keeps_alive());

    let mut conn = server_after(GET);
    conn.close_after();
    assert!(!conn.is_closed(), "the present exchange goes on");
    assert!(told(respond(&mut conn, 204, &[], None).unwrap()));
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_closed());

    let mut idle = server();
    idle.close_after();
    assert!(idle.is_closed() && !idle.wants_read());
}

#[test]
fn the_next_request_waits_until_this_one_is_answered() {
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
fn s3_after_an_early_response_the_body_is_still_the_body() {
    let mut conn = server_after(POST);
    respond(&mut conn, 413, &[], Some(0)).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(!conn.is_idle() && conn.reads_body() && conn.wants_read() && conn.keeps_alive());
    assert_eq!(conn.body_left(), Some(5));
    let mut input = BytesMut::from("GET /" as &str);
    input.extend_from_slice(GET.as_bytes());
    let Ok(Some(Event::Data(data))) = conn.recv(now(), &mut input) else { panic!() };
    assert_eq!(data, "GET /");
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::End(None)))));
    assert!(conn.is_idle());
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
}

#[test]
fn a_fault_after_an_early_response_closes_and_answers_nothing() {
    let mut conn = server_after("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    respond(&mut conn, 200, &[], Some(2)).unwrap();
    let fault = conn.recv(now(), &mut BytesMut::from("zz\r\n")).unwrap_err();
    assert_eq!(fault, Fault::Chunk);
    let mut out = BytesMut::new();
    assert!(!conn.send_last(fault.status(), b"", &mut out) && out.is_empty());
    assert_eq!(conn.send_data(2, &mut out), Ok(&b""[..]), "what was begun may be ended");
    conn.send_end(now(), None, &mut out).unwrap();
    assert!(conn.is_closed());
}

#[test]
fn a_client_that_closes_its_half_still_gets_its_answer() {
    let mut conn = server_after(GET);
    assert!(matches!(conn.recv_eof(now()), Ok(None)));
    let head = respond(&mut conn, 200, &[], Some(2)).unwrap();
    assert!(head.contains("connection: close"));
    conn.send_data(2, &mut BytesMut::new()).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_closed());
}

#[test]
fn eof_right_behind_a_head_without_body_is_its_end() {
    let mut conn = server();
    assert!(matches!(conn.recv(now(), &mut BytesMut::from(GET)), Ok(Some(Event::Head(_)))));
    assert!(matches!(conn.recv_eof(now()), Ok(Some(Event::End(None)))));
    assert!(respond(&mut conn, 200, &[], Some(0)).is_ok());
}

// Misuse.

#[test]
fn a_misuse_changes_neither_the_state_nor_the_buffer() {
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
fn a_client_that_misuses_it_may_still_ask_properly() {
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

// Chunks and trailers.

#[test]
fn chunks_are_framed_and_an_empty_one_is_not_sent() {
    let mut conn = server_after(GET);
    respond(&mut conn, 200, &[], None).unwrap();
    let mut out = BytesMut::new();
    for n in [0, 1, 15, 16, 0xabcdef] {
        let after = conn.send_data(n, &mut out).unwrap();
        out.extend_from_slice(b"|");
        out.extend_from_slice(after);
    }
    conn.send_end(now(), None, &mut out).unwrap();
    assert_eq!(out, "|1\r\n|\r\nf\r\n|\r\n10\r\n|\r\nabcdef\r\n|\r\n0\r\n\r\n");
}

#[test]
fn trailers_go_out_with_chunks_and_only_those_that_may() {
    let trailers = headers(&[("x", "1"), ("x", "2"), ("host", "evil"), ("content-length", "5")]);
    let mut conn = server_after(GET);
    respond(&mut conn, 200, &[], None).unwrap();
    let mut out = BytesMut::new();
    conn.send_end(now(), Some(&trailers), &mut out).unwrap();
    assert_eq!(out, "0\r\nx: 1\r\nx: 2\r\n\r\n");

    let mut conn = server_after(GET);
    respond(&mut conn, 200, &[], Some(0)).unwrap();
    let mut out = BytesMut::new();
    conn.send_end(now(), Some(&trailers), &mut out).unwrap();
    assert_eq!(out, "", "no place for trailers behind a known length");
}

// Requests.

#[test]
fn s5_every_request_with_a_body_is_framed() {
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::POST] {
        for length in [None, Some(5)] {
            let head = ask(&mut client(), &method, "http://a/", &[], length).unwrap();
            assert_eq!(framings(&head), 1, "{head}");
        }
        let head = ask(&mut client(), &method, "http://a/", &[], Some(0)).unwrap();
        assert_eq!(framings(&head), usize::from(method == Method::POST), "{head}");
    }
}

#[test]
fn a_request_is_written_from_the_model() {
    let fields = [
        ("transfer-encoding", ",chunked"),
        ("content-length", "5"),
        ("connection", "x"),
        ("host", "b"),
        ("x", "y"),
    ];
    let head = ask(&mut client(), &Method::PUT, "http://a:1/p?q", &fields, Some(5)).unwrap();
    assert_eq!(head, "PUT /p?q HTTP/1.1\r\nhost: b\r\nx: y\r\ncontent-length: 5\r\n\r\n");
    let head = ask(&mut client(), &Method::GET, "http://a:1", &[], Some(0)).unwrap();
    assert_eq!(head, "GET / HTTP/1.1\r\nhost: a:1\r\n\r\n");
    let head = ask(&mut client(), &Method::OPTIONS, "*", &[("host", "a")], Some(0)).unwrap();
    assert_eq!(head, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn a_client_connection_is_free_only_after_both_halves() {
    let mut conn = client();
    ask(&mut conn, &Method::POST, "http://a/", &[], Some(5)).unwrap();
    let answer = "HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n";
    let mut input = BytesMut::from(answer);
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(!conn.is_idle() && conn.writes_body(), "the body was promised");
    conn.send_data(5, &mut BytesMut::new()).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_idle());
}

#[test]
fn a_pooled_connection_that_speaks_up_is_faulty() {
    let mut conn = client();
    assert!(matches!(conn.recv(now(), &mut BytesMut::new()), Ok(None)));
    let fault = conn.recv(now(), &mut BytesMut::from("H")).unwrap_err();
    assert_eq!(fault, Fault::Unsolicited);
    assert!(!conn.is_idle());
}

// Deadlines.

fn limits() -> Arc<Limits> {
    Arc::new(Limits {
        head_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(3),
        body_timeout: Duration::from_secs(5),
        ..Limits::default()
    })
}

#[test]
fn r1_a_head_has_one_deadline_however_it_trickles() {
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
fn a_connection_that_was_silent_times_out_quietly() {
    let mut conn = Conn::<Server>::new(limits(), now());
    assert_eq!(conn.timeout(), None);
    assert!(conn.is_closed());
}

#[test]
fn an_idle_connection_has_its_own_time_and_a_later_head_begins_with_its_first_byte() {
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
fn a_body_has_time_as_long_as_it_makes_progress() {
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
    // Neither a size line nor trailers are progress: they could trickle.
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
fn a_timeout_longer_than_the_clock_is_none() {
    let limits = Limits { head_timeout: Duration::MAX, ..Limits::default() };
    assert_eq!(Conn::<Server>::new(Arc::new(limits), now()).deadline(), None);
}

#[test]
fn a_client_waits_for_the_answer_from_the_end_of_its_request() {
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
fn a_pooled_connection_times_out_quietly() {
    let start = now();
    let mut conn = Conn::<Client>::new(limits(), start);
    ask(&mut conn, &Method::GET, "http://a/", &[], Some(0)).unwrap();
    conn.send_end(start, None, &mut BytesMut::new()).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 204 \r\n\r\n");
    while conn.recv(start, &mut input).unwrap().is_some() {}
    assert_eq!(conn.deadline(), Some(start + Duration::from_secs(3)));
    assert_eq!(conn.timeout(), None);
}

// The last answer.

#[test]
fn the_last_answer_is_whole_and_the_only_one() {
    let mut conn = server();
    let mut out = BytesMut::new();
    assert!(conn.send_last(StatusCode::BAD_REQUEST, b"date: now\r\n", &mut out));
    let expected = "HTTP/1.1 400 Bad Request\r\ndate: now\r\n\
        content-type: text/plain; charset=utf-8\r\ncontent-length: 16\r\nconnection: close\r\n\r\n\
        400 Bad Request\n";
    assert_eq!(out, expected);
    assert!(!conn.send_last(StatusCode::BAD_REQUEST, b"", &mut out));
    assert_eq!(out, expected);
    assert!(conn.is_closed());
}

#[test]
fn the_last_answer_to_head_has_no_body() {
    let mut out = BytesMut::new();
    assert!(server_after(HEAD).send_last(StatusCode::NOT_FOUND, b"", &mut out));
    assert!(out.ends_with(b"content-length: 0\r\nconnection: close\r\n\r\n"), "{out:?}");
}

#[test]
fn values_with_bytes_above_ascii_go_out_as_they_came() {
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
fn s18_100_continue_is_bare_and_goes_out_once() {
    let mut conn = server_after(EXPECT);
    assert!(conn.wants_continue());
    assert_eq!(continued(&mut conn), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(!conn.wants_continue());
    assert_eq!(continued(&mut conn), "");
    let head = respond(&mut conn, 200, &[], Some(0)).unwrap();
    assert!(!head.contains("close"), "the client was told to send its body");
    assert_eq!(continued(&mut server_after(POST)), "", "nobody waits for it");
}

#[test]
fn s17_a_final_answer_instead_of_100_closes() {
    let mut conn = server_after(EXPECT);
    let head = respond(&mut conn, 413, &[], Some(0)).unwrap();
    assert!(head.contains("connection: close\r\n"));
    assert!(!conn.keeps_alive() && !conn.wants_continue());
    assert_eq!(continued(&mut conn), "", "behind a final head it would be part of the body");
}

// What is not our turn.

#[test]
fn a_head_that_is_not_complete_cannot_be_answered() {
    let (mut conn, mut input) = (server(), BytesMut::from("GET / HT"));
    assert!(conn.recv(now(), &mut input).unwrap().is_none());
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State));
    input.extend_from_slice(b"TP/1.1\r\nHost: a\r\n\r\n");
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(respond(&mut conn, 200, &[], Some(0)).is_ok());
}

#[test]
fn a_connection_that_closed_without_a_request_cannot_be_answered() {
    let mut conn = server();
    assert!(matches!(conn.recv_eof(now()), Ok(None)));
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State));
    let mut conn = server();
    conn.recv(now(), &mut BytesMut::from("GET /\r\n\r\n")).unwrap_err();
    assert_eq!(respond(&mut conn, 200, &[], Some(0)), Err(Misuse::State), "send_last is for that");
    assert!(conn.send_last(StatusCode::BAD_REQUEST, b"", &mut BytesMut::new()));
}

#[test]
fn a_body_that_was_cut_off_can_still_be_answered() {
    let mut conn = server_after(POST);
    assert_eq!(conn.recv_eof(now()).unwrap_err(), Fault::Truncated);
    let head = respond(&mut conn, 400, &[], Some(0)).unwrap();
    assert!(head.contains("connection: close"));
}

#[test]
fn a_head_of_before_does_not_empty_the_last_answer() {
    let mut conn = server_after(HEAD);
    respond(&mut conn, 204, &[], None).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    let fault = conn.recv(now(), &mut BytesMut::from("GET / HTTP/1.1\r\n\r\n")).unwrap_err();
    let mut out = BytesMut::new();
    assert!(conn.send_last(fault.status(), b"", &mut out));
    assert!(out.ends_with(b"\r\n\r\n400 Bad Request\n"), "{out:?}");
}

#[test]
fn whoever_sends_the_body_unasked_does_not_wait_for_100() {
    let mut conn = server_after(EXPECT);
    feed(&mut conn, "he");
    assert!(!conn.wants_continue(), "RFC 9110 section 10.1.1: 100 may then be left out");
    assert_eq!(continued(&mut conn), "");
    let head = respond(&mut conn, 200, &[], Some(0)).unwrap();
    assert!(!head.contains("close"), "it is clear that the body comes");
}

#[test]
fn s17_100_never_goes_out_behind_a_final_head() {
    let mut conn = server_after(EXPECT);
    feed(&mut conn, "hello");
    respond(&mut conn, 200, &[], Some(26)).unwrap();
    assert!(!conn.wants_continue());
    assert_eq!(continued(&mut conn), "");
}

#[test]
fn nobody_waits_for_100_on_a_closed_connection() {
    let mut conn = server_after(EXPECT);
    conn.recv_eof(now()).unwrap_err();
    assert!(!conn.wants_continue());
    assert_eq!(continued(&mut conn), "");
}

#[test]
fn a_request_that_says_close_closes() {
    let mut conn = client();
    let head = ask(&mut conn, &Method::GET, "http://a/", &[("connection", "close")], Some(0));
    assert_eq!(head.unwrap(), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    let mut input = BytesMut::from("HTTP/1.1 204 \r\n\r\n");
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(conn.is_closed() && !conn.is_idle(), "it does not go back to the pool");
}

#[test]
fn user_information_is_not_part_of_host() {
    let head = ask(&mut client(), &Method::GET, "http://u:p@a:1/", &[], Some(0)).unwrap();
    assert_eq!(head, "GET / HTTP/1.1\r\nhost: a:1\r\n\r\n");
}

#[test]
fn a_query_without_a_path_has_the_path_slash() {
    let head = ask(&mut client(), &Method::GET, "http://a?x", &[], Some(0)).unwrap();
    assert_eq!(head, "GET /?x HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn r7_bounds_beyond_what_a_map_holds_are_no_panic() {
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
