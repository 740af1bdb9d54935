//! The core against its vectors, and what it sends against a reader of its own.
//!
//! A vector is a heading, a `records` block with what the application sends, and an `events` block
//! with what [`Conn`](super::Conn) must make of it; see `vectors/*.md`. Each runs whole, byte by byte,
//! cut in two at every place, and with bytes behind it.
//!
//! In a `records` block each line is a record:
//! - `stdout "text"`, `stderr "text"`: with the escapes of the vectors of `proto::h1`;
//! - `end 0`, with the application's status; `end 0 status=2` with a protocol status;
//! - `values "NAME=value" "NAME=value"`, `unknown 9`;
//! - `record type=6 id=1 "content"`: any record.
//!
//! Behind the first word may stand `id=2`, `version=2` and `pad=3`. A line `bytes "text"` is no record
//! but bytes as they are.
//!
//! An `events` block may begin with how it is run:
//! - `asks GET HEAD`: the requests that are sent, one after the other; `VALUES` asks for values.
//!   Default `GET`; `asks` alone: nothing was asked.
//! - `uploads 5`: the first request has a body of so many bytes, which are not sent.
//! - `once`: without keep-alive. `aborts`: the first request is aborted at once.
//! - `limits head_bytes=64 stderr_bytes=8`: bounds other than the defaults.
//! - `eof`: the application closes after these bytes.
//!
//! Then come the events:
//! - `head 200`; `field name: value`: if a vector has any, it has all;
//! - `data "..."` and `stderr "..."`, adjacent pieces joined; `dropped 5`: bytes of STDERR;
//! - `values NAME=value`;
//! - `end 0`, then `keep-alive` or `close`;
//! - `fault Name`: nothing comes after; `closed`: the end came in order;
//! - `more`: in the middle of a response when the bytes are over.

#[cfg(feature = "upstream")]
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

/// A record that belongs to no request, for behind a vector's bytes.
const NEXT: &[u8] = b"\x01\x06\x00\x01\x00\x01\x00\x00x";

fn vectors() -> Vec<Vector> {
    FILES.iter().flat_map(|(file, text)| vector::parse(file, text)).collect()
}

/// Runs every vector in the ways that `ways` gives, and reports all that went wrong at once.
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
fn vectors_give_their_events_cut_in_two_anywhere() {
    check(|v| {
        // Long ones are cut at some places only: the rest is much of the same.
        let step = v.input.len() / if cfg!(miri) { 4 } else { 512 } + 1;
        let cut = |at| (format!("cut at {at}"), vec![&v.input[..at], &v.input[at..]]);
        (1..v.input.len()).step_by(step).map(cut).collect()
    });
}

#[test]
fn vectors_give_their_events_with_bytes_behind_them() {
    let mut seen = 0;
    for mut vector in vectors() {
        let last = vector.events.last().map_or("", |e| e.as_str());
        match last {
            _ if vector.eof => continue, // then nothing is behind it
            "keep-alive" => vector.events.push("fault Unsolicited".to_owned()),
            fault if fault == "close" || fault.starts_with("fault") => {}
            _ => continue,
        }
        seen += 1;
        let got = run::run(&vector, &[&vector.input, NEXT]);
        assert_eq!(got, vector.events, "{}, in a piece of their own", vector.name);
        vector.input.extend_from_slice(NEXT);
        let got = run::run(&vector, &[&vector.input]);
        assert_eq!(got, vector.events, "{}, together", vector.name);
    }
    assert!(seen > 40, "{seen} vectors");
}

#[test]
fn vectors_have_unique_names_and_are_not_few() {
    let vectors = vectors();
    let mut names = HashSet::new();
    for v in &vectors {
        assert!(names.insert(&v.name), "{} stands there twice", v.name);
    }
    assert!(vectors.len() >= 70, "{} vectors", vectors.len());
}
