//! The server's handshake: from the first byte to a stream and its connection facts.

use std::{io, pin::pin, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    rustls::{
        self, ProtocolVersion, ServerConnection,
        server::{Accepted, AcceptedAlert, Acceptor},
    },
    server::StartHandshake,
};

use super::{MaybeTls, Server, counted::Counted};
use crate::{
    net::{self, Io},
    peer::Tls,
};

/// The content type of a record with a handshake message (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// The fatal alert `unrecognized_name` in a record (RFC 6066 section 3): type 21, version 3.3, two bytes.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Bytes of one read: most ClientHellos have 250 to 1,800.
const READ_SIZE: usize = 4 << 10;

/// Time for which a handshake counts in the bound: 250 ms, enough for two round trips to most clients.
const PERMIT_TIME: Duration = Duration::from_millis(250);

/// The response to HTTP without TLS, with the status and much of the text that nginx sends.
pub(super) const USE_HTTPS: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 66\r\n\
    connection: close\r\n\r\n\
    400 Bad Request: plain HTTP was sent to an HTTPS port, use https:\n";

/// The cause of a failed handshake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The client closed the connection before the handshake was complete.
    #[error("the client closed the connection during the TLS handshake")]
    Closed,
    /// The client sent HTTP without TLS. It was answered with 400.
    #[error("the client sent plain HTTP to a TLS port")]
    PlainHttp,
    /// The client sent neither TLS nor HTTP.
    #[error("the client's first byte, {0:#04x}, does not begin a TLS handshake")]
    NotTls(u8),
    /// No host has the requested name, and [`UnknownName::Alert`](super::UnknownName::Alert) is set.
    #[error("the client requested the unknown host {0:?}")]
    UnknownName(String),
    /// The client violated the protocol, or there is no common version, cipher suite or ALPN protocol.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The connection failed, or the client rejected the certificate.
    #[error("TLS handshake failed: {0}")]
    Io(#[from] io::Error),
}

impl Server {
    /// Performs a handshake. `received` contains bytes that were read ahead. The caller applies the timeout, and says
    /// whether it can serve HTTP/2.
    pub(crate) async fn accept<I: Io>(
        &self,
        mut io: I,
        mut received: BytesMut,
        has_http2: bool,
    ) -> Result<(MaybeTls<I>, Tls), HandshakeError> {
        let accepted = read_client_hello(&mut io, &mut received).await?;
        let name = accepted.client_hello().server_name().map(str::to_owned);
        let Some(config) = self.config_for(name.as_deref(), has_http2) else {
            io.write_all(&UNRECOGNIZED_NAME).await?;
            io.shutdown().await?;
            return Err(HandshakeError::UnknownName(name.unwrap_or_default()));
        };
        // After the ClientHello is complete: a client that sends nothing must not hold a permit.
        let permit = self.handshakes().acquire().await.expect("it is never closed");
        let io = Counted::new(io).with_input(received);
        let mut handshake = pin!(StartHandshake::from_parts(accepted, io).into_stream(config));
        let stream = match tokio::time::timeout(PERMIT_TIME, &mut handshake).await {
            Ok(stream) => stream,
            Err(_) => {
                drop(permit); // the client has stopped, or is far away
                handshake.await
            }
        };
        let stream = stream.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => HandshakeError::Closed,
            _ => HandshakeError::Io(e),
        })?;
        let facts = facts(stream.get_ref().1);
        Ok((MaybeTls::secured(stream), facts))
    }
}

/// Reads until the ClientHello is complete. Bytes behind it remain in `received`. Answers clients that do not use TLS.
async fn read_client_hello<I: Io>(
    io: &mut I,
    received: &mut BytesMut,
) -> Result<Accepted, HandshakeError> {
    let mut acceptor = Acceptor::default();
    let mut is_first = true;
    loop {
        if received.is_empty() {
            received.reserve(READ_SIZE);
            if io.read_buf(received).await? == 0 {
                return Err(HandshakeError::Closed);
            }
        }
        if is_first && received[0] != HANDSHAKE_RECORD {
            return Err(refuse(io, received[0]).await);
        }
        is_first = false;
        while !received.is_empty() {
            let n = acceptor.read_tls(&mut &received[..])?;
            received.advance(n);
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) if n == 0 => return Err(HandshakeError::Closed),
                Ok(None) => {}
                Err((error, alert)) => return Err(send_alert(io, error, alert).await),
            }
        }
    }
}

/// Sends the alert for an invalid ClientHello.
async fn send_alert<I: Io>(
    io: &mut I,
    error: rustls::Error,
    mut alert: AcceptedAlert,
) -> HandshakeError {
    let mut bytes = Vec::new();
    if alert.write_all(&mut bytes).is_ok() && io.write_all(&bytes).await.is_ok() {
        let _ = io.shutdown().await; // the handshake has failed in any case
    }
    HandshakeError::Tls(error)
}

/// Answers a client that does not use TLS, if it seems to use HTTP.
async fn refuse<I: Io>(io: &mut I, first: u8) -> HandshakeError {
    if !first.is_ascii_uppercase() {
        return HandshakeError::NotTls(first);
    }
    let _ = net::refuse(io, USE_HTTPS.as_bytes()).await; // the client may be gone
    HandshakeError::PlainHttp
}

/// Returns the facts of a complete handshake.
fn facts(session: &ServerConnection) -> Tls {
    let mut facts = Tls::new(match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3", // rustls speaks no other version
    });
    if let Some(name) = session.server_name() {
        facts = facts.with_server_name(name);
    }
    if let Some(protocol) = session.alpn_protocol() {
        facts = facts.with_alpn(protocol.to_vec());
    }
    if let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) {
        facts = facts.with_client_certificate(certificate.to_vec());
    }
    facts
}
