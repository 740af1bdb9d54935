//! Invariant: a message that is read, written by the other side's `Conn` and read again is the same
//! message, with exactly one framing field and no bytes left over.
#![no_main]

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, Method, header, request, response};
use libfuzzer_sys::fuzz_target;
use vestibule::proto::h1::{Client, Conn, Limits, Server};
use vestibule_fuzz::{Message, requests, responses};

fuzz_target!(|data: &[u8]| {
    for message in requests(&Limits::default(), &[data]).messages {
        if message.end.is_some() {
            request(&message);
        }
    }
    for message in responses(&Limits::default(), &Method::GET, &[data]).messages {
        if message.end.is_some() {
            response(&message);
        }
    }
});

/// Returns the length if the head has one, else `None` for chunks, so that both framings occur.
fn length(headers: &HeaderMap, body: &[u8]) -> Option<u64> {
    let known = headers.contains_key(header::CONTENT_LENGTH) || body.is_empty();
    known.then_some(body.len() as u64)
}

fn request(message: &Message<request::Parts>) {
    let now = Instant::now();
    let mut conn = Conn::<Client>::new(Arc::new(Limits::default()), now);
    let mut out = BytesMut::new();
    let head = &message.head;
    let length = length(&head.headers, &message.body);
    conn.send_head(now, &head.method, &head.uri, &head.headers, length, b"", &mut out)
        .expect("what was read can be written");
    finish(&mut conn, message, &mut out);
    assert_framed(&out);
    // A head may grow by the framing line or by `close`.
    let limits = Limits::new().max_head_bytes((32 << 10) + 200).max_fields(103);
    // A request of HTTP/1.0 without a host has none to send.
    if !head.headers.contains_key(header::HOST) {
        return;
    }
    let again = requests(&limits, &[&out]);
    assert!(again.fault.is_none() && again.left == 0, "{:?} of {out:?}", again.fault);
    let [again] = &again.messages[..] else { panic!("not one message: {out:?}") };
    assert_eq!((&again.head.method, &again.head.uri), (&head.method, &head.uri));
    assert_same(&again.head.headers, &head.headers);
    assert_eq!(again.body, message.body);
}

fn response(message: &Message<response::Parts>) {
    let now = Instant::now();
    let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), now);
    let mut input = BytesMut::from("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    while conn.recv(now, &mut input).expect("a plain request").is_some() {}
    let mut out = BytesMut::new();
    let head = &message.head;
    let length = length(&head.headers, &message.body);
    // With HEAD, 204 and 304 the field may stand there without a body.
    let mut headers = head.headers.clone();
    headers.remove(header::CONTENT_LENGTH);
    conn.send_head(now, head.status, &headers, length, b"", &mut out)
        .expect("what was read can be written");
    finish(&mut conn, message, &mut out);
    assert_framed(&out);
    let limits =
        Limits::new().max_head_bytes((32 << 10) + 200).max_start_line_bytes(8_200).max_fields(103);
    let again = responses(&limits, &Method::GET, &[&out]);
    assert!(again.fault.is_none() && again.left == 0, "{:?} of {out:?}", again.fault);
    let [again] = &again.messages[..] else { panic!("not one message: {out:?}") };
    assert_eq!(again.head.status, head.status);
    assert_same(&again.head.headers, &head.headers);
    assert_eq!(again.body, message.body);
}

fn finish<R: vestibule::proto::h1::Role, H>(
    conn: &mut Conn<R>,
    message: &Message<H>,
    out: &mut BytesMut,
) {
    let after = conn.send_data(message.body.len(), out).expect("the body was announced");
    out.extend_from_slice(&message.body);
    out.extend_from_slice(after);
    let trailers = message.end.as_ref().expect("complete").as_ref();
    conn.send_end(Instant::now(), trailers, out).expect("the body is complete");
}

/// Panics if the head has more than one framing field.
fn assert_framed(out: &[u8]) {
    let end = out.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = out[..end].to_ascii_lowercase();
    let count = |name: &[u8]| head.windows(name.len()).filter(|w| *w == name).count();
    assert!(count(b"\r\ncontent-length:") + count(b"\r\ntransfer-encoding:") <= 1);
}

/// Compares the fields, except those of the connection.
fn assert_same(a: &HeaderMap, b: &HeaderMap) {
    let end_to_end = |map: &HeaderMap| {
        let mut map = map.clone();
        for name in [
            "connection",
            "content-length",
            "transfer-encoding",
            "upgrade",
            "trailer",
            "te",
            "keep-alive",
            "proxy-connection",
        ] {
            map.remove(name);
        }
        map
    };
    assert_eq!(end_to_end(a), end_to_end(b));
}
