//! Polls a connection: `h2` and the woken streams, in rounds.

use std::{
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use h2::Reason;

use super::{
    Connection, Shared, State, builder::DRAIN_PROVOKED_RESETS, exchange::Exchange, streams::Load,
};
use crate::{
    HttpService,
    conn::h2::wakers::CONNECTION,
    net::{Io, clock},
    peer::RequestId,
};

/// Maximum number of rounds of one poll before the task yields: 16. Each round polls the woken streams.
const MAX_ROUNDS_PER_POLL: usize = 16;

/// Maximum number of woken streams that one round polls: 1,024, more than a connection has by default. A stream that wakes
/// itself in its poll is polled again in the same round.
const MAX_POLLS_PER_ROUND: usize = 1024;

/// Time that a client has to read GOAWAY after a flood of frames, before the connection is closed without it: 1 s.
const FLOOD_TIMEOUT: Duration = Duration::from_secs(1);

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Polls the connection until nothing is woken, or the task must yield. Ready with the result of the connection.
    pub(super) fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = clock::now();
        if self.watch.poll_draining(cx) {
            if self.watch.is_aborted() {
                return Poll::Ready(Ok(()));
            }
            self.begin_drain(now);
        }
        if let State::Closing(_) = self.state {
            return self.poll_closing(now, cx);
        }
        for _ in 0..MAX_ROUNDS_PER_POLL {
            if let State::Handshake(..) = self.state
                && let Poll::Ready(ended) = self.poll_handshake(cx, now)?
            {
                if ended {
                    return Poll::Ready(Ok(()));
                }
                self.connection_waker.wake();
                continue;
            }
            self.admit(now, cx);
            for _ in 0..MAX_POLLS_PER_ROUND {
                let Some(key) = self.wakers.pop() else { break };
                if key != CONNECTION {
                    self.poll_stream(key, now);
                } else if let Poll::Ready(error) = self.poll_connection(now, cx) {
                    let is_io_error = error.as_ref().is_some_and(h2::Error::is_io);
                    let result = self.close_result(error);
                    if is_io_error {
                        return Poll::Ready(result);
                    }
                    return self.close(result, now, cx);
                }
            }
            if let Err(result) = self.flush(now) {
                return Poll::Ready(result);
            }
            if self.wakers.try_end() {
                self.update_lease();
                return self.poll_deadlines(now, cx);
            }
        }
        cx.waker().wake_by_ref(); // yields to other tasks
        self.poll_deadlines(now, cx)
    }

    /// Removes a stream whose exchange has ended.
    pub(super) fn remove(&mut self, key: usize, now: Instant) {
        if self.streams.remove(key).is_some_and(|stream| stream.is_listed) {
            self.waiting_for_room.retain(|waiting| *waiting != key);
        }
        if self.streams.is_empty() {
            self.idle_since = Some(now);
        }
        // Dropping the handles makes `h2` free the stream's memory.
        self.connection_waker.wake();
    }

    /// Drives `h2`: reads frames, accepts requests, writes frames. Ready when the connection has ended, with the error of
    /// `h2`.
    fn poll_connection(&mut self, now: Instant, task: &mut Context<'_>) -> Poll<Option<h2::Error>> {
        // Before the state is checked: a waker that is queued but not polled would not be queued again.
        let waker = self.connection_waker.begin_poll().clone();
        let State::Open(connection) = &mut self.state else { return Poll::Pending };
        if self.wire.resume_reads() {
            self.shared.inboxes.receive(&self.shared.config.budget);
        }
        let mut cx = Context::from_waker(&waker);
        loop {
            match connection.poll_accept(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(error)),
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let last = self.last_id;
                    self.last_id =
                        RequestId::new(last.connection(), last.request().wrapping_add(1));
                    let mut exchange =
                        Exchange::begin(&self.shared, self.last_id, request, respond, now);
                    if self.is_draining {
                        exchange.begin_drain();
                    }
                    let key = self.streams.insert(exchange, &self.wakers);
                    self.idle_since = None;
                    self.waiting.push_back(key);
                }
            }
        }
        // Once: GOAWAY may have to wait for the socket, and `h2` registers its waker for that.
        if self.flood_until.is_none() && self.wire.flood().is_some() {
            self.flood_until = now.checked_add(FLOOD_TIMEOUT);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.connection_waker.wake();
        }
        if self.wire.provoked_resets() >= DRAIN_PROVOKED_RESETS {
            self.refuse_requests(now);
        }
        self.admit(now, task);
        Poll::Pending
    }

    fn poll_stream(&mut self, key: usize, now: Instant) {
        let Some(stream) = self.streams.get(key) else { return };
        let waker = stream.waker.begin_poll().clone();
        let mut cx = Context::from_waker(&waker);
        let has_turn = self.waiting_for_room.front() == Some(&key);
        let room = match room(&self.load, &self.shared) {
            room if self.waiting_for_room.is_empty() => room,
            room if has_turn => room.min(1), // one piece
            _ => 0,
        };
        let has_ended = stream.exchange.poll(&self.shared, now, room, &mut cx).is_ready();
        let working = self.load.working;
        stream.count(has_ended, &mut self.load);
        let waits = !has_ended && stream.exchange.waits_for_room();
        if has_turn && (room > 0 || !waits) {
            self.waiting_for_room.pop_front();
            stream.is_listed = false;
        }
        if waits && !std::mem::replace(&mut stream.is_listed, true) {
            self.waiting_for_room.push_back(key);
        }
        if self.load.working < working && !self.waiting.is_empty() {
            self.connection_waker.wake(); // the next request may be admitted
        }
        if has_ended {
            self.remove(key, now);
        }
        self.wake_for_room();
        let Some(stream) = self.streams.get(key) else { return };
        let deadline = stream.exchange.deadline(&self.shared.config);
        self.next_deadline = [self.next_deadline, deadline].into_iter().flatten().min();
    }

    /// Wakes the first response that waits for room, if there is room. The next one follows when it has been polled.
    pub(super) fn wake_for_room(&mut self) {
        if !self.waiting_for_room.is_empty()
            && room(&self.load, &self.shared) > 0
            && let Some(&first) = self.waiting_for_room.front()
            && let Some(stream) = self.streams.get(first)
        {
            stream.waker.wake();
        }
    }
}

/// Returns how many bytes of streamed responses `h2` may hold in addition. Few above the soft limit of the budget, so that
/// clients that ask for much and read slowly do not exhaust it for all others.
fn room(load: &Load, shared: &Shared) -> usize {
    let one = shared.send_buffer;
    let is_scarce = shared.config.budget.is_above_soft_limit();
    let all = if is_scarce { one / 4 } else { one.saturating_mul(4) };
    all.max(1).saturating_sub(load.queued)
}
