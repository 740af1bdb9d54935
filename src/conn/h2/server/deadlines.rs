//! The deadlines of a connection and its streams, and their share of the budget.

use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};

use h2::Reason;

use super::{Connection, MIN_IDLE_BEFORE_SHED, State};
use crate::{
    HttpService,
    net::{Io, clock},
};

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Counts the unread data of request bodies and the unwritten data of streamed responses in the budget. Other buffers
    /// of a connection are small, and a complete body is the service's memory.
    pub(super) fn update_lease(&mut self) {
        if self.load.holding == 0 {
            self.lease = None;
            return;
        }
        let streams = self.streams.iter_mut();
        let bytes: usize =
            streams.map(|stream| stream.exchange.unread() + stream.exchange.held()).sum();
        let budget = &self.shared.config.budget;
        self.lease.get_or_insert_with(|| budget.memory_lease()).set(bytes as u64);
    }

    /// Checks the deadlines of the connection and of its streams.
    pub(super) fn poll_deadlines(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let config = &self.shared.config;
        let timeouts = (config.write_timeout, config.limits.head_timeout);
        let wire = self.wire.next_update(timeouts.0, timeouts.1);
        // After the idle timeout the client has the time of a drain, so that a request on its way is not lost.
        let idle = self.idle_since.and_then(|since| {
            self.drain_until.or_else(|| since.checked_add(config.limits.idle_timeout))
        });
        if let Some(since) = self.idle_since
            && self.watch.is_shed_requested()
            && since + MIN_IDLE_BEFORE_SHED <= now
            && self.wire.recv_queue_empty() != Some(false) // the runtime may not have noticed a request yet
            && self.watch.claim_shed()
        {
            self.shed(cx);
            return Poll::Ready(Ok(())); // idle: closed so that another client is admitted
        }
        let deadline =
            [wire, idle, self.flood_until, self.next_deadline].into_iter().flatten().min();
        if !self.timer.poll(cx, deadline, now) {
            return Poll::Pending;
        }
        let now = clock::now();
        if wire.is_some_and(|d| d <= now) && self.wire.is_too_slow(now, timeouts.0, timeouts.1) {
            let message = "the client does not read, or sends a head too slowly";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        }
        if self.flood_until.is_some_and(|d| d <= now) {
            return Poll::Ready(self.close_result(None));
        }
        if idle.is_some_and(|d| d <= now) {
            if matches!(self.state, State::Handshake(..)) {
                return Poll::Ready(Ok(()));
            }
            if self.drain_until.is_some() {
                return self.close(Ok(()), now, cx);
            }
            self.refuse_requests(now);
        } else {
            self.expire_streams(now);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends an idle connection at once. GOAWAY tells the client that a request on its way was not processed.
    fn shed(&mut self, cx: &mut Context<'_>) {
        if let State::Open(connection) = &mut self.state {
            connection.abrupt_shutdown(Reason::NO_ERROR);
            let _ = connection.poll_closed(cx);
            let _ = self.wire.poll_flush(cx);
        }
    }

    /// Handles the deadlines of streams that have passed.
    fn expire_streams(&mut self, now: Instant) {
        self.next_deadline = None;
        // While a write waits, the streams wait for the socket, whose deadline is that of the connection.
        let socket_progress = self.wire.last_progress();
        for stream in self.streams.iter_mut() {
            if let Some(at) = socket_progress {
                stream.exchange.record_progress(at);
            }
            match stream.exchange.deadline(&self.shared.config) {
                Some(due) if due <= now => {
                    stream.exchange.expire(&self.shared, now);
                    stream.waker.wake();
                }
                due => {
                    self.next_deadline = [self.next_deadline, due].into_iter().flatten().min();
                }
            }
        }
    }
}
