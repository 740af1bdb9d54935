//! Runs one vector, in given pieces, and records its events.

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode, Uri};

use super::vector::{Vector, quote};
use crate::proto::h1::{Client, Conn, Event, Fault, Server};

/// Returns an arbitrary time: the cores read no clock.
#[allow(clippy::disallowed_methods, reason = "a moment must come from somewhere")]
pub(in crate::proto) fn now() -> Instant {
    Instant::now()
}

/// Returns the events of the pieces.
pub(super) fn run(vector: &Vector, pieces: &[&[u8]]) -> Vec<String> {
    let mut events = if vector.client { ask(vector, pieces) } else { serve(vector, pieces) }.0;
    if !vector.events.iter().any(|e| e.starts_with("field ")) {
        events.retain(|e| !e.starts_with("field "));
    }
    events
}

#[derive(Default)]
struct Log(Vec<String>, Vec<u8>);

impl Log {
    fn push(&mut self, event: impl Into<String>) {
        if !self.1.is_empty() {
            let data = std::mem::take(&mut self.1);
            self.0.push(format!("data {}", quote(&data)));
        }
        self.0.push(event.into());
    }

    fn fields(&mut self, kind: &str, headers: &HeaderMap) {
        for (name, value) in headers {
            let line = format!("{kind} {name}: {}", value.as_bytes().escape_ascii());
            self.push(line.trim_end());
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>, keep_alive: bool) {
        if let Some(trailers) = trailers {
            self.fields("trailer", trailers);
        }
        self.push("end");
        self.push(if keep_alive { "keep-alive" } else { "close" });
    }

    fn fault(&mut self, fault: Fault) {
        self.push(format!("fault {fault:?} {}", fault.status().as_u16()));
    }

    fn finish(mut self, in_the_middle: bool) -> Self {
        if in_the_middle {
            self.push("more");
        }
        self
    }
}

/// Reads requests and answers each with an empty 204, and CONNECT with 403.
fn serve(vector: &Vector, pieces: &[&[u8]]) -> Log {
    let now = now();
    let mut conn = Conn::<Server>::new(Arc::new(vector.limits.clone()), now);
    let (mut input, mut out, mut log) = (BytesMut::new(), BytesMut::new(), Log::default());
    let mut pieces = pieces.iter();
    let mut eof = vector.eof;
    let mut status = StatusCode::NO_CONTENT;
    loop {
        let event = match conn.recv(now, &mut input) {
            Ok(None) => match pieces.next() {
                Some(piece) => {
                    input.extend_from_slice(piece);
                    continue;
                }
                None if std::mem::take(&mut eof) => conn.recv_eof(now),
                None => return log.finish(!conn.is_idle() && !conn.is_closed()),
            },
            event => event,
        };
        match event {
            Ok(None) => {}
            Ok(Some(Event::Head(head))) => {
                if head.method == http::Method::CONNECT {
                    status = StatusCode::FORBIDDEN; // a success would begin a tunnel
                }
                log.push(format!("head {} {} {:?}", head.method, head.uri, head.version));
                log.fields("field", &head.headers);
                if conn.wants_continue() {
                    log.push("expects");
                }
            }
            Ok(Some(Event::Data(data))) => {
                assert!(!data.is_empty(), "{}: an empty piece of data", vector.name);
                log.1.extend_from_slice(&data);
            }
            Ok(Some(Event::End(trailers))) => {
                let keep_alive = conn.keeps_alive();
                log.end(trailers.as_ref(), keep_alive);
                let headers = HeaderMap::new();
                conn.send_head(now, status, &headers, Some(0), b"", &mut out).unwrap();
                conn.send_end(now, None, &mut out).unwrap();
                assert_eq!((conn.is_idle(), conn.is_closed()), (keep_alive, !keep_alive));
            }
            Err(fault) => {
                log.fault(fault);
                after_fault(&mut conn, &mut input, fault);
                return log;
            }
        }
    }
}

/// Checks that after a fault nothing is read, one error is sent, and the connection is closed.
fn after_fault(conn: &mut Conn<Server>, input: &mut BytesMut, fault: Fault) {
    let now = now();
    let left = input.len();
    assert!(matches!(conn.recv(now, input), Ok(None)), "it reads on after {fault:?}");
    assert_eq!(input.len(), left, "it takes bytes after {fault:?}");
    assert!(!conn.keeps_alive() && !conn.wants_read() && !conn.is_idle());
    assert!(matches!(conn.recv_eof(now), Ok(None)));
    let mut out = BytesMut::new();
    assert!(conn.send_error(fault.status(), b"", &mut out));
    assert!(out.windows(21).any(|w| w == b"\r\nconnection: close\r\n"), "{out:?}");
    assert!(!conn.send_error(fault.status(), b"", &mut out), "a second answer");
    assert!(conn.is_closed());
}

/// Reads responses to the requests that the vector names.
fn ask(vector: &Vector, pieces: &[&[u8]]) -> Log {
    let now = now();
    let mut conn = Conn::<Client>::new(Arc::new(vector.limits.clone()), now);
    let (mut input, mut out, mut log) = (BytesMut::new(), BytesMut::new(), Log::default());
    let (mut pieces, mut methods) = (pieces.iter(), vector.answers.iter());
    let mut eof = vector.eof;
    loop {
        if conn.is_idle()
            && let Some(method) = methods.next()
        {
            let (target, headers) = (Uri::from_static("http://a/"), HeaderMap::new());
            conn.send_head(now, method, &target, &headers, Some(0), b"", &mut out).unwrap();
            conn.send_end(now, None, &mut out).unwrap();
        }
        let event = match conn.recv(now, &mut input) {
            Ok(None) => match pieces.next() {
                Some(piece) => {
                    input.extend_from_slice(piece);
                    continue;
                }
                None if std::mem::take(&mut eof) => conn.recv_eof(now),
                None => return log.finish(!conn.is_idle() && !conn.is_closed()),
            },
            event => event,
        };
        match event {
            Ok(None) => {}
            Ok(Some(Event::Head(head))) => {
                log.push(format!("head {} {:?}", head.status.as_u16(), head.version));
                log.fields("field", &head.headers);
            }
            Ok(Some(Event::Data(data))) => {
                assert!(!data.is_empty(), "{}: an empty piece of data", vector.name);
                log.1.extend_from_slice(&data);
            }
            Ok(Some(Event::End(trailers))) => {
                let keep_alive = conn.keeps_alive();
                log.end(trailers.as_ref(), keep_alive);
                assert_eq!((conn.is_idle(), conn.is_closed()), (keep_alive, !keep_alive));
            }
            Err(fault) => {
                log.fault(fault);
                assert!(matches!(conn.recv(now, &mut input), Ok(None)));
                assert!(!conn.keeps_alive() && !conn.wants_read() && !conn.is_idle());
                return log;
            }
        }
    }
}
