//! Moves bytes between two sockets by splice(2).

use std::{
    io,
    task::{Context, Poll},
};

use crate::{body::Pipe, conn::relay::Carrier, net::Stream, proto::websocket::FrameScanner};

/// The most that is moved into a pipe at once, 64 KiB: what a client that does not read may hold in each direction.
const STEP: usize = 64 << 10;

/// The bytes stay in the kernel.
impl Carrier<Stream> for Pipe {
    fn acquire() -> io::Result<Self> {
        Self::acquire()
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn poll_fill(&mut self, from: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Self::poll_fill(self, from, STEP, cx)
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
