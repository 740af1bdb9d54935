//! `Driver`: the state of a connection for its whole life, and its poll loop: step, flush, read, wait.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{
    active::{Active, Stage},
    deadlines::deadline_after,
};
use crate::{
    HttpService,
    conn::{Config, call::catch_panic, output::AfterFlush, thread_buffers, timer::Timer},
    net::{DrainWatch, Io, clock},
    peer::{Peer, RequestId},
};

/// Steps of one poll before the task yields, 48: about as many small pipelined requests.
const MAX_STEPS_PER_POLL: usize = 48;

/// How long the rest of a head, and the whole head on a connection that has not had a request, may take once the
/// drain has started, 1 s: enough for delays of the network, not for those of the client.
const DRAIN_HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// The state that an idle connection owns. The state of an exchange is in [`Active`], which is passed to
/// every method.
pub(super) struct Driver<I, S> {
    pub(super) io: I,
    pub(super) peer: Peer,
    /// The id of the last request; its request number is 0 before the first.
    pub(super) last_id: RequestId,
    /// `None` once the connection serves no further request: capacity reserved by the service is released
    /// even if the connection lingers.
    pub(super) service: Option<S>,
    pub(super) config: Arc<Config>,
    pub(super) timer: Timer,
    /// The last field, so that everything else is dropped before the connection counts as ended.
    pub(super) watch: DrainWatch,
}

/// The outcome of a step.
pub(super) enum Step {
    /// The stage has changed or made progress: step again.
    Again,
    /// Nothing to do until bytes are read or written, or the task is woken.
    Wait,
}

