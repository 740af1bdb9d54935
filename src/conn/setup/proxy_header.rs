//! The stage of the PROXY header: reads that of a trusted sender, and finds one of any other client.

use std::{future::poll_fn, io};

use bytes::BytesMut;

use crate::{
    conn::thread_buffers,
    net::{self, Io},
    peer::ProxyAddresses,
    proto::proxy::{self, Fault},
};

/// The response to a connection without TLS, so that someone who tries the port by hand sees what it expects.
const RESPONSE: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\n\
    content-length: 55\r\n\
    connection: close\r\n\r\n\
    400 Bad Request: PROXY header missing or not permitted\n";

/// Why a connection is refused in this stage.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The sender is trusted, so its connections begin with a header.
    #[error("trusted sender sent no valid PROXY header: {0}")]
    Invalid(#[from] Fault),
    #[error("PROXY header from an address that is not trusted")]
    Untrusted,
    #[error("trusted sender closed the connection in its PROXY header")]
    Closed,
    #[error("PROXY header could not be read: {0}")]
    Io(#[from] io::Error),
}

/// Takes the header of a trusted sender from the front of `input`, which it fills as far as necessary: at most by one
/// read more than the longest header.
pub(super) async fn take<I: Io>(
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

/// Reads until it is clear that the client sends no header.
pub(super) async fn find_none<I: Io>(io: &mut I, input: &mut BytesMut) -> Result<(), HeaderError> {
    loop {
        match proxy::starts_header(input) {
            Some(true) => return Err(HeaderError::Untrusted),
            Some(false) => return Ok(()),
            None => {}
        }
        if read(io, input).await? == 0 {
            return Ok(()); // the next stage finds the end, too
        }
    }
}

async fn read<I: Io>(io: &mut I, input: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| thread_buffers::poll_read(io, cx, input)).await
}

/// Ends a refused connection in order.
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
