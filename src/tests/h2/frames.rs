//! Frames by hand, for what no client library sends.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    super::support::{TIMEOUT, within},
    *,
};
use crate::proto::h2::PREFACE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `GET http://a/` in HPACK: three indexed fields of the static table, and a literal authority.
pub(super) const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

/// `POST http://a/`.
pub(super) const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

/// `CONNECT a:1`: two literals with names of the static table.
pub(super) const CONNECT: &[u8] = b"\x42\x07CONNECT\x41\x03a:1";

/// ENHANCE_YOUR_CALM (RFC 9113 section 7).
pub(super) const CALM: u32 = 11;
pub(super) const PROTOCOL_ERROR: u32 = 1;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [len[1], len[2], len[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// A frame that was received.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The four bytes at `at`, for example an error code.
    pub(super) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status at the begin of a response's fields, if its stream was new to the dynamic table (RFC 7541 appendix A).
    pub(super) fn status(&self) -> u16 {
        match self.payload[..] {
            [index @ 0x88..=0x8e, ..] => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)]
            }
            // A literal of three digits in the Huffman code: 5 bits up to `2`, and 6 above (RFC 7541 appendix B).
            [0x48, len, ..] if len & 0x80 != 0 => {
                let bytes = &self.payload[2..][..usize::from(len & 0x7f)];
                let bits: Vec<u16> = bytes
                    .iter()
                    .flat_map(|b| (0..8).rev().map(move |i| u16::from(b >> i & 1)))
                    .collect();
                let (mut at, mut status) = (0, 0);
                let code =
                    |from: usize, n: usize| bits[from..from + n].iter().fold(0, |c, b| 2 * c + b);
                for _ in 0..3 {
                    let is_short = code(at, 5) <= 2;
                    let digit = if is_short { code(at, 5) } else { code(at, 6) - 22 };
                    at += if is_short { 5 } else { 6 };
                    status = 10 * status + digit;
                }
                status
            }
            _ => panic!("{self:?}"),
        }
    }
}

/// A client that sends frames by hand.
pub(super) struct Raw(pub(super) DuplexStream);

impl Raw {
    /// Begins a connection with these settings, as identifiers and values.
    pub(super) async fn begin(served: &mut Served, settings: &[(u16, u32)]) -> Self {
        let (client, _) = tokio::io::duplex(1);
        let mut raw = Self(std::mem::replace(&mut served.client, client));
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat()).await;
        raw
    }

    /// Sends bytes. The server may have ended the connection already.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let _ = within(self.0.write_all(bytes)).await;
    }

    /// The next frame; `None` at the end. It may take longer than other waits, in virtual time.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        tokio::time::timeout(10 * TIMEOUT, self.0.read_exact(&mut head)).await.unwrap().ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        within(self.0.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this type.
    pub(super) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            match self.next().await {
                Some(frame) if frame.kind == kind => return Some(frame),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// The error code of the connection's end.
    pub(super) async fn goaway(&mut self) -> Option<u32> {
        self.next_of(GOAWAY).await.map(|frame| frame.number(4))
    }
}
