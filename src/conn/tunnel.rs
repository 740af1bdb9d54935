//! `Tunneling`: the last stage of a connection whose protocol was switched.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use super::{
    access_log::{AccessLog, Entry},
    upgrade::Tunnel,
};
use crate::{
    error::panic_message,
    net::{DrainWatch, clock},
    peer::Peer,
};

/// Runs a tunnel in the connection's task, until it ends or a shutdown aborts it.
pub(super) struct Tunneling {
    /// `None` once it has ended.
    tunnel: Option<Tunnel>,
    log: TunnelLog,
    peer: Peer,
    /// The last field, so that everything else is dropped before the connection counts as ended.
    watch: DrainWatch,
}

/// The access log entry of the request that began a tunnel. It is written when this is dropped.
pub(super) struct TunnelLog {
    pub(super) entry: Option<(Entry, Instant)>,
    pub(super) log: AccessLog,
}

impl Tunneling {
    pub(super) fn new(tunnel: Tunnel, log: TunnelLog, peer: Peer, watch: DrainWatch) -> Self {
        Self { tunnel: Some(tunnel), log, peer, watch }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    fn end(&mut self) {
        if let Some(tunnel) = self.tunnel.take() {
            self.log.record(tunnel.written());
        }
    }
}

impl Future for Tunneling {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let is_draining = this.watch.poll_draining(cx);
        let Some(tunnel) = &mut this.tunnel else { return Poll::Ready(Ok(())) };
        if is_draining {
            tunnel.begin_drain();
        }
        let is_aborted = is_draining && this.watch.is_aborted();
        match catch_unwind(AssertUnwindSafe(|| tunnel.poll(cx))) {
            Ok(Poll::Pending) if !is_aborted => return Poll::Pending,
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => this.log.complete(),
            Err(panic) => {
                let panic = panic_message(&*panic);
                tracing::error!(target: "vestibule::request", client = %this.peer, panic, "a tunnel panicked");
            }
        }
        this.end();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunneling {
    fn drop(&mut self) {
        self.end();
    }
}

impl TunnelLog {
    fn record(&mut self, written: u64) {
        if let Some((entry, _)) = &mut self.entry {
            entry.bytes = written;
        }
    }

    pub(super) fn complete(&mut self) {
        if let Some((entry, _)) = &mut self.entry {
            entry.complete = true;
        }
    }
}

impl Drop for TunnelLog {
    fn drop(&mut self) {
        if let Some((mut entry, began)) = self.entry.take() {
            entry.elapsed = clock::now().saturating_duration_since(began);
            self.log.write(&entry);
        }
    }
}
