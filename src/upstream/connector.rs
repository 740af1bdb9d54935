//! `Connector`: makes connections to one server, with TLS if it has it.

use std::io;

use crate::net::{
    Address, Stream,
    tls::{self, MaybeTls},
};

/// A stream to a server.
pub(super) type ServerStream = MaybeTls<Stream>;

/// Where a server is, and how its certificate is verified.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    address: Address,
    /// An error of the configuration is reported by each connection.
    tls: Option<Result<tls::Client, String>>,
}

impl Connector {
    /// Without TLS.
    pub(super) fn plain(address: Address) -> Self {
        Self { address, tls: None }
    }

    /// With TLS to `host`, offering these protocols (ALPN).
    pub(super) fn secure(
        address: Address,
        host: &str,
        client: io::Result<&tls::Client>,
        alpn: &[&[u8]],
    ) -> Self {
        let client = client.and_then(|client| client.for_server(host, alpn));
        Self { address, tls: Some(client.map_err(|error| error.to_string())) }
    }

    /// Connects. The caller bounds its time.
    pub(super) async fn connect(&self) -> io::Result<ServerStream> {
        match &self.tls {
            None => Ok(tls::plain(Stream::connect(&self.address).await?)),
            Some(Ok(client)) => client.connect(Stream::connect(&self.address).await?).await,
            Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidInput, error.clone())),
        }
    }
}
