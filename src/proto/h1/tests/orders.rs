//! Calls in any order, with misuse and faults: nothing panics, a misuse changes nothing, and the other
//! side reads the output as whole messages.

use std::{fmt::Debug, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::{pair::Rng, run::now, side::headers};
use crate::proto::h1::{Client, Conn, Event, Limits, Role, Server};

const REQUESTS: [&str; 12] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: content-length, host, transfer-encoding\r\n\r\n",
    "GET http://a/ HTTP/1.0\r\n\r\n",
    "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: foo\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\nx",
    "abc",
    "1\r\na\r\n0\r\n\r\n",
];

const RESPONSES: [&str; 12] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nuntil close",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
    "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Le",
    "ngth: 0\r\n\r\n",
];

/// Appends bytes to read: a whole text, or a part of it.
fn receive(texts: &[&str], rng: &mut Rng, input: &mut BytesMut) {
    let text = texts[rng.below(texts.len())];
    let to = if rng.one_in(4) { rng.below(text.len() + 1) } else { text.len() };
    input.extend_from_slice(&text.as_bytes()[..to]);
}

/// Returns fields of a head to send, and the length of its body.
fn random_fields(rng: &mut Rng) -> (HeaderMap, Option<u64>) {
    let own = ["0", "2", "5", "x", "5, 5"][rng.below(5)];
    let fields: &[(&'static str, &str)] = match rng.below(6) {
        0 => &[("content-length", own)],
        1 => &[("transfer-encoding", "chunked"), ("upgrade", "h2c")],
        2 => &[("connection", "close, content-length")],
        3 => &[("content-length", own), ("content-length", "7"), ("te", "trailers")],
        _ => &[],
    };
    (headers(fields), [None, Some(0), Some(2), Some(5)][rng.below(4)])
}

/// Runs a call, and checks that it changed nothing if it is refused.
fn call<R: Role + Debug>(
    conn: &mut Conn<R>,
    out: &mut BytesMut,
    call: impl FnOnce(&mut Conn<R>, &mut BytesMut) -> bool,
) -> bool {
    let before = (format!("{conn:?}"), out.len());
    let done = call(conn, out);
    if !done {
        assert_eq!(before, (format!("{conn:?}"), out.len()), "a misuse changed something");
    }
    done
}

/// Reads one event, and returns it if it is a head.
fn recv<R: Role + Debug>(conn: &mut Conn<R>, input: &mut BytesMut) -> Option<R::Head> {
    match conn.recv(now(), input) {
        Ok(Some(Event::Head(head))) => return Some(head),
        Ok(Some(Event::Data(data))) => assert!(!data.is_empty()),
        Ok(_) => {}
        Err(_) => assert!(!conn.wants_read() && !conn.keeps_alive() && !conn.is_idle()),
    }
    None
}

/// Makes one of the other calls that both roles have.
fn common<R: Role + Debug>(conn: &mut Conn<R>, rng: &mut Rng, out: &mut BytesMut) {
    let n = rng.below(4);
    match rng.below(4) {
        0 => {
            _ = call(conn, out, |conn, out| match conn.send_data(n, out) {
                Ok(after) => {
                    out.extend(std::iter::repeat_n(b'd', n));
                    out.extend_from_slice(after);
                    // Zero bytes are accepted in every state.
                    n > 0
                }
                Err(_) => false,
            })
        }
        1 | 2 => {
            let trailers =
                headers(&[("x", "y"), ("content-length", "1"), ("x-forwarded-for", "a")]);
            call(conn, out, |c, out| c.send_end(now(), (n > 1).then_some(&trailers), out).is_ok());
        }
        3 if rng.one_in(12) => match n {
            0 => _ = conn.recv_eof(now()).is_ok(),
            1 => _ = conn.timeout(),
            _ => conn.disable_keep_alive(),
        },
        _ => conn.resume(now() + Duration::from_secs(1)),
    }
    if conn.is_closed() {
        assert!(!conn.is_idle() && !conn.wants_read() && conn.deadline().is_none());
    }
}

/// Runs a server; returns the methods of the answered requests, and the output.
fn serve(rng: &mut Rng) -> (Vec<Method>, BytesMut) {
    let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), now());
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let (mut asked, mut answered) = (None, Vec::new());
    for _ in 0..60 {
        let closed = conn.is_closed();
        match rng.below(10) {
            0 => receive(&REQUESTS, rng, &mut input),
            1 => conn.send_continue(&mut out),
            2 if rng.one_in(8) => {
                let status = StatusCode::from_u16([400, 204, 304, 100][rng.below(4)]).unwrap();
                if call(&mut conn, &mut out, |c, out| c.send_error(status, b"", out)) {
                    answered.push(asked.take().unwrap_or(Method::GET));
                    assert!(conn.is_closed());
                }
            }
            2 | 3 => {
                let status = [200, 100, 101, 103, 204, 304, 205, 413, 200, 200][rng.below(10)];
                let (status, (fields, length)) =
                    (StatusCode::from_u16(status).unwrap(), random_fields(rng));
                if call(&mut conn, &mut out, |c, out| {
                    c.send_head(now(), status, &fields, length, b"", out).is_ok()
                }) {
                    answered.push(asked.take().expect("only what was asked is answered"));
                }
            }
            4..7 => {
                if let Some(head) = recv(&mut conn, &mut input) {
                    asked = Some(head.method);
                }
            }
            _ => common(&mut conn, rng, &mut out),
        }
        assert!(!closed || conn.is_closed(), "a closed connection is open again");
    }
    (answered, out)
}

