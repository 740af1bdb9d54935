//! `SentFrames`: tracks the frames that a server writes, to count the written data of each response.

use super::FrameMeter;

/// Bytes of a frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

const END_STREAM: u8 = 1;

/// The error codes of resets that a malformed or refused frame of the client has provoked (RFC 9113 section 7):
/// PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR and REFUSED_STREAM. A request that this server
/// gives up has another.
const PROVOKED: [u8; 5] = [1, 3, 5, 6, 7];

/// Tracks the frames of one direction, in pieces of any size. The crate `h2` does not report when it has written data.
#[derive(Debug, Default)]
pub(crate) struct SentFrames {
    header: [u8; HEADER],
    /// Received bytes of the header; `HEADER` while in the payload.
    header_len: usize,
    /// Remaining bytes of the payload.
    payload: usize,
    sent: Vec<Sent>,
    provoked_resets: u32,
}

/// The written part of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) stream: u32,
    /// Bytes of data.
    pub(crate) data: usize,
    /// Whether the server's last frame of the stream was written.
    pub(crate) has_ended: bool,
}

impl SentFrames {
    /// Records bytes that were written, also in the meter of the frames that they allow the client.
    pub(crate) fn record(&mut self, mut bytes: &[u8], meter: &mut FrameMeter) {
        while !bytes.is_empty() || (self.header_len == HEADER && self.payload == 0) {
            if self.header_len < HEADER {
                let n = bytes.len().min(HEADER - self.header_len);
                self.header[self.header_len..self.header_len + n].copy_from_slice(&bytes[..n]);
                self.header_len += n;
                bytes = &bytes[n..];
                if self.header_len == HEADER {
                    let [a, b, c, ..] = self.header;
                    self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    if self.header[3] == DATA {
                        meter.record_sent_data(self.payload);
                    }
                }
                continue;
            }
            let n = bytes.len().min(self.payload);
            self.payload -= n;
            self.record_payload(n, meter);
            if self.header[3] == RST_STREAM && self.payload == 0 {
                let is_provoked = bytes[..n].last().is_some_and(|code| PROVOKED.contains(code));
                self.provoked_resets += u32::from(is_provoked);
            }
            bytes = &bytes[n..];
            if self.payload == 0 {
                self.header_len = 0;
            }
        }
    }

    fn record_payload(&mut self, n: usize, meter: &mut FrameMeter) {
        let [_, _, _, kind, flags, a, b, c, d] = self.header;
        if !matches!(kind, DATA | HEADERS) {
            return;
        }
        let sent = Sent {
            stream: u32::from_be_bytes([a & 0x7f, b, c, d]),
            data: if kind == DATA { n } else { 0 },
            has_ended: flags & END_STREAM != 0 && self.payload == 0,
        };
        if sent.has_ended {
            meter.record_sent_end();
        }
        match self.sent.last_mut().filter(|last| last.stream == sent.stream) {
            Some(last) => {
                last.data += sent.data;
                last.has_ended |= sent.has_ended;
            }
            None if sent.data > 0 || sent.has_ended => self.sent.push(sent),
            None => {}
        }
    }

    /// Returns the number of resets that the client has provoked.
    pub(crate) fn provoked_resets(&self) -> u32 {
        self.provoked_resets
    }

    /// Takes the records since the last call, in exchange for an empty list.
    pub(crate) fn take(&mut self, empty: Vec<Sent>) -> Vec<Sent> {
        std::mem::replace(&mut self.sent, empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h2::FrameLimits;

    fn frame(kind: u8, flags: u8, stream: u8, payload: usize) -> Vec<u8> {
        let len = u8::try_from(payload).unwrap();
        [&[0, 0, len, kind, flags, 0, 0, 0, stream][..], &vec![0; payload]].concat()
    }

    #[test]
    fn data_of_each_stream_is_counted_in_every_split() {
        let sent = |stream, data, has_ended| Sent { stream, data, has_ended };
        let reset = |stream, code| vec![0, 0, 4, RST_STREAM, 0, 0, 0, 0, stream, 0, 0, 0, code];
        let bytes = [
            frame(4, 0, 0, 12),      // SETTINGS
            frame(HEADERS, 4, 1, 9), // a response with a body
            frame(DATA, 0, 1, 100),
            frame(HEADERS, 5, 3, 1), // one without
            frame(DATA, 1, 1, 0),    // the end alone
            frame(HEADERS, 4, 5, 3),
            frame(DATA, 0, 5, 7),
            frame(HEADERS, 5, 5, 2), // trailers
            reset(7, 8),             // CANCEL
            reset(9, 1),             // PROTOCOL_ERROR
        ]
        .concat();
        for size in 1..=bytes.len() {
            let mut frames = SentFrames::default();
            let mut meter = FrameMeter::new(FrameLimits::new());
            let mut all: Vec<Sent> = Vec::new();
            for piece in bytes.chunks(size) {
                frames.record(piece, &mut meter);
                for sent in frames.take(Vec::new()) {
                    match all.last_mut().filter(|last| last.stream == sent.stream) {
                        Some(last) => {
                            last.data += sent.data;
                            last.has_ended |= sent.has_ended;
                        }
                        None => all.push(sent),
                    }
                }
            }
            let expected =
                [sent(1, 100, false), sent(3, 0, true), sent(1, 0, true), sent(5, 7, true)];
            assert_eq!(all, expected, "{size}");
            assert_eq!(frames.provoked_resets(), 1, "{size}");
        }
    }
}
