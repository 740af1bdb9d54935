//! Invariant: no sequence of calls panics; a misuse writes and changes nothing; the other side reads the
//! output as whole messages in order; a closed connection stays closed.
#![no_main]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use vestibule::proto::h1::{Client, Conn, Event, Limits, Role, Server};
use vestibule_fuzz::{responses, small};

#[derive(Debug, Arbitrary)]
enum Op {
    Bytes(Vec<u8>),
    Request { length: Option<u8>, expect: bool, chunked: bool, old: bool },
    Response { status: u16, length: Option<u8> },
    Chunk(u8),
    Recv,
    Eof,
    Timeout,
    CloseAfter,
    Resume,
    Continue,
    Head { status: u16, length: Option<u8>, own: Option<u8>, close: bool },
    Data(u8),
    End { trailers: bool },
    Last,
    Wait(u8),
}

fuzz_target!(|ops: (bool, bool, Vec<Op>)| {
    let (client, small_bounds, ops) = ops;
    let limits = Arc::new(if small_bounds { small() } else { Limits::default() });
    if client { ask(limits, ops) } else { serve(limits, ops) }
});

/// Returns the bytes that an operation delivers, if any.
fn bytes(op: &Op) -> Option<Vec<u8>> {
    Some(match op {
        Op::Bytes(bytes) => bytes.clone(),
        Op::Request { length, expect, chunked, old } => {
            let mut text = format!("POST /a HTTP/1.{}\r\nHost: a\r\n", u8::from(!old));
            if *expect {
                text += "Expect: 100-continue\r\n";
            }
            if *chunked {
                text += "Transfer-Encoding: chunked\r\n";
            } else if let Some(n) = length {
                text += &format!("Content-Length: {n}\r\n");
            }
            (text + "\r\n").into_bytes()
        }
        Op::Response { status, length } => {
            let mut text = format!("HTTP/1.1 {} x\r\n", 100 + status % 500);
            if let Some(n) = length {
                text += &format!("Content-Length: {n}\r\n");
            }
            (text + "\r\n").into_bytes()
        }
        Op::Chunk(n) => {
            let mut chunk = format!("{n:x}\r\n").into_bytes();
            chunk.extend(std::iter::repeat_n(b'a', usize::from(*n)));
            chunk.extend_from_slice(b"\r\n");
            chunk
        }
        _ => return None,
    })
}

fn trailers() -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert("x", "y".parse().expect("a value"));
    map
}

fn headers(own: Option<u8>, close: bool) -> HeaderMap {
    let mut map = HeaderMap::new();
    if let Some(n) = own {
        map.insert("content-length", u64::from(n).into());
    }
    if close {
        map.insert("connection", "close".parse().expect("a value"));
    }
    map
}

/// The operations that both roles have.
fn common<R: Role + std::fmt::Debug>(
    conn: &mut Conn<R>,
    op: &Op,
    now: &mut Instant,
    out: &mut BytesMut,
) {
    let before = (format!("{conn:?}"), out.len());
    let misused = match op {
        Op::Timeout => {
            conn.timeout();
            false
        }
        Op::CloseAfter => {
            conn.disable_keep_alive();
            false
        }
        Op::Resume => {
            conn.resume(*now);
            false
        }
        Op::Wait(s) => {
            *now += Duration::from_secs(u64::from(*s));
            false
        }
        Op::Data(n) => match conn.send_data(usize::from(*n), out) {
            Ok(after) => {
                out.extend(std::iter::repeat_n(b'd', usize::from(*n)));
                out.extend_from_slice(after);
                false
            }
            Err(_) => true,
        },
        Op::End { trailers: some } => {
            let trailers = some.then(trailers);
            conn.send_end(*now, trailers.as_ref(), out).is_err()
        }
        _ => false,
    };
    if misused {
        assert_eq!(before, (format!("{conn:?}"), out.len()), "a misuse changed something");
    }
    if conn.is_closed() {
        assert!(!conn.is_idle() && !conn.wants_read() && conn.deadline().is_none());
    }
}