/// Reads the output as the client of these requests. Only the last response may be incomplete.
fn read_answers(methods: &[Method], mut out: BytesMut) {
    let mut conn = Conn::<Client>::new(Arc::new(Limits::default()), now());
    let (target, none, shown) = (Uri::from_static("http://a/"), HeaderMap::new(), out.clone());
    for (i, method) in methods.iter().enumerate() {
        let mut request = BytesMut::new();
        let sent = conn.send_head(now(), method, &target, &none, Some(0), b"", &mut request);
        assert_eq!(sent, Ok(()), "answer {i} of {methods:?}: {shown:?}");
        conn.send_end(now(), None, &mut request).unwrap();
        while !conn.is_idle() {
            match conn.recv(now(), &mut out) {
                Ok(Some(_)) => {}
                Ok(None) => return assert_eq!(i + 1, methods.len(), "{methods:?}: {shown:?}"),
                Err(fault) => panic!("{fault:?} in answer {i} of {methods:?}: {shown:?}"),
            }
        }
    }
    // A `100 Continue` may be left, of a response that was never sent.
    assert!(out.is_empty() || out == "HTTP/1.1 100 Continue\r\n\r\n", "{out:?} of {shown:?}");
}

#[test]
fn client_conn_survives_calls_in_any_order() {
    let mut rng = Rng(0x2545_f491_4f6c_dd1d);
    let (mut heads, mut bytes) = (0, 0);
    for _ in 0..rounds() {
        let (methods, out) = serve(&mut rng);
        (heads, bytes) = (heads + methods.len(), bytes + out.len());
        read_answers(&methods, out);
    }
    assert!(heads > rounds() / 4 && bytes > 0, "{heads} answers");
}

/// Runs a client; returns its output.
fn ask(rng: &mut Rng) -> BytesMut {
    let mut conn = Conn::<Client>::new(Arc::new(Limits::default()), now());
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    for _ in 0..60 {
        let closed = conn.is_closed();
        match rng.below(6) {
            0 if !conn.is_idle() || rng.one_in(20) => receive(&RESPONSES, rng, &mut input),
            1 => {
                let methods =
                    [Method::GET, Method::HEAD, Method::POST, Method::CONNECT, Method::OPTIONS];
                let method = &methods[rng.below(5)];
                let targets = ["http://a/b?c", "/b", "*", "a:1", "http://u:p@a?x"];
                let target: Uri = targets[rng.below(5)].parse().unwrap();
                let (mut fields, length) = random_fields(rng);
                fields.insert("host", "a".parse().unwrap());
                if call(&mut conn, &mut out, |c, out| {
                    c.send_head(now(), method, &target, &fields, length, b"", out).is_ok()
                }) {
                    input.clear(); // a driver leaves no bytes of an earlier response
                }
            }
            2 | 3 => _ = recv(&mut conn, &mut input),
            _ => common(&mut conn, rng, &mut out),
        }
        assert!(!closed || conn.is_closed(), "a closed connection is open again");
    }
    out
}

#[test]
fn server_conn_survives_calls_in_any_order() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds() {
        let mut input = ask(&mut rng);
        let (shown, none) = (input.clone(), HeaderMap::new());
        let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), now());
        let mut out = BytesMut::new();
        loop {
            match conn.recv(now(), &mut input) {
                Ok(Some(Event::End(_))) => {
                    conn.send_head(now(), StatusCode::OK, &none, Some(0), b"", &mut out).unwrap();
                    conn.send_end(now(), None, &mut out).unwrap();
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(fault) => panic!("{fault:?} in {shown:?}"),
            }
        }
        assert!(input.is_empty(), "{input:?} is left of {shown:?}");
    }
}

fn rounds() -> usize {
    if cfg!(miri) { 20 } else { 2_000 }
}
