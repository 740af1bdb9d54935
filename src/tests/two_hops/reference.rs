//! The reference: a slow and simple parser of HTTP/1.1 messages for tests. It shares no code with the crate's parser and
//! accepts only the strictest form (RFC 9112).

/// A complete message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Method and target, or the status alone.
    pub(super) start: Vec<String>,
    /// The fields, with names in lower case.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
}

/// The reason for which there is no further message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The input ends between two messages.
    End,
    /// The input ends in the middle of a message.
    Middle,
    /// The next bytes are no message.
    Wrong(&'static str),
}

type Read<T> = Result<T, Stop>;

/// Returns all requests in the bytes.
pub(super) fn requests(bytes: &[u8]) -> (Vec<Message>, Stop) {
    let (mut reader, mut found) = (Reader(bytes), Vec::new());
    loop {
        match reader.request() {
            Ok(message) => found.push(message),
            Err(stop) => return (found, stop),
        }
        if closes(&found) {
            return (found, reader.end());
        }
    }
}

/// Returns all final responses in the bytes, to requests with these methods. `closed` means that an orderly end of the
/// connection follows.
pub(super) fn responses(bytes: &[u8], methods: &[&str], closed: bool) -> (Vec<Message>, Stop) {
    let (mut reader, mut found) = (Reader(bytes), Vec::new());
    for method in methods {
        match reader.response(method, closed) {
            Ok(message) => found.push(message),
            Err(stop) => return (found, stop),
        }
        if closes(&found) {
            break;
        }
    }
    (found, reader.end())
}

/// Returns whether the last message announces the close of the connection.
fn closes(found: &[Message]) -> bool {
    let last = found.last().expect("one was just read");
    values(&last.fields, "connection")
        .iter()
        .any(|v| v.split(|b| *b == b',').any(|o| o.trim_ascii().eq_ignore_ascii_case(b"close")))
}

struct Reader<'a>(&'a [u8]);

/// The length of a body.
enum Length {
    Bytes(usize),
    Chunks,
    Unsaid,
}

impl<'a> Reader<'a> {
    fn end(&self) -> Stop {
        if self.0.is_empty() { Stop::End } else { Stop::Wrong("bytes behind the last message") }
    }

