//! Invariant: the result of a chunked body does not depend on cuts; an accepted body and its end are
//! those of a simple reference reader of the grammar (RFC 9112 section 7.1).
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
            let (body, rest) = plain(data).expect("an accepted body is in the grammar");
            assert_eq!(message.body, body);
            assert_eq!(read.left, section_end(rest).len(), "it ends at another offset");
            if let Some(trailers) = trailers {
                assert_plain(trailers);
            }
        }
    }
});

/// Returns the body, and the bytes after the last chunk's size line.
fn plain(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let line = &bytes[..end];
        let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if !is_extensions(&mut line[digits..].iter().copied().peekable()) {
            return None;
        }
        bytes = &bytes[end + 2..];
        if size == 0 {
            return Some((body, bytes));
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes[size..].strip_prefix(b"\r\n")?;
    }
}

type Extensions<'a> = std::iter::Peekable<std::iter::Copied<std::slice::Iter<'a, u8>>>;

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`, byte by byte.
fn is_extensions(bytes: &mut Extensions<'_>) -> bool {
    let white = |bytes: &mut Extensions<'_>| {
        let mut count = 0;
        while bytes.next_if(|b| matches!(b, b' ' | b'\t')).is_some() {
            count += 1;
        }
        count
    };
    let token = |bytes: &mut Extensions<'_>| {
        let tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let mut some = false;
        while bytes.next_if(tchar).is_some() {
            some = true;
        }
        some
    };
    loop {
        let before = white(bytes);
        match bytes.next() {
            None => return before == 0,
            Some(b';') => {}
            Some(_) => return false,
        }
        white(bytes);
        if !token(bytes) {
            return false;
        }
        let rest = bytes.clone();
        white(bytes);
        if bytes.next_if_eq(&b'=').is_none() {
            *bytes = rest; // the white space belongs to what follows
            continue;
        }
        white(bytes);
        if bytes.next_if_eq(&b'"').is_none() {
            if !token(bytes) {
                return false;
            }
            continue;
        }
        loop {
            let is_text = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
            match bytes.next() {
                Some(b'"') => break,
                Some(b'\\') if bytes.next_if(|b| is_text(*b)).is_some() => {}
                Some(b) if b != b'\\' && is_text(b) => {}
                _ => return false,
            }
        }
    }
}

/// Returns the bytes after the trailers.
fn section_end(bytes: &[u8]) -> &[u8] {
    if let Some(rest) = bytes.strip_prefix(b"\r\n") {
        return rest;
    }
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("the trailers end");
    &bytes[at + 4..]
}
