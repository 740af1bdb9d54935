//! Invariant: a chunked body is read alike however it is cut; what is accepted is what a plain
//! reader of the grammar (RFC 9112 section 7.1) gives, byte for byte, and ends where it ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::proto::h1::Limits;
use vestibule_fuzz::{assert_plain, requests, small, ways};

const HEAD: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let bytes = [HEAD, data].concat();
    for limits in [Limits::default(), small()] {
        let cut = HEAD.len() + usize::from(data.first().copied().unwrap_or(0));
        let [whole, single, cut] = ways(&bytes, cut);
        let read = requests(&limits, &whole);
        let text = read.text();
        assert_eq!(text, requests(&limits, &single).text(), "byte by byte");
        assert_eq!(text, requests(&limits, &cut).text(), "cut in two");
        let Some(message) = read.messages.first() else {
            continue; // the small bounds refuse the head
        };
        if let Some(trailers) = &message.end {
            assert!(read.fault.is_none());
            let (body, rest) = plain(data).expect("what we accept is in the grammar");
            assert_eq!(message.body, body);
            assert_eq!(read.left, section_end(rest).len(), "it ends at another place");
            if let Some(trailers) = trailers {
                assert_plain(trailers);
            }
        }
    }
});

/// The body, and what stands behind the last chunk's line.
fn plain(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let line = std::str::from_utf8(bytes[..end].split(|b| *b == b';').next()?).ok()?;
        if line.is_empty() || !line.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(line, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some((body, bytes));
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes[size..].strip_prefix(b"\r\n")?;
    }
}

/// What stands behind the trailers.
fn section_end(bytes: &[u8]) -> &[u8] {
    if let Some(rest) = bytes.strip_prefix(b"\r\n") {
        return rest;
    }
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("the trailers end");
    &bytes[at + 4..]
}
