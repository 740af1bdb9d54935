//! Tests of what is sent, and of misuse.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use http::Method;

use crate::proto::{
    fcgi::{Conn, Event, Fault, Limits, MAX_CONTENT, Misuse, Params},
    h1::tests::run::now,
};

/// A record: its type, its request and its content.
type Record = (u8, u16, Vec<u8>);

/// Parses records independently of the core.
fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        assert_eq!((bytes[0], bytes[7]), (1, 0), "version and reserved byte");
        let len = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let content = bytes[8..8 + len].to_vec();
        records.push((bytes[1], u16::from_be_bytes([bytes[2], bytes[3]]), content));
        bytes = &bytes[8 + len + usize::from(bytes[6])..];
    }
    records
}

fn conn() -> Conn {
    Conn::new(Arc::new(Limits::default()), now())
}

fn params(pairs: &[(&str, &[u8])]) -> Params {
    let mut params = Params::new();
    for (name, value) in pairs {
        params.push(name.as_bytes(), value).unwrap();
    }
    params
}

const END: &[u8] = b"\x01\x03\x00\x01\x00\x08\x00\x00\0\0\0\0\0\0\0\0";
const HEAD: &[u8] = b"\x01\x06\x00\x01\x00\x0d\x00\x00Status: 200\n\n";

#[test]
fn request_is_begin_params_and_stdin() {
    let (mut conn, mut out) = (conn(), BytesMut::new());
    let params = params(&[("A", b"b"), ("EMPTY", b"")]);
    conn.send_request(now(), &Method::POST, 3, &params, &mut out).unwrap();
    assert_eq!(conn.send_data(3, &mut out), Ok(3));
    out.extend_from_slice(b"abc");
    conn.send_end(now(), &mut out).unwrap();
    let keep_alive = vec![0, 1, 1, 0, 0, 0, 0, 0];
    assert_eq!(
        records(&out),
        [
            (1, 1, keep_alive),
            (4, 1, b"\x01\x01Ab\x05\x00EMPTY".to_vec()),
            (4, 1, vec![]),
            (5, 1, b"abc".to_vec()),
            (5, 1, vec![]),
        ]
    );
}

#[test]
fn disabled_keep_alive_clears_flag_of_request() {
    let (mut conn, mut out) = (conn(), BytesMut::new());
    conn.disable_keep_alive();
    conn.send_request(now(), &Method::GET, 0, &Params::new(), &mut out).unwrap();
    conn.send_end(now(), &mut out).unwrap();
    assert_eq!(records(&out)[0], (1, 1, vec![0, 1, 0, 0, 0, 0, 0, 0]));
    let mut input = BytesMut::from(&[HEAD, END].concat()[..]);
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(conn.is_closed() && !conn.keeps_alive());
}

#[test]
fn params_above_one_record_are_divided_between_pairs() {
    let value = vec![b'v'; 30_000];
    let pairs: [(&str, &[u8]); 3] = [("A", &value), ("B", &value), ("C", &value)];
    let (mut conn, mut out) = (conn(), BytesMut::new());
    conn.send_request(now(), &Method::GET, 0, &params(&pairs), &mut out).unwrap();
    let lengths: Vec<_> = records(&out)[1..].iter().map(|r| (r.0, r.2.len())).collect();
    let pair = 1 + 4 + 1 + value.len();
    assert_eq!(lengths, [(4, 2 * pair), (4, pair), (4, 0)]);
}

#[test]
fn pair_above_one_record_is_divided() {
    let value = vec![b'v'; 150_000];
    let params = params(&[("A", b"b"), ("LONG", &value), ("Z", b"z")]);
    let (mut conn, mut out) = (conn(), BytesMut::new());
    conn.send_request(now(), &Method::GET, 0, &params, &mut out).unwrap();
    let stream: Vec<Vec<u8>> = records(&out)[1..].iter().map(|r| r.2.clone()).collect();
    let lengths: Vec<_> = stream.iter().map(Vec::len).collect();
    let left = 1 + 4 + 4 + value.len() - 2 * MAX_CONTENT;
    assert_eq!(
        lengths,
        [4, MAX_CONTENT, MAX_CONTENT, left + 4, 0],
        "whole pairs have records of their own"
    );
    assert!(stream.concat().ends_with(b"v\x01\x01Zz"));
    assert_eq!(params.get("LONG"), Some(&value[..]));
    assert_eq!((params.get("Z"), params.get("NONE")), (Some(&b"z"[..]), None));
}

#[test]
fn body_above_one_record_is_announced_in_steps() {
    let (mut conn, mut out) = (conn(), BytesMut::new());
    let len = 2 * MAX_CONTENT + 7;
    conn.send_request(now(), &Method::PUT, len as u64, &Params::new(), &mut out).unwrap();
    out.clear();
    let mut left = len;
    while left > 0 {
        let n = conn.send_data(left, &mut out).unwrap();
        out.extend(std::iter::repeat_n(b'x', n));
        left -= n;
    }
    conn.send_end(now(), &mut out).unwrap();
    let lengths: Vec<_> = records(&out).iter().map(|r| (r.0, r.2.len())).collect();
    assert_eq!(lengths, [(5, MAX_CONTENT), (5, MAX_CONTENT), (5, 7), (5, 0)]);
}

