//! The application's side of the protocol, for tests of code above the core. It shares no code with the core.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A request that the application has read.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) keeps_connection: bool,
    pub(crate) params: HashMap<String, String>,
    pub(crate) stdin: Vec<u8>,
}

/// Returns a record of request 1.
pub(crate) fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[1, kind, 0, 1, len[0], len[1], 0, 0], content].concat()
}

pub(crate) fn stdout(text: &str) -> Vec<u8> {
    record(6, text.as_bytes())
}

pub(crate) fn stderr(text: &str) -> Vec<u8> {
    record(7, text.as_bytes())
}

/// Returns the end of the request, with this protocol status.
pub(crate) fn end(status: u8) -> Vec<u8> {
    record(3, &[0, 0, 0, 0, status, 0, 0, 0])
}

/// Reads a record's type and content.
pub(crate) async fn read_record(io: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut header = [0; 8];
    io.read_exact(&mut header).await.unwrap();
    let mut content = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]]))];
    io.read_exact(&mut content).await.unwrap();
    io.read_exact(&mut vec![0; header[6].into()]).await.unwrap();
    (header[1], content)
}

/// Reads a request to the end of its body.
pub(crate) async fn read_request(io: &mut (impl AsyncRead + Unpin)) -> Seen {
    let (mut seen, mut params) = (Seen::default(), Vec::new());
    loop {
        let (kind, content) = read_record(io).await;
        match kind {
            1 => seen.keeps_connection = content[2] == 1,
            4 => params.extend_from_slice(&content),
            5 if content.is_empty() => break,
            5 => seen.stdin.extend_from_slice(&content),
            other => panic!("a record of type {other}"),
        }
    }
    let mut rest = &params[..];
    while !rest.is_empty() {
        let (name, value) = (length(&mut rest), length(&mut rest));
        let (pair, next) = rest.split_at(name + value);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        seen.params.insert(text(&pair[..name]), text(&pair[name..]));
        rest = next;
    }
    seen
}

fn length(bytes: &mut &[u8]) -> usize {
    let long = bytes[0] & 0x80 != 0;
    let (len, rest) = bytes.split_at(if long { 4 } else { 1 });
    *bytes = rest;
    len.iter().fold(0, |n, b| n << 8 | usize::from(*b)) & 0x7fff_ffff
}
