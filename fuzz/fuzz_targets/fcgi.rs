//! Invariant: any bytes give the same result whole, byte by byte and cut in two, as the response of a
//! FastCGI application to GET and to HEAD; nothing panics; an accepted response is that of a simple
//! reference reader of records. That reader finds the pairs and the body of each request that is written.
#![no_main]

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use vestibule::proto::fcgi::{Conn, Event, Fault, Limits, Misuse, Params};
use vestibule_fuzz::{assert_plain, ways};

fuzz_target!(|data: &[u8]| {
    let small =
        Limits::new().max_head_bytes(60).max_fields(4).max_name_bytes(16).max_stderr_bytes(9);
    for (limits, method) in
        [(Limits::default(), Method::GET), (Limits::default(), Method::HEAD), (small, Method::GET)]
    {
        let [whole, bytes, cut] = ways(data, usize::from(data.last().copied().unwrap_or(0)));
        let read = answer(&limits, &method, &whole);
        assert_eq!(read, answer(&limits, &method, &bytes), "byte by byte");
        assert_eq!(read, answer(&limits, &method, &cut), "cut in two");
        if let Some(end) = read.end {
            let plain = plain(data).expect("an accepted response is records");
            assert_eq!(plain.end, Some(end));
            assert_eq!(data.len() - plain.len, read.left, "it ends at another offset");
            assert!(plain.stderr.starts_with(&read.stderr));
            assert_eq!((plain.stderr.len() - read.stderr.len()) as u64, read.dropped);
            let body = plain.body();
            let has_body = method != Method::HEAD && !matches!(read.status, 204 | 304);
            assert_eq!(read.body, if has_body { body } else { b"" });
            if let Some(len) = read.headers.get("content-length").filter(|_| has_body) {
                assert_eq!(len.as_bytes(), body.len().to_string().as_bytes());
            }
        }
        assert_plain(&read.headers);
        assert!(read.status == 0 || read.status >= 200);
    }
    request(data);
});

/// A response as it was read.
#[derive(Debug, Default, PartialEq)]
struct Read {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    stderr: Vec<u8>,
    dropped: u64,
    end: Option<u32>,
    fault: Option<Fault>,
    /// Number of bytes after the response, if it ended.
    left: usize,
}

/// Reads one response from `pieces`.
fn answer(limits: &Limits, method: &Method, pieces: &[&[u8]]) -> Read {
    let now = Instant::now();
    let mut conn = Conn::new(Arc::new(limits.clone()), now);
    let mut out = BytesMut::new();
    conn.send_request(now, method, 0, &Params::new(), &mut out).expect("it is idle");
    conn.send_end(now, &mut out).expect("an empty body can end");
    let (mut read, mut input) = (Read::default(), BytesMut::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while read.end.is_none() {
            match conn.recv(now, &mut input) {
                Ok(None) => break,
                Ok(Some(Event::Head(head))) => {
                    assert!(read.status == 0, "two heads");
                    (read.status, read.headers) = (head.status.as_u16(), head.headers);
                }
                Ok(Some(Event::Data(data))) => {
                    assert!(!data.is_empty() && read.status > 0);
                    read.body.extend_from_slice(&data);
                }
                Ok(Some(Event::Stderr(data))) => {
                    assert!(!data.is_empty());
                    read.stderr.extend_from_slice(&data);
                }
                Ok(Some(Event::End { app_status })) => {
                    assert!(read.status > 0 && conn.is_idle() && conn.keeps_alive());
                    read.end = Some(app_status);
                }
                Ok(Some(event)) => panic!("nothing else was asked for: {event:?}"),
                Err(fault) => {
                    assert!(conn.is_closed() && !conn.keeps_alive() && !conn.wants_read());
                    assert!(matches!(conn.recv(now, &mut input), Ok(None)), "it reads on");
                    read.fault = Some(fault);
                }
            }
        }
    }
    read.dropped = conn.dropped_stderr();
    read.left = if read.end.is_some() { input.len() } else { 0 };
    read
}

/// The application's output, read only by the lengths of its records.
#[derive(Default)]
struct Plain {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    end: Option<u32>,
    /// Number of bytes up to the end of the request.
    len: usize,
}

