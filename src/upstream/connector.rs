//! `Connector`: connects to one server, with TLS if it is configured.

use std::io;

use crate::net::{
    Address, Stream,
    tls::{self, MaybeTls},
};

/// A stream to a server.
pub(super) type ServerStream = MaybeTls<Stream>;

/// The address of a server, and the verification of its certificate.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    address: Address,
    /// An error of the configuration is returned by each attempt to connect.
    tls: Option<Result<tls::Client, String>>,
}

impl Connector {
    /// Creates a connector without TLS.
    pub(super) fn plain(address: Address) -> Self {
        Self { address, tls: None }
    }

    /// Creates a connector with TLS for `host`, which offers these application protocols (ALPN).
    pub(super) fn secure(
        address: Address,
        host: &str,
        client: io::Result<&tls::Client>,
        alpn: &[&[u8]],
    ) -> Self {
        let client = client.and_then(|client| client.for_server(host, alpn));
        Self { address, tls: Some(client.map_err(|error| error.to_string())) }
    }

    /// Connects. The caller applies the timeout.
    pub(super) async fn connect(&self) -> io::Result<ServerStream> {
        match &self.tls {
            None => Ok(tls::plain(Stream::connect(&self.address).await?)),
            Some(Ok(client)) => client.connect(Stream::connect(&self.address).await?).await,
            Some(Err(error)) => Err(io::Error::new(io::ErrorKind::InvalidInput, error.clone())),
        }
    }
}
