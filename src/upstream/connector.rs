//! `Connector`: connects to one server, with TLS if it is configured.

use std::io;

use crate::net::{
    Address, KeepAlive, Stream,
    tls::{self, MaybeTls},
};

/// A stream to a server.
pub(super) type ServerStream = MaybeTls<Stream>;

/// The address of a server, the verification of its certificate, and the options of connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    address: Address,
    /// An error of the configuration is returned by each attempt to connect.
    tls: Option<Result<tls::Client, String>>,
    keep_alive: KeepAlive,
}

impl Connector {
    /// Creates a connector without TLS.
    pub(super) fn plain(address: Address, keep_alive: KeepAlive) -> Self {
        Self { address, tls: None, keep_alive }
    }

    /// Creates a connector with TLS for `host`, which offers these application protocols (ALPN).
    pub(super) fn secure(
        address: Address,
        host: &str,
        client: io::Result<&tls::Client>,
        alpn: &[&[u8]],
        keep_alive: KeepAlive,
    ) -> Self {
        let client = client.and_then(|client| client.for_server(host, alpn));
        let tls = Some(client.map_err(|error| error.to_string()));
        Self { address, tls, keep_alive }
    }

    /// Connects. The caller applies the timeout.
    pub(super) async fn connect(&self) -> io::Result<ServerStream> {
        match &self.tls {
            None => Ok(tls::plain(self.open().await?)),
            Some(Ok(client)) => client.connect(self.open().await?).await,
            Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidInput, error.clone())),
        }
    }

    async fn open(&self) -> io::Result<Stream> {
        let stream = Stream::connect(&self.address).await?;
        stream.set_keep_alive(&self.keep_alive);
        Ok(stream)
    }
}
