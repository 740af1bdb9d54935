//! `Transport`: a connection that one stage passes to the next.

use std::time::Instant;

use bytes::BytesMut;

use crate::{
    net::{DrainWatch, clock},
    peer::Peer,
};

/// A connection between two stages: accepted and not yet driven, or returned by its driver after an
/// upgrade.
///
/// ```
/// use vestibule::{conn::Transport, net::DrainWatch, peer::Peer};
///
/// let (_client, io) = tokio::io::duplex(1 << 10);
/// let mut transport = Transport::new(io, Peer::memory(), DrainWatch::never());
/// // A stage that has read too much passes the rest to the next one.
/// transport.read_ahead.extend_from_slice(b"GET / HTTP/1.1\r\n");
/// ```
#[derive(Debug)]
pub struct Transport<I> {
    /// The stream.
    pub io: I,
    /// The client, as far as the previous stages know it.
    pub peer: Peer,
    /// Bytes that were read from the stream and belong to the next stage.
    pub read_ahead: BytesMut,
    /// When the connection was accepted. The timeout of the first head starts here, so that all stages
    /// before it share one deadline.
    pub accepted: Instant,
    /// The connection's part in a graceful shutdown, held until the connection has ended. Once the drain
    /// has begun, a stage without a complete request ends within a second.
    pub watch: DrainWatch,
}

impl<I> Transport<I> {
    /// Creates the transport of a connection that was accepted now and has not been read from.
    pub fn new(io: I, peer: Peer, watch: DrainWatch) -> Self {
        Self { io, peer, read_ahead: BytesMut::new(), accepted: clock::now(), watch }
    }
}
