//! Helpers for tests of the writing half: one side that reads given bytes, and heads as strings.

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::run::now;
use crate::proto::h1::{Client, Conn, Limits, Misuse, Server};

pub(super) const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
pub(super) const GET_10: &str = "GET / HTTP/1.0\r\n\r\n";
pub(super) const GET_10_KEEP: &str = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
pub(super) const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
pub(super) const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

pub(super) fn server() -> Conn<Server> {
    Conn::new(Arc::new(Limits::default()), now())
}

pub(super) fn client() -> Conn<Client> {
    Conn::new(Arc::new(Limits::default()), now())
}

/// Returns a server that has read all of `bytes`.
pub(super) fn server_after(bytes: &str) -> Conn<Server> {
    let mut conn = server();
    feed(&mut conn, bytes);
    conn
}

pub(super) fn feed(conn: &mut Conn<Server>, bytes: &str) {
    let mut input = BytesMut::from(bytes);
    while conn.recv(now(), &mut input).unwrap().is_some() {}
    assert!(input.is_empty(), "{input:?} is left");
}

pub(super) fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    map
}

/// Returns the head that the server sends, or its error. An error must not have written anything.
pub(super) fn respond(
    conn: &mut Conn<Server>,
    status: u16,
    fields: &[(&'static str, &str)],
    length: Option<u64>,
) -> Result<String, Misuse> {
    let status = StatusCode::from_u16(status).unwrap();
    let mut out = BytesMut::from("before|");
    let sent = conn.send_head(now(), status, &headers(fields), length, b"", &mut out);
    let out = String::from_utf8(out.to_vec()).unwrap();
    let written = out.strip_prefix("before|").unwrap();
    if sent.is_err() {
        assert_eq!(written, "", "a misuse wrote something");
    }
    sent.map(|()| written.to_owned())
}

pub(super) fn ask(
    conn: &mut Conn<Client>,
    method: &Method,
    target: &str,
    fields: &[(&'static str, &str)],
    length: Option<u64>,
) -> Result<String, Misuse> {
    let target: Uri = target.parse().unwrap();
    let mut out = BytesMut::from("before|");
    let sent = conn.send_head(now(), method, &target, &headers(fields), length, b"", &mut out);
    let out = String::from_utf8(out.to_vec()).unwrap();
    let written = out.strip_prefix("before|").unwrap();
    if sent.is_err() {
        assert_eq!(written, "", "a misuse wrote something");
    }
    sent.map(|()| written.to_owned())
}

pub(super) fn framings(head: &str) -> usize {
    head.matches("content-length:").count() + head.matches("transfer-encoding:").count()
}
