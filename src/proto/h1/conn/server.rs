//! The methods of a server: writing responses.

use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode, Version};

use super::{
    super::{
        Misuse,
        encode::{self, Framing},
        framing,
    },
    Conn, Reading, Server, Writing,
};

/// Bytes reserved for a response head: enough for most, so that the buffer grows once.
const HEAD_ROOM: usize = 512;

impl Conn<Server> {
    /// Returns whether the client waits for `100 Continue` before it sends the body. `false` once some of
    /// the body has arrived or the response has begun.
    pub fn wants_continue(&self) -> bool {
        self.role.expects_continue && self.writing == Writing::Idle && self.is_reading_body()
    }

    /// Sends `100 Continue` if the client [waits for it](Self::wants_continue).
    pub fn send_continue(&mut self, out: &mut BytesMut) {
        if self.wants_continue() {
            self.role.expects_continue = false;
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Returns whether the `Connection` of the current request has the option `upgrade`.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for the driver"))]
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.role.has_upgrade
    }

    /// Returns whether the `Connection` of the current request has options that are usually names of fields: others than
    /// `close`, `keep-alive` and `upgrade`.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for the driver"))]
    pub(crate) fn names_fields(&self) -> bool {
        self.role.names_fields
    }

    /// Sends an interim response, such as 103 Early Hints (RFC 8297), before the final one.
    ///
    /// # Errors
    /// [`Misuse::State`] unless a request of HTTP/1.1 waits for its response: a client of HTTP/1.0 knows none
    /// (RFC 9110 section 15.2). [`Misuse::Status`] for a status that is final, for 100, which
    /// [`send_continue`](Self::send_continue) sends, and for 101.
    pub fn send_interim(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        let is_new = self.role.version != Version::HTTP_10;
        if self.writing != Writing::Idle || !self.role.response_pending || !is_new {
            return Err(Misuse::State);
        }
        let is_other = matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS);
        if !status.is_informational() || is_other {
            return Err(Misuse::Status);
        }
        encode::status_line(status, out);
        encode::fields(headers, out);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Sends a final response's head; `length` is that of the body, `None` if unknown.
    ///
    /// `date` is the whole `Date` field line, with its CRLF; it is written unless the head has a
    /// `Date` of its own. This method alone writes the framing fields and `Connection`. With HEAD,
    /// 204 and 304 no body may follow; a HEAD response keeps the head's own `Content-Length`.
    ///
    /// # Errors
    /// [`Misuse::State`] unless a request waits for its response, [`Misuse::Status`] for a status below
    /// 200, and for a success of CONNECT, which begins a tunnel ([`send_connected`](Self::send_connected)),
    /// [`Misuse::Length`] for a `Content-Length` that contradicts `length`.
    pub fn send_head(
        &mut self,
        now: Instant,
        status: StatusCode,
        headers: &HeaderMap,
        length: Option<u64>,
        date: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        if self.writing != Writing::Idle || !self.role.response_pending {
            return Err(Misuse::State);
        }
        if status.is_informational() || (self.role.is_connect && status.is_success()) {
            return Err(Misuse::Status);
        }
        let before = out.len();
        let is_head = std::mem::take(&mut self.role.is_head);
        out.reserve(HEAD_ROOM + date.len());
        encode::status_line(status, out);
        let own_fields = encode::fields(headers, out);
        let own = own_fields.content_length;
        let (framing, writing) = if has_no_content(status) {
            (Framing::None, Writing::Length(0))
        } else if is_head {
            (head_response_framing(own, length), Writing::Length(0))
        } else {
            self.framing(own, length).inspect_err(|_| out.truncate(before))?
        };
        if self.wants_continue() {
            // The client may or may not send the body now, so the connection cannot be reused.
            self.keep_alive = false;
        }
        if writing == Writing::UntilClose || own_fields.connection.has_close() {
            self.keep_alive = false;
        }
        let date = if own_fields.has_date { b"" } else { date };
        encode::end_head(date, framing, self.keep_alive, self.role.version, out);
        self.role.response_pending = false;
        self.writing = writing;
        self.since = now;
        Ok(())
    }

    fn framing(
        &self,
        own: Option<&[u8]>,
        length: Option<u64>,
    ) -> Result<(Framing, Writing), Misuse> {
        let own = match own {
            Some(v) => Some(framing::parse_content_length(v).ok_or(Misuse::Length)?),
            None => None,
        };
        match (own, length) {
            (Some(a), Some(b)) if a != b => Err(Misuse::Length),
            (_, Some(n)) | (Some(n), None) => Ok((Framing::Length(n), Writing::Length(n))),
            (None, None) if self.role.version == Version::HTTP_10 => {
                Ok((Framing::None, Writing::UntilClose))
            }
            (None, None) => Ok((Framing::Chunked, Writing::Chunked)),
        }
    }

    /// Sends the head of `101 Switching Protocols`, after which the connection is another protocol's (RFC 9110
    /// section 15.2.2). `protocol` is the value of `Upgrade`.
    ///
    /// # Errors
    /// [`Misuse::State`] unless a complete request without a body waits for its response.
    pub fn send_switch(
        &mut self,
        headers: &HeaderMap,
        protocol: &[u8],
        date: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        if self.role.is_connect || !self.can_switch() {
            return Err(Misuse::State);
        }
        self.begin_switch(StatusCode::SWITCHING_PROTOCOLS, headers, date, out);
        encode::field(b"upgrade", protocol, out);
        out.extend_from_slice(b"connection: upgrade\r\n\r\n");
        Ok(())
    }

    /// Sends the head of a success of CONNECT, after which the connection is a tunnel. It has no framing fields (RFC
    /// 9110 section 9.3.6).
    ///
    /// # Errors
    /// [`Misuse::State`] unless a request of CONNECT waits for its response, [`Misuse::Status`] for a status that is no
    /// success.
    pub fn send_connected(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        date: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        if !self.role.is_connect || !self.can_switch() {
            return Err(Misuse::State);
        }
        if !status.is_success() {
            return Err(Misuse::Status);
        }
        self.begin_switch(status, headers, date, out);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Whether a complete request waits for its response.
    fn can_switch(&self) -> bool {
        let is_complete = matches!(self.reading, Reading::Done);
        self.writing == Writing::Idle && self.role.response_pending && is_complete
    }

    /// Writes the head of the last response, without its end.
    fn begin_switch(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        date: &[u8],
        out: &mut BytesMut,
    ) {
        encode::status_line(status, out);
        let own_fields = encode::fields(headers, out);
        if !own_fields.has_date {
            out.extend_from_slice(date);
        }
        self.role.response_pending = false;
        self.keep_alive = false;
        self.reading = Reading::Closed;
        self.writing = Writing::Closed;
    }

    /// Writes a short text response, with or without a request, and closes the connection.
    ///
    /// Returns `false` and writes nothing if a response has already begun or `status` is not final.
    pub fn send_error(&mut self, status: StatusCode, date: &[u8], out: &mut BytesMut) -> bool {
        if self.writing != Writing::Idle || status.is_informational() {
            return false;
        }
        encode::status_line(status, out);
        out.extend_from_slice(date);
        let reason = status.canonical_reason().unwrap_or_default();
        let is_head = self.role.is_head;
        let has_no_body = has_no_content(status);
        let len = if is_head { 0 } else { 3 + 1 + reason.len() + 1 };
        let fields: &[u8] = match status {
            _ if has_no_body => b"",
            // A full queue has usually moved on after a second.
            StatusCode::SERVICE_UNAVAILABLE => {
                b"content-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
            }
            _ => b"content-type: text/plain; charset=utf-8\r\n",
        };
        let framing = if has_no_body { Framing::None } else { Framing::Length(len as u64) };
        encode::end_head(fields, framing, false, Version::HTTP_11, out);
        if !is_head && !has_no_body {
            for part in [status.as_str(), " ", reason, "\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        self.keep_alive = false;
        self.reading = Reading::Closed;
        self.writing = Writing::Closed;
        true
    }
}

/// Returns whether responses with this final status end with their head (RFC 9112 section 6.3).
fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Returns the framing of a response to HEAD: that of the response to GET.
fn head_response_framing(own: Option<&[u8]>, length: Option<u64>) -> Framing {
    match own.and_then(framing::parse_content_length) {
        Some(n) => Framing::Length(n),
        // An empty body does not tell the length of the response to GET.
        None => match length {
            Some(n) if n > 0 => Framing::Length(n),
            _ => Framing::None,
        },
    }
}
