//! `Transport`: what one stage of a connection hands to the next.

use std::time::Instant;

use bytes::BytesMut;

use crate::{
    net::{Watch, clock},
    peer::Peer,
};

/// A connection between two stages of its life: accepted and not yet driven, or given up by its
/// driver after an upgrade.
///
/// ```
/// use vestibule::{conn::Transport, net::Watch, peer::Peer};
///
/// let (_client, io) = tokio::io::duplex(1 << 10);
/// let mut transport = Transport::new(io, Peer::memory(), Watch::never());
/// // A stage that read too much leaves it to the next one.
/// transport.read_ahead.extend_from_slice(b"GET / HTTP/1.1\r\n");
/// ```
#[derive(Debug)]
pub struct Transport<I> {
    /// The stream.
    pub io: I,
    /// The client, as far as the stages so far have learned.
    pub peer: Peer,
    /// Bytes that were read from the stream and belong to the next stage.
    pub read_ahead: BytesMut,
    /// When the connection was accepted. The time to the first head counts from here, so that all
    /// stages before it share one deadline.
    pub accepted: Instant,
    /// Tells the connection when to end; held until it has. A stage that has no complete request ends
    /// within a second of it.
    pub watch: Watch,
}

impl<I> Transport<I> {
    /// A connection that was accepted now, of which nothing has been read.
    pub fn new(io: I, peer: Peer, watch: Watch) -> Self {
        Self { io, peer, read_ahead: BytesMut::new(), accepted: clock::now(), watch }
    }
}
