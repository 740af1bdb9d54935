//! Writes the collected frames of a connection, and ends the exchanges that are complete.

use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};

use super::Connection;
use crate::{HttpService, net::Io, proto::h2::Sent};

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Writes the frames of this round, and ends the exchanges whose last frame was written.
    ///
    /// # Errors
    /// The result of the connection, which has ended.
    pub(super) fn flush(&mut self, now: Instant) -> Result<(), io::Result<()>> {
        // A socket has one waker for writes, which `h2` uses too.
        let mut cx = Context::from_waker(self.connection_waker.waker());
        let before = self.wire.waits_since(); // a complete flush ends the wait of the frames that it has written
        let flushed = self.wire.poll_flush(&mut cx);
        let socket_wait = before.or_else(|| self.wire.waits_since());
        let mut written = self.wire.take_sent(std::mem::take(&mut self.sent));
        for sent in &written {
            self.record_sent(sent, now, socket_wait);
        }
        written.clear();
        self.sent = written;
        self.wake_for_room();
        match flushed {
            Poll::Ready(Err(_)) if self.streams.is_empty() => Err(Ok(())),
            Poll::Ready(Err(error)) => Err(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn record_sent(&mut self, sent: &Sent, now: Instant, socket_wait: Option<Instant>) {
        let Some(key) = self.streams.find(sent.stream) else { return };
        let Some(stream) = self.streams.get(key) else { return };
        let has_ended = stream.exchange.record_sent(&self.shared, sent, now, socket_wait);
        stream.count(has_ended, &mut self.load);
        if stream.exchange.is_discarding() {
            stream.waker.wake(); // for its deadline
        }
        if has_ended {
            self.remove(key, now);
        }
    }
}
