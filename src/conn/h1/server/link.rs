//! What a connection owns as long as it lives, and how it is driven: step, flush, read, wait.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use tower_service::Service;

use super::{
    Config,
    busy::{Busy, Stage},
};
use crate::{
    body::Body,
    conn::{output::Then, scratch, timer::Timer},
    error::BoxError,
    net::{Io, Watch, clock},
    peer::Peer,
};

/// Steps that one poll may take before other tasks get their turn: so many small requests.
const STEPS: usize = 48;

/// All that an idle connection owns. What belongs to an exchange is in [`Busy`], which is passed
/// to every method.
pub(super) struct Link<I, S: Service<Request<Body>>> {
    pub(super) io: I,
    pub(super) peer: Peer,
    pub(super) service: S,
    pub(super) config: Arc<Config>,
    /// The service's future, in [`Stage::Call`].
    pub(super) call: Option<Pin<Box<S::Future>>>,
    pub(super) timer: Timer,
    /// Last: when it is dropped the connection has ended.
    pub(super) watch: Watch,
}

/// What a step of the driver came to.
pub(super) enum Step {
    /// The stage has changed, or moved on: look again.
    Again,
    /// Nothing to do before more bytes come or go, or somebody wakes us.
    Wait,
}

impl<I, S, B> Link<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Steps, flushes and reads until nothing more can be done now.
    pub(super) fn poll_loop(&mut self, x: &mut Busy, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let clock = clock::hold();
        let now = clock.now;
        let draining = self.watch.poll_draining(cx);
        if draining && self.watch.is_cut() {
            return Poll::Ready(Ok(()));
        }
        let mut steps = 0;
        loop {
            if draining {
                x.core.close_after();
            }
            self.pump_upload(x, now, cx);
            // A step is taken only when its response has room: what is behind waits for what is
            // before it. Responses to pipelined requests gather and leave together.
            if x.output.has_room() && matches!(self.step(x, now, cx), Step::Again) {
                steps += 1;
                if steps < STEPS {
                    continue;
                }
            }
            let (room, something) = (x.output.has_room(), !x.output.is_empty());
            if self.poll_flush(x, now, cx)?.is_ready()
                && (!room || (something && matches!(x.stage, Stage::Close { .. })))
                && steps < STEPS
            {
                steps += 1;
                continue; // what waited for this flush can go on
            }
            if let Stage::End = x.stage {
                return Poll::Ready(Ok(()));
            }
            if steps >= STEPS {
                cx.waker().wake_by_ref(); // there is more to do, after the others
                return Poll::Pending;
            }
            if self.poll_input(x, now, cx)?.is_ready() {
                continue;
            }
            if self.timer.poll(cx, self.deadline(x), now) {
                if self.expire(x)? {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        }
    }

    fn poll_flush(
        &mut self,
        x: &mut Busy,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>> {
        if x.output.is_empty() {
            return Ok(Poll::Ready(()));
        }
        let closes = matches!(x.stage, Stage::Close { .. });
        let then = if closes { Then::Close } else { Then::Wait };
        match x.output.poll_flush(&mut self.io, cx, now, self.config.write_rate, then) {
            Poll::Ready(result) => {
                result?;
                if x.core.is_idle() {
                    x.core.resume(now); // the client is idle once it has been sent it all
                }
                Ok(Poll::Ready(()))
            }
            Poll::Pending => {
                if x.output.turns_out_fast() {
                    self.io.open_up();
                }
                Ok(Poll::Pending)
            }
        }
    }

    /// Reads if anything is to be read in this stage. Ready: something has come.
    fn poll_input(
        &mut self,
        x: &mut Busy,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>> {
        let wanted = match x.stage {
            Stage::Head => x.output.has_room() && self.is_let_in(x, now, cx),
            Stage::Drain(_) => x.output.has_room() && (x.upload.is_none() || x.upload_wanted),
            Stage::Linger(..) => true,
            // Nothing further is read before the service has taken the request.
            Stage::Admit(..) | Stage::Close { .. } | Stage::End => false,
            Stage::Call | Stage::Respond(_) => {
                x.upload_wanted
                    || (x.upload.is_none() && x.input.len() < self.config.read_ahead && !x.ended)
            }
        };
        if !wanted {
            return Ok(Poll::Pending);
        }
        let left = x.core.body_left().filter(|_| x.upload.is_some());
        let read = match (&x.upload, left) {
            (Some(_), left) => scratch::poll_read_body(&mut self.io, cx, &mut x.input, left),
            (None, _) => scratch::poll_read(&mut self.io, cx, &mut x.input),
        };
        match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => {
                self.eof(x, now);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(n)) => {
                if let Stage::Linger(left, _) = &mut x.stage {
                    x.input.clear();
                    *left = left.saturating_sub(n as u64);
                    if *left == 0 {
                        x.stage = Stage::End;
                    }
                }
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(e)) => Err(e),
        }
    }

    /// May the next head be read? One that is on its way may.
    fn is_let_in(&self, x: &mut Busy, now: Instant, cx: &mut Context<'_>) -> bool {
        if !x.input.is_empty() || !x.core.is_idle() {
            return true;
        }
        let waited = x.gate.is_waiting();
        let open = self.config.gate.poll_opened(&mut x.gate, cx).is_ready();
        if open && waited {
            x.core.resume(now); // it was we who did not read
        }
        open
    }

    /// The client will send nothing more.
    fn eof(&mut self, x: &mut Busy, now: Instant) {
        x.ended = true;
        match x.stage {
            Stage::Call | Stage::Respond(_) if self.config.half_close && !x.core.reads_body() => {
                // Its request was whole, so this is no fault; it closes after the answer.
                x.core.close_after();
            }
            // A client that has left: its work is dropped with the stage, the connection ends.
            // One that closed only its sending half cannot be told from it.
            Stage::Call | Stage::Respond(_) | Stage::Linger(..) => {
                x.upload = None;
                x.stage = Stage::End;
            }
            Stage::Head | Stage::Drain(_) => {
                if let Err(fault) = x.core.recv_eof(now) {
                    self.refuse(x, fault.status());
                }
                x.stage = Stage::Close { linger: false };
            }
            Stage::Admit(..) | Stage::Close { .. } | Stage::End => {}
        }
    }

    /// The earliest time at which something must have happened.
    fn deadline(&self, x: &Busy) -> Option<Instant> {
        let read = match x.stage {
            // While it is sent something the client is not idle.
            Stage::Head | Stage::Drain(_) if !x.output.is_empty() => None,
            Stage::Head if x.gate.is_waiting() => None,
            Stage::Drain(_) if x.upload.is_some() && !x.upload_wanted => None,
            Stage::Head | Stage::Drain(_) => x.core.deadline(),
            Stage::Admit(_, until) | Stage::Linger(_, until) => Some(until),
            Stage::Call | Stage::Respond(_) if x.upload_wanted => x.core.deadline(),
            Stage::Call => x.asked.checked_add(self.config.answer_timeout),
            Stage::Respond(_) | Stage::Close { .. } | Stage::End => None,
        };
        [self.write_deadline(x), read].into_iter().flatten().min()
    }

    fn write_deadline(&self, x: &Busy) -> Option<Instant> {
        x.output.deadline(self.config.write_timeout)
    }

    /// The deadline has passed. `false`: the connection ends now.
    fn expire(&mut self, x: &mut Busy) -> io::Result<bool> {
        // This poll may have taken long itself: `now` of its beginning would not do.
        let now = clock::now();
        if self.write_deadline(x).is_some_and(|d| d <= now) {
            x.output.look_closer(&self.io, now, self.config.write_rate);
            if self.write_deadline(x).is_some_and(|d| d <= now) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"));
            }
            return Ok(true);
        }
        match x.stage {
            Stage::Admit(..) => self.refuse(x, http::StatusCode::SERVICE_UNAVAILABLE),
            Stage::Call if !x.upload_wanted => {
                tracing::error!(peer = %self.peer, "the service did not answer in time");
                self.refuse(x, http::StatusCode::GATEWAY_TIMEOUT);
            }
            Stage::Head | Stage::Drain(_) | Stage::Call | Stage::Respond(_) => {
                match x.core.timeout() {
                    Some(fault) => self.fail(x, fault),
                    None => return Ok(false),
                }
            }
            Stage::Linger(..) | Stage::Close { .. } | Stage::End => return Ok(false),
        }
        Ok(true)
    }

    /// Flushed to the end: shut down, and linger if the client may still be sending.
    pub(super) fn poll_close(
        &mut self,
        x: &mut Busy,
        now: Instant,
        cx: &mut Context<'_>,
        linger: bool,
    ) -> Step {
        // All is written, and unless it was cut the response is whole.
        x.open_ended &= x.core.writes_body();
        if !linger {
            x.stage = if self.would_reset(x, cx) {
                Stage::Close { linger: true }
            } else {
                Stage::End // dropping the socket closes both halves
            };
            return Step::Again;
        }
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => Step::Wait,
            Poll::Ready(_) => {
                x.input = BytesMut::new();
                let until = later(now, self.config.linger);
                x.stage = Stage::Linger(self.config.linger_bytes, until);
                Step::Again
            }
        }
    }

    /// Has the client sent more behind a whole response? Closed over it, the connection is reset,
    /// and what the kernel has not sent of the response is lost.
    fn would_reset(&mut self, x: &mut Busy, cx: &mut Context<'_>) -> bool {
        !x.ended
            && !x.core.writes_body()
            && !self.io.is_drained()
            && matches!(scratch::poll_read(&mut self.io, cx, &mut x.input), Poll::Ready(Ok(1..)))
    }
}

/// `now` and a span, or a time that will not come.
pub(super) fn later(now: Instant, span: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(span).unwrap_or(now + CENTURY)
}
