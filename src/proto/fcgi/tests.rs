//! Runs the vectors, and reads the sent records with an independent parser.
//!
//! A vector is a heading, a `records` block with the records of the application, and an `events` block with the
//! events that [`Conn`](super::Conn) must return; see `vectors/*.md`. Each runs whole, byte by byte, split in
//! two at every offset, and followed by further bytes.
//!
//! In a `records` block each line is a record:
//! - `stdout "text"`, `stderr "text"`: with the escapes of the vectors of `proto::h1`;
//! - `end 0` with the application status; `end 0 status=2` with a protocol status as well;
//! - `values "NAME=value" "NAME=value"`, `unknown 9`;
//! - `record type=6 id=1 "content"`: any record.
//!
//! `id=2`, `version=2` and `pad=3` may follow the first word. A line `bytes "text"` is not a record but raw
//! bytes.
//!
//! An `events` block may begin with options:
//! - `requests GET HEAD`: the methods of the requests that are sent, one after the other; `VALUES` sends
//!   `GET_VALUES`. The default is `GET`; `requests` alone sends none.
//! - `request-body 5`: the first request has a body of this length, which is not sent.
//! - `without-keep-alive`. `abort`: the first request is aborted at once.
//! - `limits head_bytes=64 stderr_bytes=8`: limits other than the defaults.
//! - `eof`: the application closes the connection after these bytes.
//!
//! The events follow:
//! - `head 200`; `field name: value`: a vector has either all fields or none;
//! - `data "..."` and `stderr "..."`, with adjacent pieces joined; `dropped 5`: dropped bytes of STDERR;
//! - `values NAME=value`;
//! - `end 0`, then `keep-alive` or `close`;
//! - `fault Name`, the last event; `closed`: an orderly end of the connection;
//! - `more`: the response is incomplete at the end of the bytes.

#[cfg(feature = "server")]
pub(crate) mod app;
mod conn;
mod run;
mod vector;

use std::collections::HashSet;

use vector::Vector;

const FILES: [(&str, &str); 5] = [
    ("records", include_str!("vectors/records.md")),
    ("head", include_str!("vectors/head.md")),
    ("body", include_str!("vectors/body.md")),
    ("end", include_str!("vectors/end.md")),
    ("limits", include_str!("vectors/limits.md")),
];

/// A record without a request, which follows the bytes of a vector.
const NEXT: &[u8] = b"\x01\x06\x00\x01\x00\x01\x00\x00x";

fn vectors() -> Vec<Vector> {
    FILES.iter().flat_map(|(file, text)| vector::parse(file, text)).collect()
}

/// Runs every vector with each division into pieces that `ways` returns, and reports all failures together.
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
fn vectors_give_their_events_byte_by_byte() {
    check(|v| vec![("byte by byte".into(), v.input.chunks(1).collect())]);
}

#[test]
fn vectors_give_their_events_split_in_two_anywhere() {
    check(|v| {
        // Long vectors are split at some offsets only.
        let step = v.input.len() / if cfg!(miri) { 4 } else { 512 } + 1;
        let cut = |at| (format!("split at {at}"), vec![&v.input[..at], &v.input[at..]]);
        (1..v.input.len()).step_by(step).map(cut).collect()
    });
}

#[test]
fn vectors_give_their_events_followed_by_bytes() {
    let mut seen = 0;
    for mut vector in vectors() {
        let last = vector.events.last().map_or("", |e| e.as_str());
        match last {
            _ if vector.eof => continue, // nothing can follow
            "keep-alive" => vector.events.push("fault Unsolicited".to_owned()),
            fault if fault == "close" || fault.starts_with("fault") => {}
            _ => continue,
        }
        seen += 1;
        let got = run::run(&vector, &[&vector.input, NEXT]);
        assert_eq!(got, vector.events, "{}, followed by a piece", vector.name);
        vector.input.extend_from_slice(NEXT);
        let got = run::run(&vector, &[&vector.input]);
        assert_eq!(got, vector.events, "{}, with the bytes appended", vector.name);
    }
    assert!(seen > 40, "{seen} vectors");
}

#[test]
fn vectors_have_unique_names_and_are_complete() {
    let vectors = vectors();
    let mut names = HashSet::new();
    for v in &vectors {
        assert!(names.insert(&v.name), "{} exists twice", v.name);
    }
    assert!(vectors.len() >= 70, "{} vectors", vectors.len());
}
