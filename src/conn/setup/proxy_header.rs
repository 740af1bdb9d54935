//! The stage of the PROXY header: reads it from a trusted sender, and refuses it from any other client.

use std::{future::poll_fn, io};

use bytes::BytesMut;

use crate::{
    conn::thread_buffers,
    net::{self, Io},
    peer::ProxyAddresses,
    proto::proxy::{self, Fault},
};

/// The response on a connection without TLS, for someone who tries the port by hand.
const RESPONSE: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 55\r\n\
    connection: close\r\n\r\n\
    400 Bad Request: PROXY header missing or not permitted\n";

/// The reason why a connection is refused in this stage.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// A trusted sender must send a valid header.
    #[error("trusted sender sent no valid PROXY header: {0}")]
    Invalid(#[from] Fault),
    #[error("PROXY header from an address that is not trusted (see ProxyProtocol::trust)")]
    Untrusted,
    #[error("trusted sender closed the connection in its PROXY header")]
    Closed,
    #[error("PROXY header could not be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header of a trusted sender, and removes it from the front of `input`, which may get bytes of the next
/// stage: at most one read more than the longest header.
pub(crate) async fn take<I: Io>(
    io: &mut I,
    input: &mut BytesMut,
) -> Result<Option<ProxyAddresses>, HeaderError> {
    loop {
        if let Some(header) = proxy::parse(input)? {
            return Ok(header.addresses);
        }
        if read(io, input).await? == 0 {
            return Err(HeaderError::Closed);
        }
    }
}

/// Reads until the first bytes cannot be those of a header.
///
/// # Errors
/// [`HeaderError::Untrusted`] if they are.
pub(super) async fn ensure_none<I: Io>(
    io: &mut I,
    input: &mut BytesMut,
) -> Result<(), HeaderError> {
    loop {
        match proxy::starts_header(input) {
            Some(true) => return Err(HeaderError::Untrusted),
            Some(false) => return Ok(()),
            None => {}
        }
        if read(io, input).await? == 0 {
            return Ok(()); // the next stage handles the end of the stream
        }
    }
}

async fn read<I: Io>(io: &mut I, input: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| thread_buffers::poll_read(io, cx, input)).await
}

/// Answers a refused connection, and closes it without a reset.
pub(super) async fn refuse<I: Io>(io: &mut I, has_tls: bool) {
    let response = if has_tls { &[] } else { RESPONSE.as_bytes() };
    let _ = net::refuse(io, response).await; // the client may be gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_its_length() {
        let (head, body) = RESPONSE.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
