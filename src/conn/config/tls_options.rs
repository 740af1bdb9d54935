//! The option of connections with TLS.

use super::Config;
use crate::net::tls;

impl Config {
    /// Sets the TLS side of the listener: each connection begins with a handshake, within the time of its first
    /// head. Without it connections are plain.
    #[must_use]
    pub fn tls(mut self, tls: tls::Server) -> Self {
        self.tls = Some(tls);
        self
    }
}