fn serve(limits: Arc<Limits>, ops: Vec<Op>) {
    let mut now = Instant::now();
    let mut conn = Conn::<Server>::new(limits, now);
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    for op in &ops {
        if let Some(bytes) = bytes(op) {
            input.extend_from_slice(&bytes);
        }
        let closed = conn.is_closed();
        match op {
            Op::Recv => match conn.recv(now, &mut input) {
                Ok(Some(Event::Head(head))) if head.method == Method::HEAD => return,
                Ok(Some(Event::Data(data))) => assert!(!data.is_empty()),
                Ok(_) => {}
                Err(_) => assert!(!conn.wants_read() && !conn.keeps_alive()),
            },
            Op::Eof => {
                let _ = conn.recv_eof(now);
                assert!(!conn.keeps_alive());
            }
            Op::Continue => {
                let (wanted, len) = (conn.wants_continue(), out.len());
                conn.send_continue(&mut out);
                assert_eq!(wanted, out.len() > len);
                assert!(!conn.wants_continue());
            }
            Op::Head { status, length, own, close } => {
                let status = StatusCode::from_u16(100 + status % 500).expect("three digits");
                let length = length.map(u64::from);
                let before = (format!("{conn:?}"), out.len());
                let headers = headers(*own, *close);
                if conn.send_head(now, status, &headers, length, b"", &mut out).is_err() {
                    assert_eq!(before, (format!("{conn:?}"), out.len()), "a misuse");
                }
            }
            Op::Last => {
                let len = out.len();
                let sent = conn.send_error(StatusCode::BAD_REQUEST, b"", &mut out);
                assert_eq!(sent, out.len() > len);
                assert!(!sent || conn.is_closed());
            }
            op => common(&mut conn, op, &mut now, &mut out),
        }
        assert!(!closed || conn.is_closed(), "a closed connection is open again");
    }
    // A client can read every response that was written. HEAD is left out, because its responses
    // cannot be distinguished from others.
    let read = responses(&Limits::default(), &Method::GET, &[&out]);
    assert!(read.fault.is_none(), "{:?} of {out:?}", read.fault);
}

fn ask(limits: Arc<Limits>, ops: Vec<Op>) {
    let mut now = Instant::now();
    let mut conn = Conn::<Client>::new(limits, now);
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    let target = Uri::from_static("http://a/b?c");
    for op in &ops {
        if let Some(bytes) = bytes(op) {
            input.extend_from_slice(&bytes);
        }
        let closed = conn.is_closed();
        match op {
            Op::Recv => match conn.recv(now, &mut input) {
                Ok(Some(Event::Data(data))) => assert!(!data.is_empty()),
                Ok(_) => {}
                Err(_) => assert!(!conn.wants_read() && !conn.keeps_alive()),
            },
            Op::Eof => {
                let _ = conn.recv_eof(now);
                assert!(!conn.keeps_alive());
            }
            Op::Head { status, length, own, close } => {
                let method = [Method::GET, Method::HEAD, Method::POST, Method::CONNECT]
                    [usize::from(*status) % 4]
                    .clone();
                let length = length.map(u64::from);
                let before = (format!("{conn:?}"), out.len());
                let headers = headers(*own, *close);
                let sent = conn.send_head(now, &method, &target, &headers, length, b"", &mut out);
                if sent.is_err() {
                    assert_eq!(before, (format!("{conn:?}"), out.len()), "a misuse");
                }
            }
            op => common(&mut conn, op, &mut now, &mut out),
        }
        assert!(!closed || conn.is_closed(), "a closed connection is open again");
    }
    // A server can read every request that was written.
    let read = vestibule_fuzz::requests(&Limits::default(), &[&out]);
    assert!(read.fault.is_none(), "{:?} of {out:?}", read.fault);
}
