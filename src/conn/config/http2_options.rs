//! The options of connections with HTTP/2.

use super::{Config, Http2Config};

impl Config {
    /// Sets the options of HTTP/2, which is served where the client asks for it: by ALPN over TLS, and without
    /// TLS by the preface.
    #[must_use]
    pub fn http2(mut self, http2: Http2Config) -> Self {
        self.http2 = Some(http2);
        self
    }

    /// Serves HTTP/1.1 alone. A preface of HTTP/2 is a malformed request then, and a handshake of TLS does not
    /// offer `h2`.
    #[must_use]
    pub fn without_http2(mut self) -> Self {
        self.http2 = None;
        self
    }
}
