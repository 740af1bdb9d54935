//! The chunked coding (RFC 9112 section 7.1), decoded from a buffer.
//!
//! ```text
//!   Size ──size line──▶ Data ──all of it──▶ DataEnd ──CRLF──▶ Size
//!     └──size 0──▶ Trailers ──empty line──▶ (end)
//! ```

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, header};

use super::{
    Fault, Limits,
    framing::MAX_LENGTH,
    head::{Lines, Section},
    name::KnownField,
    scan,
};

/// A decoder of one body.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// Extension bytes so far in the whole body.
    extensions: usize,
}

#[derive(Debug)]
enum State {
    /// Expects a size line; its first `scanned` bytes contain no LF.
    Size {
        scanned: usize,
    },
    /// Expects this many more bytes of the chunk.
    Data(u64),
    /// Expects the CRLF after a chunk.
    DataEnd,
    Trailers(Lines),
}

/// The result of one decoding step.
#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    End(Option<HeaderMap>),
    /// The input does not hold a whole line.
    NeedsInput,
}

/// 16 hex digits are 64 bits.
const SIZE_DIGITS: usize = 16;

impl Decoder {
    pub(super) fn new() -> Self {
        Self { state: State::Size { scanned: 0 }, extensions: 0 }
    }

    /// Decodes one step and removes its bytes from the front of `input`.
    pub(super) fn step(&mut self, input: &mut BytesMut, limits: &Limits) -> Result<Step, Fault> {
        loop {
            match &mut self.state {
                State::Size { scanned } => {
                    let Some(at) = memchr::memchr(b'\n', &input[*scanned..]) else {
                        *scanned = input.len();
                        // Digits, the extensions that are still allowed, and CR.
                        let left = limits.chunk_extension_bytes - self.extensions;
                        let most = left.saturating_add(SIZE_DIGITS + 1);
                        return if input.len() > most {
                            Err(Fault::Chunk)
                        } else {
                            Ok(Step::NeedsInput)
                        };
                    };
                    let lf = *scanned + at;
                    let line = input[..lf].strip_suffix(b"\r").ok_or(Fault::Chunk)?;
                    let (size, extension) = parse_size_line(line)?;
                    self.extensions += extension;
                    if self.extensions > limits.chunk_extension_bytes {
                        return Err(Fault::Chunk);
                    }
                    input.advance(lf + 1);
                    self.state = match size {
                        0 => State::Trailers(Lines::default()),
                        n => State::Data(n),
                    };
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(Step::NeedsInput);
                    }
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Step::Data(input.split_to(n).freeze()));
                }
                State::DataEnd => match input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size { scanned: 0 };
                    }
                    [] | [b'\r'] => return Ok(Step::NeedsInput),
                    _ => return Err(Fault::Chunk),
                },
                State::Trailers(lines) => return read_trailers(lines, input, limits),
            }
        }
    }
}

/// Parses `chunk-size [ chunk-ext ]`; returns the size and the number of bytes of the extension.
fn parse_size_line(line: &[u8]) -> Result<(u64, usize), Fault> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits == 0 || digits > SIZE_DIGITS {
        return Err(Fault::Chunk);
    }
    let size = line[..digits].iter().fold(0u64, |n, b| {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            _ => (b | 0x20) - b'a' + 10,
        };
        n << 4 | u64::from(digit)
    });
    let extension = &line[digits..];
    if !is_extension(extension) || size > MAX_LENGTH {
        return Err(Fault::Chunk);
    }
    Ok((size, extension.len()))
}

/// Returns whether this is `*( BWS ";" BWS name [ BWS "=" BWS value ] )`, where a value is a token or a
/// quoted string (RFC 9112 section 7.1.1).
fn is_extension(extension: &[u8]) -> bool {
    if !scan::is_field_value(extension) {
        return false; // an extension never contains a control byte
    }
    let mut rest = extension;
    while !rest.is_empty() {
        let Some(name) = skip_white(rest).strip_prefix(b";").map(skip_white) else { return false };
        let len = scan::token_len(name);
        if len == 0 {
            return false;
        }
        rest = &name[len..];
        if let Some(value) = skip_white(rest).strip_prefix(b"=").map(skip_white) {
            let len =
                if value.starts_with(b"\"") { quoted_len(value) } else { scan::token_len(value) };
            if len == 0 {
                return false;
            }
            rest = &value[len..];
        }
    }
    true
}

fn skip_white(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns the length of the quoted string at the front (RFC 9110 section 5.6.4); zero if it does not
/// end.
fn quoted_len(bytes: &[u8]) -> usize {
    let mut is_escaped = false;
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    0
}

fn read_trailers(lines: &mut Lines, input: &mut BytesMut, limits: &Limits) -> Result<Step, Fault> {
    if input.starts_with(b"\r\n") && lines.is_empty() {
        input.advance(2);
        return Ok(Step::End(None)); // most bodies have no trailers
    }
    let section = Section::of_trailers(limits);
    let Some(len) = lines.read(input, section, limits)? else { return Ok(Step::NeedsInput) };
    let block = input.split_to(len).freeze();
    if lines.fields.is_empty() {
        return Ok(Step::End(None));
    }
    let mut map = HeaderMap::new();
    lines.reserve(&mut map)?;
    for field in &lines.fields {
        let (name, known, _) = field.read(&block, lines)?;
        if known == KnownField::Ambiguous || is_forbidden_trailer(&name) {
            return Err(Fault::Trailer);
        }
        field.append(&mut map, name, &block, lines)?;
    }
    Ok(Step::End(Some(map)))
}

/// Returns whether this field must not be a trailer (RFC 9110 section 6.5.1): fields that frame, route
/// or authenticate a message, make it conditional, describe its body or identify its client.
pub(in crate::proto) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 27] = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRAILER,
        header::TE,
        header::CONNECTION,
        header::UPGRADE,
        header::EXPECT,
        header::RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
        header::COOKIE,
        header::SET_COOKIE,
        header::LOCATION,
        header::CACHE_CONTROL,
        header::MAX_FORWARDS,
        header::AGE,
    ];
    const OTHERS: [&str; 4] = ["keep-alive", "proxy-connection", "http2-settings", "proxy"];
    NAMES.contains(name) || OTHERS.iter().any(|n| name == n) || identifies_client(name)
}

/// Returns whether this field identifies the client, as proxies do. Proxies remove and write such fields
/// in heads only, and some servers treat trailers as fields of the head, and `_` or `.` as `-`.
fn identifies_client(name: &HeaderName) -> bool {
    let begins = |known: &str| {
        let fits = |(n, k): (u8, u8)| n == k || k == b'-' && matches!(n, b'_' | b'.');
        name.as_str().len() >= known.len() && name.as_str().bytes().zip(known.bytes()).all(fits)
    };
    ["forwarded", "x-forwarded", "x-real-ip", "x-client-ip", "true-client-ip"]
        .iter()
        .any(|known| begins(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_of_size_line_is_read_once() {
        let limits = Limits::default();
        let line = format!("1;{}\r", "a".repeat(limits.chunk_extension_bytes - 1));
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
        for byte in line.bytes() {
            let before = input.len();
            assert!(matches!(decoder.state, State::Size { scanned } if scanned == before));
            input.extend_from_slice(&[byte]);
            assert!(matches!(decoder.step(&mut input, &limits), Ok(Step::NeedsInput)));
        }
        input.extend_from_slice(b"\na");
        assert!(matches!(decoder.step(&mut input, &limits), Ok(Step::Data(_))));
    }
}
