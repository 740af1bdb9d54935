//! Invariant: a simple reference reader of MIME finds in the response to a Range field the bytes that its
//! Content-Range fields name; the response has its announced length; no range makes a folder fail.
#![no_main]

use std::{
    io,
    pin::pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use libfuzzer_sys::fuzz_target;
use tower_service::Service;
use vestibule::{
    Body,
    files::{self, Backend, BackendFile, Content, Dir, Lookup},
};

/// Files whose names are their lengths.
#[derive(Debug)]
struct Files;

const LENGTHS: [usize; 6] = [0, 1, 100, 1_000, 5_000, 100_000];

fn content(len: usize) -> Vec<u8> {
    // It contains line ends and hyphens, as around a boundary.
    (0..len).map(|i| b"\r\n--0123456789abcdef"[(i * 7 + i / 97) % 20]).collect()
}

impl Backend for Files {
    fn lookup(&self, path: &str) -> io::Result<Lookup> {
        let Ok(len) = path.parse() else { return Ok(Lookup::Missing) };
        let content = Content::Bytes(content(len).into());
        Ok(Lookup::File(BackendFile { content, modified: None, tag: path.to_owned() }))
    }

    fn try_lookup_cached(&self, path: &str) -> Option<Lookup> {
        self.lookup(path).ok()
    }
}

static DIR: LazyLock<Dir> =
    LazyLock::new(|| files::DirBuilder::backend(Files).inline_lookups(true).build());

fuzz_target!(|data: &[u8]| {
    let Some((&which, range)) = data.split_first() else { return };
    let Ok(range) = HeaderValue::from_bytes(range) else { return };
    let len = LENGTHS[usize::from(which) % LENGTHS.len()];
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("/{len}"))
        .header(header::RANGE, range)
        .body(Body::empty())
        .expect("a request");
    let response = now(DIR.clone().call(request)).expect("no range makes a folder fail");
    let (status, headers, body) = read(response);
    let file = content(len);
    let stated =
        headers.get(header::CONTENT_LENGTH).map(|v| v.to_str().expect("digits").to_owned());
    if let Some(stated) = stated {
        assert_eq!(stated, body.len().to_string());
    }
    match status {
        StatusCode::OK => assert_eq!(body, file),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            assert_eq!(headers[header::CONTENT_RANGE], format!("bytes */{len}"));
        }
        StatusCode::PARTIAL_CONTENT => match boundary(&headers) {
            None => assert_part(&headers, &body, &file),
            Some(boundary) => {
                let parts = parts(&body, &boundary);
                assert!(parts.len() >= 2);
                parts.iter().for_each(|(headers, body)| assert_part(headers, body, &file));
            }
        },
        other => panic!("{other}"),
    }
});

/// Returns the output of a future that is ready at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("all of it is in memory"),
    }
}

fn read(response: Response<Body>) -> (StatusCode, HeaderMap, Vec<u8>) {
    let (head, body) = response.into_parts();
    let mut body = pin!(body);
    let (hint, mut all) = (body.size_hint().exact(), Vec::new());
    let mut cx = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        let data: Bytes = frame.expect("memory does not fail").into_data().expect("no trailers");
        all.extend_from_slice(&data);
    }
    assert!(body.is_end_stream());
    assert_eq!(hint, Some(all.len() as u64), "announced length");
    (head.status, head.headers, all)
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(kind.strip_prefix("multipart/byteranges; boundary=")?.to_owned())
}

/// Panics unless the bytes are those of the file that the part's Content-Range names.
fn assert_part(headers: &HeaderMap, body: &[u8], file: &[u8]) {
    let range = headers[header::CONTENT_RANGE].to_str().expect("ASCII");
    let (range, of) =
        range.strip_prefix("bytes ").and_then(|r| r.split_once('/')).expect("a range");
    let (first, last) = range.split_once('-').expect("two numbers");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    assert_eq!(number(of), file.len());
    assert_eq!(body, &file[number(first)..=number(last)]);
}

/// Reads the parts between delimiter lines (RFC 2046 section 5.1.1), with nothing before the first and after
/// the last one.
fn parts(body: &[u8], boundary: &str) -> Vec<(HeaderMap, Vec<u8>)> {
    let delimiter = format!("\r\n--{boundary}");
    let at: Vec<usize> = body
        .windows(delimiter.len())
        .enumerate()
        .filter(|(_, w)| *w == delimiter.as_bytes())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(at[0], 0, "bytes before the first part");
    let last = *at.last().expect("there is one");
    assert_eq!(&body[last + delimiter.len()..], b"--\r\n", "bytes after the last part");
    let part = |ends: &[usize]| {
        let part = &body[ends[0] + delimiter.len()..ends[1]];
        let part = part.strip_prefix(b"\r\n").expect("the delimiter ends its line");
        let end = part.windows(4).position(|w| w == b"\r\n\r\n").expect("the end of the head");
        let head = std::str::from_utf8(&part[..end]).expect("ASCII");
        let mut headers = HeaderMap::new();
        for line in head.split("\r\n") {
            let (name, value) = line.split_once(": ").expect("a field");
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            assert!(headers.insert(name, value.parse().expect("a value")).is_none());
        }
        (headers, part[end + 4..].to_vec())
    };
    at.windows(2).map(part).collect()
}
