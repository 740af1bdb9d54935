//! What a request's head costs, from bytes to `Parts`, beside `httparse` and a plain conversion.
//!
//! `cargo bench --no-default-features --bench h1_parse`. Prints nanoseconds per head, the best of
//! several runs: the machine can only add to it.

#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use vestibule::proto::h1::{Conn, Event, Limits, Server};

const RUNS: usize = 9;
const HEADS: usize = 20_000;

fn main() {
    let cookie = format!(
        "GET /account HTTP/1.1\r\nHost: shop.example\r\nCookie: {}\r\n\r\n",
        "session=0123456789abcdef; ".repeat(8 * 1024 / 26)
    );
    println!("{:<14} {:>6} {:>10} {:>10} {:>10}", "head", "bytes", "conn", "httparse", "to http");
    for (name, head) in [
        ("minimal", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("wrk", WRK),
        ("browser", BROWSER),
        ("8 KiB cookie", &cookie),
    ] {
        let head = head.as_bytes();
        println!(
            "{name:<14} {:>6} {:>10.0} {:>10.0} {:>10.0}",
            head.len(),
            best(|| conn(head)),
            best(|| httparse(head)),
            best(|| to_http(head)),
        );
    }
}

/// The least time of several runs, in nanoseconds per head.
fn best(mut run: impl FnMut() -> Instant) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..RUNS {
        let start = run();
        least = least.min(start.elapsed().as_nanos() as f64 / HEADS as f64);
    }
    least
}

/// `Conn::recv` and the answer that makes it ready for the next head, from one full read buffer.
fn conn(head: &[u8]) -> Instant {
    let now = Instant::now();
    let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), now);
    let (headers, mut out) = (HeaderMap::new(), BytesMut::with_capacity(1024));
    let mut input = BytesMut::with_capacity(head.len() * HEADS);
    for _ in 0..HEADS {
        input.extend_from_slice(head);
    }
    let start = Instant::now();
    for _ in 0..HEADS {
        let Ok(Some(Event::Head(parts))) = conn.recv(now, &mut input) else { panic!("a head") };
        black_box(parts);
        let Ok(Some(Event::End(None))) = conn.recv(now, &mut input) else { panic!("an end") };
        conn.send_head(now, StatusCode::OK, &headers, Some(0), b"", &mut out).expect("in turn");
        conn.send_end(now, None, &mut out).expect("in turn");
        out.clear();
    }
    start
}

/// The lines alone: slices of the bytes, nothing owned, nothing checked beyond the grammar.
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

/// `httparse`, then into the types of `http`, values sliced from the bytes: what a server on top
/// of it does.
fn to_http(head: &[u8]) -> Instant {
    let mut input = BytesMut::with_capacity(head.len() * HEADS);
    for _ in 0..HEADS {
        input.extend_from_slice(head);
    }
    let start = Instant::now();
    for _ in 0..HEADS {
        let bytes = input.split_to(head.len()).freeze();
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut theirs = httparse::Request::new(&mut fields);
        assert!(theirs.parse(&bytes).is_ok_and(|s| s.is_complete()));
        let (mut parts, ()) = Request::new(()).into_parts();
        let method = theirs.method.expect("complete").as_bytes();
        parts.method = Method::from_bytes(method).expect("a token");
        let path = bytes.slice_ref(theirs.path.expect("complete").as_bytes());
        parts.uri = http::Uri::from_maybe_shared(path).expect("a target");
        parts.headers = HeaderMap::with_capacity(theirs.headers.len());
        for field in theirs.headers {
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
