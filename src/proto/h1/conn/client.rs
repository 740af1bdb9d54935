//! The methods of a client: writing requests.

use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, response};

use super::{
    super::{
        Misuse,
        encode::{self, Framing},
        framing,
    },
    Client, Conn, Reading, Writing,
};

impl Conn<Client> {
    /// Sends a request's head; `length` is that of the body, `None` if unknown (then chunked).
    ///
    /// `prepared` holds complete field lines, which are written unchanged. `Connection: close` in
    /// `headers` disables keep-alive; this method writes the `Connection` field itself.
    ///
    /// # Errors
    /// [`Misuse::State`] unless the connection is idle, [`Misuse::Target`] for a target that has no form
    /// for its method, [`Misuse::Length`] for a `Content-Length` that contradicts `length`.
    #[allow(clippy::too_many_arguments, reason = "a request head has so many parts")]
    pub fn send_head(
        &mut self,
        now: Instant,
        method: &Method,
        target: &Uri,
        headers: &HeaderMap,
        length: Option<u64>,
        prepared: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        let upgrade = self.role.next_upgrade.take(); // even if this request is refused
        if !self.is_idle() {
            return Err(Misuse::State);
        }
        let before = out.len();
        out.reserve(512);
        if !encode::request_line(method, target, out) {
            return Err(Misuse::Target);
        }
        let (framing, writing) = request_framing(method, length);
        let target_host = || {
            let host = target.authority().map_or("", |a| a.as_str());
            host.rsplit_once('@').map_or(host, |(_user, host)| host).as_bytes()
        };
        let host = headers.get(header::HOST).map_or_else(target_host, HeaderValue::as_bytes);
        let own_fields = encode::request_fields(headers, host, out);
        if let (Some(own), Some(n)) = (own_fields.content_length, length)
            && framing::parse_content_length(own) != Some(n)
        {
            out.truncate(before);
            return Err(Misuse::Length);
        }
        let expects_continue = own_fields.expects_continue;
        if own_fields.connection.has_close() {
            self.keep_alive = false;
        }
        let has_switch = *method == Method::GET && length == Some(0);
        let upgrade = upgrade.filter(|_| has_switch);
        if let Some(protocol) = &upgrade {
            encode::field(b"upgrade", protocol.as_bytes(), out);
            encode::field(b"connection", b"upgrade", out);
        }
        self.role.upgrade = upgrade;
        self.role.has_switched = false;
        encode::end_head(prepared, framing, self.keep_alive, Version::HTTP_11, out);
        self.role.method.clone_from(method);
        self.role.interim = 0;
        self.role.interim_heads.clear();
        self.role.awaits_continue = expects_continue && length != Some(0);
        self.writing = writing;
        self.reading = Reading::Idle { is_head_due: true };
        self.since = now;
        Ok(())
    }

    /// Returns whether the request has `Expect: 100-continue`, and neither `100 Continue` nor a final response
    /// has arrived. The driver should not send the body yet, but must not wait for long (RFC 9110 section
    /// 10.1.1).
    pub fn awaits_continue(&self) -> bool {
        self.role.awaits_continue && self.is_awaiting_response()
    }

    /// Makes the next request ask for a switch to `protocol` (RFC 9110 section 7.8), if it is a GET without a body: it is
    /// sent with `Upgrade` and `Connection`. Such fields in its headers are never sent.
    pub fn ask_for_switch(&mut self, protocol: HeaderValue) {
        self.role.next_upgrade = Some(protocol);
    }

    /// Returns whether the server has switched to the protocol that the request asked for: the head of a response of
    /// 101 has been received, and all bytes after it are of that protocol. A 101 that was not asked for, or that names
    /// another protocol, is [`Fault::Switched`](super::super::Fault::Switched).
    pub fn has_switched(&self) -> bool {
        self.role.has_switched
    }

    /// Returns the next interim response that has arrived, in order, except for 100. A driver that does not
    /// relay them need not take them: those of a former exchange are dropped, and
    /// [`max_interim_responses`](super::super::Limits::max_interim_responses) bounds their number.
    pub fn take_interim(&mut self) -> Option<response::Parts> {
        self.role.interim_heads.pop_front()
    }
}

/// Returns the framing of a request's body, and the state of the writing half after its head.
fn request_framing(method: &Method, length: Option<u64>) -> (Framing, Writing) {
    match length {
        // RFC 9110 section 8.6: methods that define a body send `Content-Length: 0` without one.
        Some(0) if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
            (Framing::Length(0), Writing::Length(0))
        }
        Some(0) => (Framing::None, Writing::Length(0)),
        Some(n) => (Framing::Length(n), Writing::Length(n)),
        None => (Framing::Chunked, Writing::Chunked),
    }
}
