//! The options of a server with HTTP/2.

use super::Serve;
use crate::conn::{Config, Http2Config};

impl<S> Serve<S> {
    /// Sets the options of HTTP/2. It changes no other option.
    pub fn http2(self, http2: Http2Config) -> Self {
        self.with(|config| config.http2(http2))
    }

    /// Serves HTTP/1.1 alone. With TLS, `h2` is not offered by ALPN then.
    pub fn without_http2(self) -> Self {
        self.with(Config::without_http2)
    }
}
