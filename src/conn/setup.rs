//! The stages before the protocol: the first bytes, then the TLS handshake.

use std::{
    fmt::Display,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{Config, Transport, thread_buffers, timer::Timer};
use crate::{
    net::{
        DrainWatch, Io, clock,
        tls::{self, MaybeTls},
    },
    peer::Peer,
};

/// How long a connection must have been idle before it can be shed, as with HTTP/1.
const MIN_IDLE_BEFORE_SHED: Duration = Duration::from_millis(250);

/// How long a handshake may last once the drain has begun, 1 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The future of these stages. `None` if the connection has ended in one of them.
pub(super) type Setup<I> = Pin<Box<dyn Future<Output = Option<Transport<MaybeTls<I>>>> + Send>>;

/// Returns the stages that `config` enables, or the transport itself if there are none.
pub(super) fn begin<I: Io + 'static>(
    transport: Transport<I>,
    config: &Arc<Config>,
) -> Result<Transport<MaybeTls<I>>, (Setup<I>, Peer)> {
    if config.tls.is_none() {
        let Transport { io, peer, read_ahead, accepted, watch } = transport;
        return Ok(Transport { io: tls::plain(io), peer, read_ahead, accepted, watch });
    }
    let peer = transport.peer.clone();
    Err((Box::pin(run(transport, config.clone())), peer))
}

async fn run<I: Io>(
    transport: Transport<I>,
    config: Arc<Config>,
) -> Option<Transport<MaybeTls<I>>> {
    let Transport { mut io, mut peer, mut read_ahead, accepted, mut watch } = transport;
    // One deadline for all stages and the first head.
    let mut bound = Bound {
        watch: &mut watch,
        deadline: accepted.checked_add(config.limits.head_timeout),
        sheds_since: Some(accepted),
        timer: Timer::default(),
    };
    if read_ahead.is_empty() {
        // No memory is used before the first byte.
        let first = poll_fn(|cx| thread_buffers::poll_read(&mut io, cx, &mut read_ahead));
        match bound.run(first).await {
            Ok(Ok(1..)) => {}
            // A connection without a byte: a browser's spare one, or a health check.
            Ok(Ok(0) | Err(_)) | Err(_) => return None,
        }
    }
    bound.sheds_since = None;
    let Some(tls) = &config.tls else {
        return Some(Transport { io: tls::plain(io), peer, read_ahead, accepted, watch });
    };
    let error: Box<dyn Display + Send> = match bound.run(tls.accept(io, read_ahead)).await {
        Ok(Ok((io, facts))) => {
            peer = peer.secured(facts);
            let read_ahead = bytes::BytesMut::new();
            return Some(Transport { io, peer, read_ahead, accepted, watch });
        }
        Ok(Err(error)) => Box::new(error),
        Err(end) => Box::new(end),
    };
    tracing::debug!(target: "vestibule::tls", client = %peer, %error, "a handshake failed");
    None
}

/// What ends a stage from outside.
struct Bound<'a> {
    watch: &'a mut DrainWatch,
    deadline: Option<Instant>,
    /// Since when the connection is idle, if it is.
    sheds_since: Option<Instant>,
    timer: Timer,
}

/// Why a stage was ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client took too long")]
    TimedOut,
    #[error(
        "the server shuts down, or the connection was idle and another client needed its place"
    )]
    Closed,
}

impl Bound<'_> {
    async fn run<F: Future>(&mut self, stage: F) -> Result<F::Output, Ended> {
        let mut stage = pin!(stage);
        poll_fn(|cx| match stage.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_end(cx).map(Err),
        })
        .await
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let now = clock::now();
        if self.watch.poll_draining(cx) {
            if self.watch.is_aborted() {
                return Poll::Ready(Ended::Closed);
            }
            let drained = now.checked_add(DRAIN_TIMEOUT);
            self.deadline = [self.deadline, drained].into_iter().flatten().min();
        }
        let is_idle = self.sheds_since.is_some_and(|since| since + MIN_IDLE_BEFORE_SHED <= now);
        if is_idle && self.watch.is_shed_requested() && self.watch.claim_shed() {
            return Poll::Ready(Ended::Closed);
        }
        if self.timer.poll(cx, self.deadline, now) {
            return Poll::Ready(Ended::TimedOut);
        }
        Poll::Pending
    }
}
