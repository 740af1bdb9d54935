//! The time to parse a request head, compared with `httparse` and picohttpparser.
//!
//! `cargo bench --no-default-features --bench h1_parse`. Prints nanoseconds per head, the minimum
//! of several alternating runs, since noise only adds time. `CARGO_CFG_HTTPARSE_DISABLE_SIMD=1` in
//! the environment builds `httparse` without SIMD (`cargo clean -p httparse` first).
//!
//! - *slices*: checks the grammar, returns names and values as slices. This crate: `HeadParser`.
//! - *request*: a complete `http::Request` head, values sliced from the buffer. This crate: a new `Conn`
//!   that reads the head and also checks framing and `Host`; the others: `httparse` and the conversion of
//!   a server on top of it.
//! - *exchange*: `Conn` on a persistent connection: head, end, and an empty response.
//! - *by bytes*: `HeadParser`, called with one more byte each time, per byte.

#![allow(missing_docs, clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use vestibule::proto::h1::{Conn, Event, HeadParser, Limits, Server};

const RUNS: usize = 15;
const HEADS: usize = 4_000;

fn main() {
    let cookie = format!(
        "GET /account HTTP/1.1\r\nHost: shop.example\r\nCookie: {}\r\n\r\n",
        "session=0123456789abcdef; ".repeat(8 * 1024 / 26)
    );
    println!(
        "{:<14} {:>6} | {:>8} {:>8} {:>8} {:>6} | {:>8} {:>8} {:>6} | {:>8} {:>8}",
        "head",
        "bytes",
        "slices",
        "httparse",
        "pico",
        "ratio",
        "request",
        "httparse",
        "ratio",
        "exchange",
        "by bytes"
    );
    for (name, head) in [
        ("minimal", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("wrk", WRK),
        ("browser", BROWSER),
        ("8 KiB cookie", &cookie),
    ] {
        let head = head.as_bytes();
        let runs: [fn(&[u8]) -> Instant; 7] =
            [slices, httparse, pico, request, to_http, exchange, by_bytes];
        let mut best = [f64::MAX; 7];
        for _ in 0..RUNS {
            for (run, best) in runs.iter().zip(&mut best) {
                let start = run(head);
                *best = best.min(start.elapsed().as_nanos() as f64 / HEADS as f64);
            }
        }
        let [slices, httparse, pico, request, to_http, exchange, by_bytes] = best;
        println!(
            "{name:<14} {:>6} | {slices:>8.1} {httparse:>8.1} {pico:>8.1} {:>6.2} | \
             {request:>8.0} {to_http:>8.0} {:>6.2} | {exchange:>8.0} {:>8.2}",
            head.len(),
            httparse.min(pico) / slices,
            to_http / request,
            by_bytes / head.len() as f64,
        );
    }
}

fn slices(head: &[u8]) -> Instant {
    let mut parser = HeadParser::new(Limits::default());
    let start = Instant::now();
    for _ in 0..HEADS {
        let Ok(Some(ref head)) = parser.request(black_box(head)) else {
            panic!("an incomplete head")
        };
        black_box(head);
    }
    start
}

fn by_bytes(head: &[u8]) -> Instant {
    let mut parser = HeadParser::new(Limits::default());
    let start = Instant::now();
    for _ in 0..HEADS {
        for n in 1..head.len() {
            assert!(parser.request(black_box(&head[..n])).is_ok_and(|head| head.is_none()));
        }
        black_box(&parser.request(head).expect("a valid head").expect("a complete head"));
    }
    start
}

/// Number of heads in one buffer, as with pipelined requests.
fn buffer(head: &[u8]) -> BytesMut {
    let mut input = BytesMut::with_capacity(head.len() * HEADS);
    for _ in 0..HEADS {
        input.extend_from_slice(head);
    }
    input
}

fn request(head: &[u8]) -> Instant {
    let now = Instant::now();
    let limits = Arc::new(Limits::default());
    let mut input = buffer(head);
    let start = Instant::now();
    for _ in 0..HEADS {
        let mut conn = Conn::<Server>::new(limits.clone(), now);
        let Ok(Some(Event::Head(parts))) = conn.recv(now, &mut input) else { panic!("no head") };
        black_box(parts);
    }
    start
}

fn exchange(head: &[u8]) -> Instant {
    let now = Instant::now();
    let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), now);
    let (headers, mut out) = (HeaderMap::new(), BytesMut::with_capacity(1024));
    let mut input = buffer(head);
    let start = Instant::now();
    for _ in 0..HEADS {
        let Ok(Some(Event::Head(parts))) = conn.recv(now, &mut input) else { panic!("no head") };
        black_box(parts);
        let Ok(Some(Event::End(None))) = conn.recv(now, &mut input) else { panic!("no end") };
        conn.send_head(now, StatusCode::OK, &headers, Some(0), b"", &mut out)
            .expect("a call in the right state");
        conn.send_end(now, None, &mut out).expect("a call in the right state");
        out.clear();
    }
    start
}

