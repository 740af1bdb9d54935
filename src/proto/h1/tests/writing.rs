//! Output: one framing field, no body where none is allowed, no hop-by-hop fields of another hop.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{
    run::now,
    side::{GET, HEAD, ask, client, framings, headers, respond, server_after},
};
use crate::proto::h1::{Event, Fault, Misuse};

// Framing of responses.

#[test]
fn s15_response_has_exactly_one_framing_field_with_any_headers() {
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
fn known_length_chooses_the_framing() {
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
fn s18_status_without_body_has_no_framing_field_and_takes_no_data() {
    for status in [204, 304] {
        for length in [None, Some(0), Some(5)] {
            let mut conn = server_after(GET);
            let fields = [("content-length", "5"), ("transfer-encoding", "chunked")];
            let head = respond(&mut conn, status, &fields, length).unwrap();
            assert_eq!(framings(&head), 0, "{head}");
            assert!(conn.is_body_written());
            let mut out = BytesMut::new();
            assert_eq!(conn.send_data(1, &mut out), Err(Misuse::TooLong));
            conn.send_end(now(), None, &mut out).unwrap();
            assert!(out.is_empty() && conn.is_idle());
        }
    }
}

#[test]
fn response_to_head_keeps_its_length_and_takes_no_data() {
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
fn s23_hop_by_hop_fields_are_never_copied() {
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
fn s10_permitted_trailers_are_sent_and_only_with_chunks() {
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
    assert_eq!(out, "", "no trailers with a known length");
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
fn s15_request_is_written_from_the_model() {
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
fn s17_client_connection_is_free_only_after_both_halves() {
    let mut conn = client();
    ask(&mut conn, &Method::POST, "http://a/", &[], Some(5)).unwrap();
    let answer = "HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n";
    let mut input = BytesMut::from(answer);
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(!conn.is_idle() && conn.is_writing_body(), "the body was promised");
    conn.send_data(5, &mut BytesMut::new()).unwrap();
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    assert!(conn.is_idle());
}

#[test]
fn s1_client_switches_only_to_the_protocol_that_it_has_asked_for() {
    let agreeing = "HTTP/1.1 101 \r\nUpgrade: WebSocket\r\nConnection: x, Upgrade\r\n\r\n\x01\x00";
    let mut conn = client();
    conn.ask_for_switch(HeaderValue::from_static("websocket"));
    let head = ask(&mut conn, &Method::GET, "http://a/", &[("upgrade", "x")], Some(0)).unwrap();
    let fields = "upgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    assert_eq!(head, format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}"));
    conn.send_end(now(), None, &mut BytesMut::new()).unwrap();
    let mut input = BytesMut::from(agreeing);
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
    assert!(conn.has_switched() && !conn.is_idle() && input == b"\x01\x00"[..]);
    let websocket = Some("websocket");
    for (method, asks, length, answer) in [
        (Method::GET, None, 0, agreeing),
        (Method::GET, websocket, 1, agreeing),
        (Method::POST, websocket, 0, agreeing),
        (Method::GET, Some("h2c"), 0, agreeing),
        (Method::GET, websocket, 0, "HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n"),
        (Method::GET, websocket, 0, "HTTP/1.1 101 \r\nConnection: upgrade\r\n\r\n"),
        (Method::GET, websocket, 0, "HTTP/1.1 101 \r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"),
        (
            Method::GET,
            websocket,
            0,
            "HTTP/1.1 101 \r\nUpgrade: websocket, a\r\nConnection: upgrade\r\n\r\n",
        ),
    ] {
        let mut conn = client();
        if let Some(protocol) = asks {
            conn.ask_for_switch(HeaderValue::from_static(protocol));
        }
        ask(&mut conn, &method, "http://a/", &[], Some(length)).unwrap();
        let fault = conn.recv(now(), &mut BytesMut::from(answer)).unwrap_err();
        assert_eq!((fault, conn.has_switched()), (Fault::Switched, false), "{method} {answer}");
    }
}

#[test]
fn refused_request_leaves_no_switch_to_the_next_one() {
    for (target, fields, length) in
        [("http://a/\u{e9}", &[] as &[_], 0), ("http://a/", &[("content-length", "7")], 0)]
    {
        let mut conn = client();
        conn.ask_for_switch(HeaderValue::from_static("websocket"));
        ask(&mut conn, &Method::GET, target, fields, Some(length)).unwrap_err();
        let head = ask(&mut conn, &Method::GET, "http://a/", &[], Some(0)).unwrap();
        assert_eq!(head, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
}

#[test]
fn s19_pooled_connection_with_unsolicited_bytes_is_faulty() {
    let mut conn = client();
    assert!(matches!(conn.recv(now(), &mut BytesMut::new()), Ok(None)));
    let fault = conn.recv(now(), &mut BytesMut::from("H")).unwrap_err();
    assert_eq!(fault, Fault::Unsolicited);
    assert!(!conn.is_idle());
}

#[test]
fn user_information_is_not_part_of_host() {
    let head = ask(&mut client(), &Method::GET, "http://u:p@a:1/", &[], Some(0)).unwrap();
    assert_eq!(head, "GET / HTTP/1.1\r\nhost: a:1\r\n\r\n");
}

#[test]
fn query_without_path_has_path_slash() {
    let head = ask(&mut client(), &Method::GET, "http://a?x", &[], Some(0)).unwrap();
    assert_eq!(head, "GET /?x HTTP/1.1\r\nhost: a\r\n\r\n");
}

#[test]
fn request_has_one_host_field_and_it_is_first() {
    let fields = [("x", "y"), ("host", "b"), ("host", "c")];
    let head = ask(&mut client(), &Method::GET, "http://a/", &fields, Some(0)).unwrap();
    assert_eq!(head, "GET / HTTP/1.1\r\nhost: b\r\nx: y\r\n\r\n");
}
