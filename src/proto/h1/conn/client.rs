//! What only a client says: requests.

use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};

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
    /// `prepared` is whole field lines, written as they are. `Connection: close` in `headers` is
    /// heeded; the field itself is written here.
    ///
    /// # Errors
    /// [`Misuse`] out of turn, with a target that has no form for its method, or with a
    /// `Content-Length` that contradicts `length`.
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
        if !self.is_idle() {
            return Err(Misuse::State);
        }
        let before = out.len();
        out.reserve(512);
        if !encode::request_line(method, target, out) {
            return Err(Misuse::Target);
        }
        let (framing, writing) = match length {
            // RFC 9110 section 8.6: methods that expect a body say that there is none.
            Some(0) if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
                (Framing::Length(0), Writing::Length(0))
            }
            Some(0) => (Framing::None, Writing::Length(0)),
            Some(n) => (Framing::Length(n), Writing::Length(n)),
            None => (Framing::Chunked, Writing::Chunked),
        };
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
        if own_fields.connection.has_close() {
            self.keep_alive = false;
        }
        encode::end_head(prepared, framing, self.keep_alive, Version::HTTP_11, out);
        self.role = Client { method: method.clone(), interim: 0 };
        self.writing = writing;
        self.reading = Reading::Idle { is_first: true };
        self.since = now;
        Ok(())
    }
}
