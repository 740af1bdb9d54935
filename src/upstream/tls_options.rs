//! The options of servers with TLS.

use super::{
    RemoteBuilder, UpstreamBuilder,
    server_address::{Scheme, ServerAddress},
};
use crate::net::tls;

impl UpstreamBuilder {
    /// Sets how `https://` servers are verified, and the client certificate for them. Defaults to
    /// [`tls::Client::new`]: the roots of the system.
    pub fn tls(mut self, client: tls::Client) -> Self {
        self.remote.tls = Some(client);
        self
    }
}

impl RemoteBuilder {
    /// Connects with TLS, also to an address without `https://`, and sets how the server is verified. The default for
    /// `https://` is [`tls::Client::new`]: the roots of the system.
    pub fn tls(mut self, client: tls::Client) -> Self {
        self.address = ServerAddress::new(Scheme::Https, self.address.address().clone());
        self.options.tls = Some(client);
        self
    }
}
