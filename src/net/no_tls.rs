//! The types of [`tls`](super) without that feature: no stream has TLS.

use bytes::BytesMut;

use super::Io;
use crate::peer::Tls;

/// A stream with or without TLS: without it in this build.
pub type MaybeTls<I> = I;

/// The TLS side of listeners, which this build has not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {}

/// Never made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {}

impl Server {
    pub(crate) async fn accept<I: Io>(
        &self,
        _: I,
        _: BytesMut,
    ) -> Result<(MaybeTls<I>, Tls), HandshakeError> {
        match *self {}
    }

    pub(crate) fn is_authoritative(self, _: &Tls, _: &str) -> bool {
        match self {}
    }
}

pub(crate) fn plain<I: Io>(io: I) -> MaybeTls<I> {
    io
}