fn httparse(head: &[u8]) -> Instant {
    let start = Instant::now();
    for _ in 0..HEADS {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        assert!(request.parse(black_box(head)).is_ok_and(|s| s.is_complete()));
        black_box(&request);
    }
    start
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "it is written in C")]
fn pico(head: &[u8]) -> Instant {
    use std::{mem::MaybeUninit, ptr};

    use picohttpparser_sys::{phr_header, phr_parse_request};

    let start = Instant::now();
    for _ in 0..HEADS {
        let head = black_box(head);
        let mut fields = [const { MaybeUninit::<phr_header>::uninit() }; 100];
        let (mut method, mut method_len) = (ptr::null(), 0);
        let (mut path, mut path_len) = (ptr::null(), 0);
        let (mut version, mut count) = (0, fields.len());
        // SAFETY: all pointers are valid until the call returns, and `count` is the capacity of `fields`.
        let len = unsafe {
            phr_parse_request(
                head.as_ptr().cast(),
                head.len(),
                &raw mut method,
                &raw mut method_len,
                &raw mut path,
                &raw mut path_len,
                &raw mut version,
                fields.as_mut_ptr().cast(),
                &raw mut count,
                0,
            )
        };
        assert_eq!(usize::try_from(len), Ok(head.len()));
        black_box(&fields);
    }
    start
}

/// A stub for builds without picohttpparser.
#[cfg(not(target_arch = "x86_64"))]
fn pico(head: &[u8]) -> Instant {
    httparse(head)
}

/// Parses with `httparse` and converts to the types of `http`, with values sliced from the bytes.
fn to_http(head: &[u8]) -> Instant {
    let mut input = buffer(head);
    let start = Instant::now();
    for _ in 0..HEADS {
        let bytes = input.split_to(head.len()).freeze();
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Request::new(&mut fields);
        assert!(head.parse(&bytes).is_ok_and(|s| s.is_complete()));
        let (mut parts, ()) = Request::new(()).into_parts();
        let method = head.method.expect("complete").as_bytes();
        parts.method = Method::from_bytes(method).expect("a token");
        let path = bytes.slice_ref(head.path.expect("complete").as_bytes());
        parts.uri = http::Uri::from_maybe_shared(path).expect("a target");
        parts.headers = HeaderMap::with_capacity(head.headers.len());
        for field in head.headers {
            let name = HeaderName::from_bytes(field.name.as_bytes()).expect("a token");
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
            parts.headers.append(name, value.expect("plain"));
        }
        black_box(parts);
    }
    start
}

const WRK: &str = "GET /index.html HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: wrk/4.2.0\r\n\
    Accept: */*\r\n\r\n";

const BROWSER: &str = "GET /wiki/HTTP?action=view&lang=en HTTP/1.1\r\n\
    Host: en.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://en.example.org/wiki/Main_Page\r\n\
    Connection: keep-alive\r\n\
    Cookie: WMF-Last-Access=23-Nov-2026; GeoIP=DE:BE:Berlin:52.52:13.40:v4; enwikiSession=c0ffee\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-User: ?1\r\n\
    Priority: u=0, i\r\n\r\n";
