//! The boundaries of WebSocket frames (RFC 6455 section 5), which a gateway needs to close a WebSocket.

/// The opcode of a Close frame (section 5.5.1).
const CLOSE: u8 = 8;

/// Maximum length of a frame's head: two bytes, a length of eight and a mask of four.
const MAX_HEAD: usize = 14;

/// The status code of an endpoint that goes away, for example a server that shuts down (section 7.4.1).
pub const GOING_AWAY: u16 = 1001;

/// Tracks the frames of one direction, whose bytes may arrive in any pieces. It does not read payloads.
///
/// ```
/// use vestibule::proto::websocket::FrameScanner;
///
/// let mut frames = FrameScanner::new();
/// frames.scan(b"\x81\x05hel"); // three of the five bytes of a text
/// assert!(!frames.is_at_boundary());
/// frames.scan(b"lo");
/// assert!(frames.is_at_boundary() && !frames.has_closed());
/// ```
#[derive(Debug, Clone, Default)]
pub struct FrameScanner {
    /// The head of the current frame, while it is incomplete.
    head: [u8; MAX_HEAD],
    head_len: usize,
    payload_left: u64,
    has_closed: bool,
}

impl FrameScanner {
    /// Creates a scanner at the beginning of the first frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scans the next bytes.
    pub fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let n = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            if self.head_len == 0
                && let Some((head_len, payload_len)) = frame_head(bytes)
            {
                self.has_closed |= bytes[0] & 0x0f == CLOSE;
                self.payload_left = payload_len;
                bytes = &bytes[head_len..];
                continue;
            }
            // The head is cut.
            self.head[self.head_len] = bytes[0];
            self.head_len += 1;
            bytes = &bytes[1..];
            if let Some((_, payload_len)) = frame_head(&self.head[..self.head_len]) {
                self.has_closed |= self.head[0] & 0x0f == CLOSE;
                (self.head_len, self.payload_left) = (0, payload_len);
            }
        }
    }

    /// Returns whether all frames so far are complete, so that another one may follow. Between the fragments of a
    /// message it must be a control frame (section 5.4).
    pub fn is_at_boundary(&self) -> bool {
        self.head_len == 0 && self.payload_left == 0
    }

    /// Returns whether there was a Close frame, which no other frame may follow.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }
}

/// Returns the length of a frame's head and that of its payload, if the head is complete (section 5.2).
fn frame_head(bytes: &[u8]) -> Option<(usize, u64)> {
    let second = *bytes.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (extended, len) = match second & 0x7f {
        126 => (2, bytes.get(2..4).map(|b| u64::from(u16::from_be_bytes([b[0], b[1]])))),
        127 => (8, bytes.get(2..10).and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)))),
        short => (0, Some(u64::from(short))),
    };
    let head_len = 2 + extended + mask;
    len.filter(|_| bytes.len() >= head_len).map(|len| (head_len, len))
}

/// Returns a Close frame with a code. Frames of a client are masked (section 5.3), those of a server are not.
pub fn close_frame(code: u16, mask: Option<[u8; 4]>) -> Vec<u8> {
    let [a, b] = code.to_be_bytes();
    match mask {
        None => vec![0x80 | CLOSE, 2, a, b],
        Some([w, x, y, z]) => vec![0x80 | CLOSE, 0x82, w, x, y, z, a ^ w, b ^ x],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of each form, with the bytes of their payload.
    fn frames() -> Vec<(Vec<u8>, usize)> {
        let mut frames = Vec::new();
        for (len, form) in [(0, 0), (125, 0), (126, 2), (65_535, 2), (65_536, 8), (5, 8)] {
            for mask in [0, 4] {
                let short = match form {
                    0 => u8::try_from(len).unwrap(),
                    2 => 126,
                    _ => 127,
                };
                let mut head = vec![0x81, short | if mask == 0 { 0 } else { 0x80 }];
                head.extend(&(len as u64).to_be_bytes()[8 - form..]);
                head.resize(head.len() + mask, 0xff);
                frames.push((head, len));
            }
        }
        frames
    }

    #[test]
    fn scanner_finds_the_end_of_each_frame_however_it_is_cut() {
        for (head, len) in frames() {
            for (at, cut) in [(1, 1), (head.len(), 1), (head.len(), 1000)] {
                let mut frame = head.clone();
                frame.resize(head.len() + len, 0x88);
                let mut scanner = FrameScanner::new();
                scanner.scan(&frame[..at]);
                assert_eq!(scanner.is_at_boundary(), at == frame.len(), "{head:?}");
                for piece in frame[at..].chunks(cut) {
                    assert!(!scanner.is_at_boundary(), "{head:?}");
                    scanner.scan(piece);
                }
                assert!(scanner.is_at_boundary() && !scanner.has_closed(), "{head:?}");
                scanner.scan(&[0x81]);
                assert!(!scanner.is_at_boundary());
            }
        }
    }

    #[test]
    fn close_frame_is_recognized_with_and_without_a_mask() {
        assert_eq!(close_frame(GOING_AWAY, None), [0x88, 2, 3, 0xe9]);
        for mask in [None, Some([1, 2, 3, 4])] {
            let mut scanner = FrameScanner::new();
            scanner.scan(b"\x01\x01x\x80\x01y");
            assert!(scanner.is_at_boundary() && !scanner.has_closed());
            scanner.scan(&close_frame(GOING_AWAY, mask));
            assert!(scanner.is_at_boundary() && scanner.has_closed());
        }
    }

    #[test]
    fn frame_of_any_length_does_not_overflow() {
        let mut scanner = FrameScanner::new();
        scanner.scan(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255]);
        scanner.scan(&[0; 1 << 16]);
        assert!(!scanner.is_at_boundary());
    }
}