impl Plain {
    /// Returns the bytes after the first empty line.
    fn body(&self) -> &[u8] {
        let mut begin = 0;
        loop {
            let line =
                self.stdout[begin..].iter().position(|&b| b == b'\n').expect("the head ends");
            let is_empty = matches!(self.stdout[begin..begin + line], [] | [b'\r']);
            begin += line + 1;
            if is_empty {
                return &self.stdout[begin..];
            }
        }
    }
}

/// Reads records up to the end of a request.
fn plain(bytes: &[u8]) -> Option<Plain> {
    let mut plain = Plain::default();
    while plain.end.is_none() {
        let (kind, content, len) = record(&bytes[plain.len..])?;
        plain.len += len;
        match kind {
            6 => plain.stdout.extend_from_slice(content),
            7 => plain.stderr.extend_from_slice(content),
            3 => plain.end = Some(u32::from_be_bytes(content.get(..4)?.try_into().ok()?)),
            _ => return None,
        }
    }
    Some(plain)
}

/// Returns the type and content of the record at the front, and its length.
fn record(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let header = bytes.get(..8)?;
    let content = usize::from(header[4]) << 8 | usize::from(header[5]);
    let len = 8 + content + usize::from(header[6]);
    bytes.get(..len)?;
    (header[0] == 1 && header[2..4] == [0, 1]).then_some((header[1], &bytes[8..8 + content], len))
}

/// Sends a request whose pairs and body are made of `data`, and reads it with the reference.
fn request(data: &[u8]) {
    let now = Instant::now();
    // Long pairs from short inputs: the first byte gives the number of repetitions of each piece.
    let times = data.first().map_or(1, |&n| 1 + usize::from(n) * 8);
    let pairs: Vec<(&[u8], Vec<u8>)> =
        data.split(|&b| b == 0).map(|piece| (piece, piece.repeat(times))).collect();
    let mut params = Params::new();
    for (name, value) in &pairs {
        params.push(name, value).expect("it is short");
    }
    let mut conn = Conn::new(Arc::new(Limits::default()), now);
    let mut out = BytesMut::new();
    let body = data.repeat(times);
    conn.send_request(now, &Method::POST, body.len() as u64, &params, &mut out)
        .expect("it is idle");
    assert_eq!(conn.send_data(body.len() + 1, &mut out), Err(Misuse::TooLong));
    let mut sent = 0;
    while sent < body.len() {
        let n = conn.send_data(body.len() - sent, &mut out).expect("it was announced");
        out.extend_from_slice(&body[sent..sent + n]);
        sent += n;
    }
    conn.send_end(now, &mut out).expect("all was sent");

    let (mut at, mut kinds, mut streams) = (0, Vec::new(), [Vec::new(), Vec::new()]);
    while at < out.len() {
        let (kind, content, len) = record(&out[at..]).expect("it is a record");
        at += len;
        if kind == 4 || kind == 5 {
            streams[usize::from(kind - 4)].extend_from_slice(content);
        }
        if kinds.last() != Some(&(kind, content.is_empty())) {
            kinds.push((kind, content.is_empty()));
        }
    }
    let mut want = vec![(1, false), (4, false), (4, true), (5, false), (5, true)];
    want.retain(|kind| *kind != (5, false) || !body.is_empty());
    assert_eq!(kinds, want);
    assert_eq!(streams[1], body);
    let mut rest = &streams[0][..];
    for (name, value) in &pairs {
        let (name_len, value_len) = (length(&mut rest), length(&mut rest));
        assert_eq!((name_len, value_len), (name.len(), value.len()));
        let (pair, after) = rest.split_at(name_len + value_len);
        assert_eq!(pair, [name, &value[..]].concat());
        rest = after;
    }
    assert!(rest.is_empty());
}

/// Removes and returns a length of one or four bytes.
fn length(bytes: &mut &[u8]) -> usize {
    let (len, rest) = match bytes {
        [short, rest @ ..] if *short < 128 => (usize::from(*short), rest),
        [a, b, c, d, rest @ ..] => (u32::from_be_bytes([*a & 0x7f, *b, *c, *d]) as usize, rest),
        _ => panic!("no length"),
    };
    *bytes = rest;
    len
}
