//! The types of [`tls`](super) without that feature: no stream has TLS.

use std::io;

use bytes::BytesMut;

use super::Io;
use crate::peer::Tls;

/// A stream with or without TLS. In this build no stream has TLS.
pub(crate) type MaybeTls<I> = I;

/// The TLS side of listeners, which this build does not support.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {}

/// Never constructed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {}

impl Server {
    pub(crate) async fn accept<I: Io>(
        &self,
        _: I,
        _: BytesMut,
        _: bool,
    ) -> Result<(MaybeTls<I>, Tls), HandshakeError> {
        match *self {}
    }

    pub(crate) fn is_authoritative(self, _: &Tls, _: &str) -> bool {
        match self {}
    }
}

/// TLS to servers, which this build does not support.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for servers"))]
pub(crate) enum Client {}

#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for servers"))]
impl Client {
    pub(crate) fn for_server(&self, _: &str, _: &[&[u8]]) -> io::Result<Self> {
        match *self {}
    }

    pub(crate) async fn connect<I: Io>(&self, _: I) -> io::Result<MaybeTls<I>> {
        match *self {}
    }
}

#[cfg_attr(
    not(all(feature = "h2", feature = "upstream")),
    allow(dead_code, reason = "for servers")
)]
pub(crate) fn alpn<I: Io>(_: &I) -> Option<&[u8]> {
    None
}

pub(crate) fn plain<I: Io>(io: I) -> MaybeTls<I> {
    io
}