#[test]
fn call_in_wrong_state_is_misuse_and_changes_nothing() {
    let (mut conn, mut out) = (conn(), BytesMut::new());
    assert_eq!(conn.send_data(1, &mut out), Err(Misuse::State));
    assert_eq!(conn.send_end(now(), &mut out), Err(Misuse::State));
    assert_eq!(conn.send_abort(&mut out), Err(Misuse::State));
    let long = "N".repeat(MAX_CONTENT);
    assert_eq!(conn.send_get_values(now(), &[&long], &mut out), Err(Misuse::PairTooLong));
    assert!(out.is_empty() && conn.is_idle());

    conn.send_request(now(), &Method::POST, 2, &Params::new(), &mut out).unwrap();
    out.clear();
    let again = conn.send_request(now(), &Method::GET, 0, &Params::new(), &mut out);
    assert_eq!(again, Err(Misuse::State));
    assert_eq!(conn.send_get_values(now(), &["A"], &mut out), Err(Misuse::State));
    assert_eq!(conn.send_data(3, &mut out), Err(Misuse::TooLong));
    assert_eq!(conn.send_end(now(), &mut out), Err(Misuse::TooShort));
    assert!(out.is_empty());
    assert_eq!(conn.send_data(2, &mut out), Ok(2));
    assert_eq!(conn.send_end(now(), &mut out), Ok(()));
    assert_eq!(conn.send_end(now(), &mut out), Err(Misuse::State));
    assert_eq!(conn.send_abort(&mut out), Ok(()));
    assert_eq!(conn.send_abort(&mut out), Err(Misuse::State));
    assert_eq!(records(&out[8..]), [(5, 1, vec![]), (2, 1, vec![])]);
}

#[test]
fn get_values_sends_the_names() {
    let (mut conn, mut out) = (conn(), BytesMut::new());
    conn.send_get_values(now(), &["FCGI_MAX_CONNS", "FCGI_MPXS_CONNS"], &mut out).unwrap();
    let content = b"\x0e\x00FCGI_MAX_CONNS\x0f\x00FCGI_MPXS_CONNS".to_vec();
    assert_eq!(records(&out), [(9, 0, content)]);
}

#[test]
fn deadline_runs_from_end_of_request_and_ignores_stderr() {
    let second = Duration::from_secs(1);
    let limits = Limits::default().head_timeout(10 * second).body_timeout(3 * second);
    let start = now();
    let (mut conn, mut out) = (Conn::new(Arc::new(limits), start), BytesMut::new());
    assert_eq!(conn.deadline(), None);
    conn.send_request(start, &Method::POST, 1, &Params::new(), &mut out).unwrap();
    assert_eq!(conn.deadline(), None, "the request is not complete");
    conn.send_data(1, &mut out).unwrap();
    conn.send_end(start + second, &mut out).unwrap();
    assert_eq!(conn.deadline(), Some(start + 11 * second));
    let mut input = BytesMut::from(&b"\x01\x07\x00\x01\x00\x01\x00\x00w"[..]);
    let event = conn.recv(start + 2 * second, &mut input).unwrap();
    assert!(matches!(event, Some(Event::Stderr(_))));
    assert_eq!(conn.deadline(), Some(start + 11 * second), "STDERR is no progress");
    input.extend_from_slice(HEAD);
    let event = conn.recv(start + 4 * second, &mut input).unwrap();
    assert!(matches!(event, Some(Event::Head(_))));
    assert_eq!(conn.deadline(), Some(start + 7 * second));
    conn.resume(start + 9 * second);
    assert_eq!(conn.deadline(), Some(start + 12 * second));
    assert_eq!(conn.timeout(), Some(Fault::Timeout));
    assert!(conn.is_closed() && conn.deadline().is_none());
    assert_eq!(conn.timeout(), None);
}

#[test]
fn remaining_body_is_known_with_content_length() {
    let (mut conn, mut out) = (conn(), BytesMut::new());
    conn.send_request(now(), &Method::GET, 0, &Params::new(), &mut out).unwrap();
    conn.send_end(now(), &mut out).unwrap();
    assert_eq!(conn.remaining_body(), Some(0));
    let text = b"Status: 200\nContent-Length: 5\n\nabc";
    let mut input = BytesMut::from(&b"\x01\x06\x00\x01\x00\x22\x00\x00"[..]);
    input.extend_from_slice(text);
    assert_eq!(text.len(), 0x22);
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Head(_)))));
    assert_eq!((conn.remaining_body(), conn.is_reading_body()), (Some(5), true));
    assert!(matches!(conn.recv(now(), &mut input), Ok(Some(Event::Data(_)))));
    assert_eq!(conn.remaining_body(), Some(2));
    assert_eq!(conn.recv_eof(), Err(Fault::Truncated));
    assert_eq!(conn.recv_eof(), Ok(()));
}
