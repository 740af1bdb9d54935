//! Moves bytes between two sockets by splice(2).

use std::{
    io,
    task::{Context, Poll},
};

use crate::{
    conn::relay::Carrier,
    net::{Stream, splice::Pipe},
    proto::websocket::FrameScanner,
};

/// The bytes stay in the kernel.
impl Carrier<Stream> for Pipe {
    fn acquire() -> io::Result<Self> {
        Self::acquire()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn poll_fill(&mut self, from: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Self::poll_fill(self, from, cx)
    }

    fn poll_drain(
        &mut self,
        to: &mut Stream,
        _: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        Self::poll_drain(self, to, cx)
    }
}
