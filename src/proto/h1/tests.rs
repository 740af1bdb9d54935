//! Tests of the core: vectors, properties and comparisons.
//!
//! A vector is a heading, an `http` block with the bytes of the peer, and an `events` block with the
//! events that [`Conn`](super::Conn) must return; see `vectors/*.md`. Each runs whole, byte by byte,
//! cut in two at every position, and with bytes after it.
//!
//! In an `http` block each line means its bytes and CRLF. A `\` at the end of a line removes the
//! CRLF. Other bytes are written `\r`, `\n`, `\t`, `\0`, `\xNN`, `\\`; `\{300 ab}` is
//! `ab` three hundred times.
//!
//! An `events` block may begin with options:
//! - `answers HEAD GET`: the bytes are responses to these requests, one after the other (`answers`
//!   alone: no request was sent). In files about responses `answers GET` is the default.
//! - `limits fields=2 name_bytes=8`: bounds other than the defaults.
//! - `lenient bare_lf`: with these leniencies.
//! - `connect`: CONNECT is allowed.
//! - `eof`: the peer closes after these bytes.
//!
//! The events follow:
//! - `head GET /path HTTP/1.1` or `head 200 HTTP/1.1`;
//! - `field name: value`: all fields or none;
//! - `expects`: the client waits for `100 Continue`;
//! - `data "..."`, adjacent pieces joined;
//! - `trailer name: value`, then `end`;
//! - `keep-alive` or `close`, after `end`; the other side then ends its half, so that the next message
//!   may follow;
//! - `fault Name 400`: with the status of the answer, as the last event;
//! - `more`: the bytes end in the middle of a message.

mod conn;
mod cuts;
mod deadline;
mod last;
mod orders;
mod pair;
mod reference;
pub(in crate::proto) mod run;
mod side;
mod unwritable;
pub(in crate::proto) mod vector;
mod writing;

use std::collections::HashSet;

use vector::Vector;

const FILES: [(&str, &str); 16] = [
    ("request-line", include_str!("vectors/request-line.md")),
    ("connect", include_str!("vectors/connect.md")),
    ("fields", include_str!("vectors/fields.md")),
    ("host", include_str!("vectors/host.md")),
    ("content-length", include_str!("vectors/content-length.md")),
    ("transfer-encoding", include_str!("vectors/transfer-encoding.md")),
    ("chunked", include_str!("vectors/chunked.md")),
    ("trailers", include_str!("vectors/trailers.md")),
    ("expect", include_str!("vectors/expect.md")),
    ("keep-alive", include_str!("vectors/keep-alive.md")),
    ("pipelining", include_str!("vectors/pipelining.md")),
    ("limits", include_str!("vectors/limits.md")),
    ("response-head", include_str!("vectors/response-head.md")),
    ("response-framing", include_str!("vectors/response-framing.md")),
    ("lenient", include_str!("vectors/lenient.md")),
    ("response-lenient", include_str!("vectors/response-lenient.md")),
];

/// Messages that are appended to the bytes of a vector.
const NEXT_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const NEXT_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn vectors() -> Vec<Vector> {
    FILES.iter().flat_map(|(file, text)| vector::parse(file, text)).collect()
}

/// Returns the bytes of every vector, for tests of modules above the core.
#[allow(dead_code, reason = "the end-to-end tests need several features")]
pub(crate) fn inputs() -> Vec<Vec<u8>> {
    vectors().into_iter().map(|v| v.input).collect()
}

/// Runs every vector with each split of its bytes that `ways` returns, and reports all failures at once.
fn check(ways: impl Fn(&Vector) -> Vec<(String, Vec<&[u8]>)>) {
    let mut failures = Vec::new();
    for vector in vectors() {
        for (way, pieces) in ways(&vector) {
            let got = run::run(&vector, &pieces);
            if got != vector.events {
                let (want, got) = (vector.events.join("\n  "), got.join("\n  "));
                let name = &vector.name;
                failures.push(format!("{name}, {way}\n want\n  {want}\n got\n  {got}\n"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn vectors_give_their_events_whole() {
    check(|v| vec![("whole".into(), vec![&v.input])]);
}

#[test]
fn vectors_give_their_events_on_a_processor_without_simd() {
    super::scan::portable(|| {
        check(|v| {
            let middle = v.input.split_at(v.input.len() / 2);
            vec![
                ("whole".into(), vec![&v.input[..]]),
                ("cut in the middle".into(), vec![middle.0, middle.1]),
            ]
        });
    });
}

#[test]
fn vectors_give_their_events_byte_by_byte() {
    check(|v| vec![("byte by byte".into(), v.input.chunks(1).collect())]);
}

#[test]
fn vectors_give_their_events_cut_in_two_anywhere() {
    check(|v| {
        // Long ones are cut at some positions only, to save time.
        let step = v.input.len() / if cfg!(miri) { 4 } else { 512 } + 1;
        let cut = |at| (format!("cut at {at}"), vec![&v.input[..at], &v.input[at..]]);
        (1..v.input.len()).step_by(step).map(cut).collect()
    });
}

#[test]
fn vectors_give_their_events_with_bytes_after_them() {
    let mut failures = Vec::new();
    for mut vector in vectors() {
        let last = vector.events.last().map_or("", |e| e.as_str());
        let more: &[&str] = match last {
            _ if vector.eof => continue, // no bytes can follow
            "keep-alive" if vector.client => &["fault Unsolicited 502"],
            "keep-alive" => &["head GET / HTTP/1.1", "field host: a", "end", "keep-alive"],
            "close" => &[],
            fault if fault.starts_with("fault") => &[],
            _ => continue,
        };
        let has_fields = vector.events.iter().any(|e| e.starts_with("field "));
        let more = more.iter().filter(|e| has_fields || !e.starts_with("field "));
        vector.events.extend(more.map(ToString::to_string));
        let next = if vector.client { NEXT_RESPONSE } else { NEXT_REQUEST };
        let got = run::run(&vector, &[&vector.input, next]);
        vector.input.extend_from_slice(next);
        let together = run::run(&vector, &[&vector.input]);
        if got != vector.events || together != vector.events {
            failures
                .push(format!("{}\n {:?}\n {got:?}\n {together:?}", vector.name, vector.events));
        }
    }
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn vectors_have_unique_names_and_are_at_least_600() {
    let vectors = vectors();
    let mut names = HashSet::new();
    for v in &vectors {
        assert!(names.insert(&v.name), "{} is not unique", v.name);
    }
    assert!(vectors.len() >= 600, "{} vectors", vectors.len());
}
