//! Helpers of the targets: one side of a connection, and the messages that it reads.

#[path = "../src/tests/two_hops/down.rs"]
mod down;
#[path = "../src/tests/two_hops/pass.rs"]
mod pass;
#[path = "../src/tests/two_hops/reference.rs"]
mod reference;
#[path = "../src/tests/two_hops/up.rs"]
mod up;

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri, Version, request, response};
use proto::h1::{Client, Conn, Event, Fault, Lenient, Limits, Server};
use vestibule::{peer, proto, semantics}; // as the crate has them, for the modules above

/// The result of reading some bytes: messages, and the end.
#[derive(Debug)]
pub struct Read<H> {
    /// The messages, in order; the last one may lack its end.
    pub messages: Vec<Message<H>>,
    /// The fault, if the bytes had one.
    pub fault: Option<Fault>,
    /// Number of bytes that were not read.
    pub left: usize,
}

/// One message.
#[derive(Debug)]
pub struct Message<H> {
    /// Its head.
    pub head: H,
    /// Its body, joined.
    pub body: Vec<u8>,
    /// Its end, with the trailers.
    pub end: Option<Option<HeaderMap>>,
}

impl<H: std::fmt::Debug> Read<H> {
    /// Returns the result as a string, for comparisons.
    pub fn text(&self) -> String {
        format!("{self:?}")
    }
}

/// Reads requests from `pieces`, and answers each with an empty response.
pub fn requests(limits: &Limits, pieces: &[&[u8]]) -> Read<request::Parts> {
    let now = Instant::now();
    let mut conn = Conn::<Server>::new(Arc::new(limits.clone()), now);
    let mut out = BytesMut::new();
    let mut read = Read { messages: Vec::new(), fault: None, left: 0 };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match conn.recv(now, &mut input) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    let end = matches!(event, Event::End(_));
                    take(&mut read.messages, event);
                    if end {
                        let headers = HeaderMap::new();
                        conn.send_head(now, StatusCode::OK, &headers, Some(0), b"", &mut out)
                            .expect("a complete request can be answered");
                        conn.send_end(now, None, &mut out).expect("an empty body can end");
                        assert!(conn.is_idle() || conn.is_closed());
                    }
                }
                Err(fault) => {
                    assert!(matches!(conn.recv(now, &mut input), Ok(None)), "it reads on");
                    assert!(!conn.keeps_alive() && !conn.wants_read());
                    read.fault = Some(fault);
                }
            }
        }
    }
    read.left = input.len();
    read
}

/// Reads responses to requests with this method, one after the other.
pub fn responses(limits: &Limits, method: &Method, pieces: &[&[u8]]) -> Read<response::Parts> {
    let now = Instant::now();
    let mut conn = Conn::<Client>::new(Arc::new(limits.clone()), now);
    let (target, headers, mut out) =
        (Uri::from_static("http://a/"), HeaderMap::new(), BytesMut::new());
    let mut read = Read { messages: Vec::new(), fault: None, left: 0 };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            if conn.is_idle() {
                conn.send_head(now, method, &target, &headers, Some(0), b"", &mut out)
                    .expect("an idle connection takes a request");
                conn.send_end(now, None, &mut out).expect("an empty body can end");
            }
            match conn.recv(now, &mut input) {
                Ok(None) => break,
                Ok(Some(event)) => take(&mut read.messages, event),
                Err(fault) => {
                    assert!(matches!(conn.recv(now, &mut input), Ok(None)), "it reads on");
                    assert!(!conn.keeps_alive() && !conn.wants_read());
                    read.fault = Some(fault);
                }
            }
        }
    }
    read.left = input.len();
    read
}

fn take<H>(messages: &mut Vec<Message<H>>, event: Event<H>) {
    match event {
        Event::Head(head) => {
            assert!(messages.last().is_none_or(|m| m.end.is_some()), "a head within a message");
            messages.push(Message { head, body: Vec::new(), end: None });
        }
        Event::Data(data) => {
            assert!(!data.is_empty(), "an empty piece");
            let message = messages.last_mut().expect("data follows a head");
            assert!(message.end.is_none(), "data after the end");
            message.body.extend_from_slice(&data);
        }
        Event::End(trailers) => {
            let message = messages.last_mut().expect("an end follows a head");
            assert!(message.end.replace(trailers).is_none(), "two ends");
        }
    }
}

/// Returns small bounds, so that short inputs reach them.
pub fn small() -> Limits {
    Limits::new()
        .max_head_bytes(200)
        .max_start_line_bytes(60)
        .max_method_bytes(12)
        .max_fields(6)
        .max_name_bytes(20)
        .max_chunk_extension_bytes(10)
        .max_trailer_bytes(60)
        .max_interim_responses(2)
}

/// Returns the defaults with every leniency.
pub fn lenient() -> Limits {
    let lenient = Lenient::new()
        .bare_lf(true)
        .folded_lines(true)
        .space_before_colon(true)
        .repeated_content_length(true);
    Limits::new().lenient(lenient)
}

/// Returns the bytes whole, one by one, and cut in two. All three must give the same result.
pub fn ways<'a>(bytes: &'a [u8], cut: usize) -> [Vec<&'a [u8]>; 3] {
    let (a, b) = bytes.split_at(cut % (bytes.len() + 1));
    [vec![bytes], bytes.chunks(1).collect(), vec![a, b]]
}

/// Panics if a value of the map contains CR, LF or NUL.
pub fn assert_plain(headers: &HeaderMap) {
    for (name, value) in headers {
        assert!(!value.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{name}");
    }
}

/// Sends the bytes through a proxy made of the cores, as requests and as responses, in pieces of `step`.
/// Panics if the reference reads other messages on the other side.
pub fn two_hops(bytes: &[u8], step: usize) {
    let now = Instant::now();
    for answers in [up::Answers::Late, up::Answers::Early] {
        up::requests(now, bytes, step, answers);
    }
    for (method, version) in [
        (Method::GET, Version::HTTP_11),
        (Method::HEAD, Version::HTTP_11),
        (Method::GET, Version::HTTP_10),
    ] {
        down::responses(now, bytes, step, &method, version);
    }
}