    fn request(&mut self) -> Read<Message> {
        if self.0.is_empty() {
            return Err(Stop::End);
        }
        let line: Vec<&[u8]> = self.line()?.split(|b| *b == b' ').collect();
        let [method, target, b"HTTP/1.1"] = line[..] else {
            return Err(Stop::Wrong("request line"));
        };
        let origin = target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS");
        let visible = target.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b'#');
        if !is_token(method) || method == b"CONNECT" || !origin || !visible {
            return Err(Stop::Wrong("method or target"));
        }
        let start = vec![text(method), text(target)];
        let fields = self.fields()?;
        let [host] = values(&fields, "host")[..] else { return Err(Stop::Wrong("host")) };
        if host.is_empty() {
            return Err(Stop::Wrong("empty host"));
        }
        let (body, trailers) = match length(&fields)? {
            Length::Bytes(n) => (self.take(n)?.to_vec(), Vec::new()),
            Length::Chunks => self.chunks()?,
            Length::Unsaid => (Vec::new(), Vec::new()),
        };
        Ok(Message { start, fields, body, trailers })
    }

    fn response(&mut self, method: &str, closed: bool) -> Read<Message> {
        if self.0.is_empty() {
            return Err(Stop::End);
        }
        loop {
            let line = self.line()?;
            let Some([a, b, c, b' ', reason @ ..]) = line.strip_prefix(b"HTTP/1.1 ") else {
                return Err(Stop::Wrong("status line"));
            };
            let status = text(&[*a, *b, *c]);
            if !matches!(a, b'1'..=b'9') || !digits(status.as_bytes()) || !is_value(reason) {
                return Err(Stop::Wrong("status line"));
            }
            let fields = self.fields()?;
            let length = length(&fields)?;
            let said = !matches!(length, Length::Unsaid);
            if said && (*a == b'1' || status == "204") || status == "101" {
                return Err(Stop::Wrong("framing where no body can be, or an upgrade"));
            }
            if *a == b'1' {
                continue;
            }
            let none = method == "HEAD" || status == "204" || status == "304";
            let (body, trailers) = match length {
                _ if none => (Vec::new(), Vec::new()),
                Length::Bytes(n) => (self.take(n)?.to_vec(), Vec::new()),
                Length::Chunks => self.chunks()?,
                Length::Unsaid if closed => (std::mem::take(&mut self.0).to_vec(), Vec::new()),
                Length::Unsaid => return Err(Stop::Middle),
            };
            return Ok(Message { start: vec![status], fields, body, trailers });
        }
    }

    /// Reads a line without its CRLF. It contains no other CR or LF, and no NUL.
    fn line(&mut self) -> Read<&'a [u8]> {
        let end = self.0.windows(2).position(|w| w == b"\r\n");
        let line = &self.0[..end.unwrap_or(self.0.len())];
        let sure = if end.is_none() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        if sure.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(Stop::Wrong("CR, LF or NUL in a line"));
        }
        self.0 = &self.0[end.ok_or(Stop::Middle)? + 2..];
        Ok(line)
    }

    /// Reads field lines, including the empty line.
    fn fields(&mut self) -> Read<Vec<(String, Vec<u8>)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|b| *b == b':').ok_or(Stop::Wrong("no colon"))?;
            let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
            if !is_token(name) || !is_value(value) {
                return Err(Stop::Wrong("field"));
            }
            fields.push((text(name).to_ascii_lowercase(), value.to_vec()));
        }
    }

    fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        if n > self.0.len() {
            return Err(Stop::Middle);
        }
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a chunked body without extensions, and its trailers.
    #[allow(clippy::type_complexity, reason = "two lists")]
    fn chunks(&mut self) -> Read<(Vec<u8>, Vec<(String, Vec<u8>)>)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let hex = !line.is_empty() && line.iter().all(u8::is_ascii_hexdigit);
            let size = usize::from_str_radix(&text(line), 16);
            let (true, Ok(size)) = (hex, size) else { return Err(Stop::Wrong("chunk size")) };
            if size == 0 {
                break;
            }
            body.extend_from_slice(self.take(size)?);
            if !self.line()?.is_empty() {
                return Err(Stop::Wrong("chunk longer than its size"));
            }
        }
        let trailers = self.fields()?;
        let framing = ["content-length", "transfer-encoding", "host"];
        if framing.iter().any(|name| !values(&trailers, name).is_empty()) {
            return Err(Stop::Wrong("trailer that frames or routes"));
        }
        Ok((body, trailers))
    }
}

/// Returns the length by one plain `Content-Length`, one `Transfer-Encoding: chunked`, or neither.
fn length(fields: &[(String, Vec<u8>)]) -> Read<Length> {
    match (&values(fields, "content-length")[..], &values(fields, "transfer-encoding")[..]) {
        ([], []) => Ok(Length::Unsaid),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Length::Chunks),
        ([n], []) if digits(n) && (n.len() == 1 || n[0] != b'0') => {
            let n = text(n).parse::<u64>().map_err(|_| Stop::Wrong("length"))?;
            Ok(Length::Bytes(usize::try_from(n).map_err(|_| Stop::Wrong("length"))?))
        }
        _ => Err(Stop::Wrong("framing")),
    }
}

/// Returns all values of a name.
pub(super) fn values<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(n, _)| n == name).map(|(_, v)| &v[..]).collect()
}

fn digits(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

fn is_token(bytes: &[u8]) -> bool {
    let tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(tchar)
}

/// Returns whether a value has no control bytes except HTAB.
fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == b'\t' || !b.is_ascii_control())
}

fn trim(bytes: &[u8]) -> &[u8] {
    let inside = |b: &u8| !matches!(b, b' ' | b'\t');
    let Some(from) = bytes.iter().position(inside) else { return b"" };
    let to = bytes.iter().rposition(inside).expect("there is one");
    &bytes[from..=to]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