impl<I, S> Driver<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Steps, flushes and reads until no progress is possible.
    pub(super) fn poll_loop(
        &mut self,
        active: &mut Active,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let now = clock::now();
        let draining = self.watch.poll_draining(cx);
        if draining && self.watch.is_aborted() {
            return Poll::Ready(Ok(()));
        }
        let mut steps = 0;
        loop {
            if draining {
                if active.drain_until.is_none() {
                    active.drain_until = Some(deadline_after(now, DRAIN_HEAD_TIMEOUT));
                    active.leave_gate(now);
                }
                if !active.awaits_request() {
                    active.core.disable_keep_alive();
                }
            }
            if active.upload.is_some() {
                self.pump_upload(active, now, cx);
            }
            if draining && matches!(active.stage, Stage::Discard(..)) && active.has_stalled_reader()
            {
                active.upload = None; // the rest of the request is of no use to a reader that stopped
            }
            // Backpressure: no step while the output is full. Responses to pipelined requests are collected
            // and written together.
            if active.output.has_room() && matches!(self.step(active, now, cx), Step::Again) {
                steps += 1;
                if steps < MAX_STEPS_PER_POLL {
                    continue;
                }
            }
            let (room, something) = (active.output.has_room(), !active.output.is_empty());
            if self.poll_flush(active, now, cx)?.is_ready()
                && (!room || (something && matches!(active.stage, Stage::Close { .. })))
                && steps < MAX_STEPS_PER_POLL
            {
                steps += 1;
                continue; // the flush has made room for the next step
            }
            if has_ended(active) {
                return Poll::Ready(Ok(()));
            }
            if steps >= MAX_STEPS_PER_POLL {
                cx.waker().wake_by_ref(); // yields to other tasks
                return Poll::Pending;
            }
            // Behind a full output the body is not polled, and its waker is not registered.
            if !room
                && let Stage::Respond(body) = &mut active.stage
                && let Err(panicked) = catch_panic(|| body.drive(cx))
            {
                self.handle_panic(active, panicked);
                continue;
            }
            if !room && active.output.has_room() && active.has_head_read_ahead() {
                continue; // a request that was read must be served before the end of the stream is, or a drain closes
            }
            if self.poll_input(active, now, cx)?.is_ready() {
                continue;
            }
            if draining && self.has_no_request(active) {
                active.core.disable_keep_alive();
                active.stage = Stage::Close { linger: false };
                continue;
            }
            if draining && matches!(active.stage, Stage::Linger(..)) {
                self.watch = DrainWatch::never(); // all is sent: the drain does not wait for this connection
            }
            if self.timer.poll(cx, self.deadline(active), now) {
                if self.handle_expiry(active)? {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        }
    }

    fn poll_flush(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>> {
        if active.output.is_empty() {
            active.transfers.advance(active.output.written(), &self.config.access_log);
            return Ok(Poll::Ready(()));
        }
        let closes = matches!(active.stage, Stage::Close { .. });
        let after = if closes { AfterFlush::Close } else { AfterFlush::Wait };
        let flushed =
            active.output.poll_flush(&mut self.io, cx, now, self.config.write_rate, after);
        active.transfers.advance(active.output.written(), &self.config.access_log);
        match flushed {
            Poll::Ready(result) => {
                result?;
                if active.core.is_idle() {
                    active.core.resume(now); // the client's idle time starts when all is sent
                }
                if active.half_closed.is_some() {
                    active.half_closed = Some(now);
                }
                Ok(Poll::Ready(()))
            }
            Poll::Pending => {
                if active.output.report_fast_reader() {
                    self.io.raise_send_limit();
                }
                Ok(Poll::Pending)
            }
        }
    }

    /// Reads if the stage allows it. Ready if bytes or the end of the stream have been read.
    fn poll_input(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>> {
        if !self.wants_input(active, now, cx) {
            return Ok(Poll::Pending);
        }
        let read = if active.upload.is_some() {
            self.poll_read_upload(active, now, cx)
        } else {
            let max_len = active.first_read.max_len();
            thread_buffers::poll_read_up_to(&mut self.io, cx, &mut active.input, max_len)
        };
        match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => {
                self.handle_eof(active, now);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(n)) => {
                active.last_read = now;
                if let Stage::Linger(left, _) = &mut active.stage {
                    active.input.clear();
                    *left = left.saturating_sub(n as u64);
                    if *left == 0 {
                        active.stage = Stage::End;
                    }
                }
                Ok(Poll::Ready(()))
            }
            // TLS without close_notify (RFC 9112 section 9.8). A request has its own end, so nothing is cut off here;
            // elsewhere the client is gone.
            Poll::Ready(Err(e))
                if e.kind() == io::ErrorKind::UnexpectedEof
                    && matches!(active.stage, Stage::Head(_) | Stage::Linger(..)) =>
            {
                self.handle_eof(active, now);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(e)) => Err(e),
        }
    }

    /// Returns whether the stage allows a read.
    fn wants_input(&self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> bool {
        match active.stage {
            Stage::Head(_) => active.output.has_room() && self.can_read_head(active, now, cx),
            // A client may send all of the body before it reads the response.
            Stage::Discard(..) => {
                active.wants_upload() || (active.upload.is_none() && active.output.has_room())
            }
            Stage::Linger(..) => true,
            // No read before the service has taken the request.
            Stage::Admit(..)
            | Stage::Close { .. }
            | Stage::Shutdown(_)
            | Stage::Http2
            | Stage::Switch(_)
            | Stage::End => false,
            Stage::Call(..) | Stage::Respond(_) => {
                active.wants_upload()
                    || (active.upload.is_none()
                        && active.input.len() < self.config.http1.read_ahead
                        && !active.read_closed)
            }
        }
    }

    /// Returns whether the connection can be closed without losing a request, after a read that was pending: nothing of
    /// the next one has arrived. A client without an earlier request has just connected, and is about to send its first.
    fn has_no_request(&self, active: &Active) -> bool {
        active.awaits_request()
            && self.last_id.request() > 0
            && active.output.has_room() // else nothing was read
            && self.io.recv_queue_empty() != Some(false) // the runtime may not have noticed it yet
    }

    /// Returns whether the next head may be read: if the gate is open, or part of the head has arrived. The gate does not
    /// apply in a drain: the head is the last one, and its request waits for the service's readiness.
    fn can_read_head(&self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> bool {
        if !active.input.is_empty() || !active.core.is_idle() || active.drain_until.is_some() {
            return true;
        }
        let Stage::Head(gate) = &mut active.stage else { return true };
        let waited = gate.is_waiting();
        let open = self.config.gate.poll_opened(gate, cx).is_ready();
        if open && waited {
            active.core.resume(now); // the client's idle time does not run while the gate is closed
        }
        open
    }

    /// Handles the end of the client's stream.
    fn handle_eof(&mut self, active: &mut Active, now: Instant) {
        active.read_closed = true;
        let waits_for_answer = matches!(active.stage, Stage::Call(..) | Stage::Respond(_))
            && !self.config.http1.half_close.is_zero()
            && active.has_whole_request(now);
        match active.stage {
            // The request is complete, so this is no protocol error: the client may only have closed its
            // sending half. It cannot be distinguished from a client that has disconnected.
            Stage::Call(..) | Stage::Respond(_) if waits_for_answer => {
                active.half_closed = Some(now);
                if active.input.is_empty() {
                    active.core.disable_keep_alive(); // else further requests were read ahead
                }
            }
            // The client has disconnected: the service's future is dropped with the stage.
            Stage::Call(..) | Stage::Respond(_) | Stage::Linger(..) => {
                active.upload = None;
                active.stage = Stage::End;
            }
            Stage::Head(_) | Stage::Discard(..) => {
                if let Err(fault) = active.core.recv_eof(now) {
                    self.refuse_fault(active, fault);
                }
                active.stage = Stage::Close { linger: false };
            }
            Stage::Admit(..)
            | Stage::Close { .. }
            | Stage::Shutdown(_)
            | Stage::Http2
            | Stage::Switch(_)
            | Stage::End => {}
        }
    }

    /// Closes a connection whose output is flushed; lingers if the client may still be sending.
    pub(super) fn poll_close(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
        linger: bool,
    ) -> Step {
        // All is written, and the response is complete unless it was aborted.
        active.is_close_delimited &= active.core.is_writing_body();
        // An aborted body that ends with the connection must not end orderly: TLS would send `close_notify`.
        if !linger && (active.is_close_delimited || !self.io.needs_shutdown()) {
            active.stage = if self.has_unread_input(active, now, cx) {
                Stage::Close { linger: true }
            } else {
                Stage::End // dropping the socket closes both halves
            };
            return Step::Again;
        }
        active.stage = Stage::Shutdown(deadline_after(now, self.config.write_timeout));
        Step::Again
    }

    /// Sends the end of the stream.
    pub(super) fn poll_shutdown(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Step {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => Step::Wait,
            Poll::Ready(_) => {
                active.input = BytesMut::new();
                let until = deadline_after(now, self.config.http1.linger);
                active.stage = Stage::Linger(self.config.http1.linger_bytes, until);
                Step::Again
            }
        }
    }

    /// Returns whether the client has sent more after a complete response. Closing a socket with unread bytes
    /// resets the connection, and response data in the send buffer is lost.
    fn has_unread_input(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        if active.read_closed || active.core.is_writing_body() {
            return false;
        }
        let read = thread_buffers::poll_read(&mut self.io, cx, &mut active.input);
        if matches!(read, Poll::Ready(Ok(1..))) {
            return true;
        }
        // The poller may not yet have reported bytes that came since the last read.
        active.last_read < now && self.io.recv_queue_empty() == Some(false)
    }
}

/// Returns whether the driver has nothing more to do: the connection is closed, or its transport goes elsewhere.
fn has_ended(active: &Active) -> bool {
    match active.stage {
        Stage::End | Stage::Http2 => true,
        Stage::Switch(_) => active.output.is_empty(),
        Stage::Head(_)
        | Stage::Admit(..)
        | Stage::Call(..)
        | Stage::Respond(_)
        | Stage::Discard(..)
        | Stage::Close { .. }
        | Stage::Shutdown(_)
        | Stage::Linger(..) => false,
    }
}
