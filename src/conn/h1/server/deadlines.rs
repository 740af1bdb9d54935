//! The deadlines of a connection, and what happens when they pass.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    active::{Active, Stage},
    driver::Driver,
};
use crate::{
    HttpService,
    conn::log_request,
    net::{Io, clock},
};

impl<I, S> Driver<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Returns the earliest deadline of this stage.
    pub(super) fn deadline(&self, active: &Active) -> Option<Instant> {
        let read = match &active.stage {
            // The client is not idle while a response is being sent to it.
            Stage::Head(_) | Stage::Discard(..) if !active.output.is_empty() => None,
            Stage::Head(gate) if gate.is_waiting() => None,
            Stage::Discard(_, until) if active.has_stalled_reader() => Some(*until),
            Stage::Head(_) => {
                [active.core.deadline(), active.drain_until].into_iter().flatten().min()
            }
            Stage::Discard(..) => active.core.deadline(),
            Stage::Admit(_, until) | Stage::Linger(_, until) | Stage::Shutdown(until) => {
                Some(*until)
            }
            Stage::Call(..) | Stage::Respond(_) if active.wants_upload() => active.core.deadline(),
            Stage::Call(_, since) => since.checked_add(self.config.answer_timeout),
            Stage::Respond(_)
            | Stage::Close { .. }
            | Stage::Http2
            | Stage::Switch(_)
            | Stage::End => None,
        };
        let write = active.output.next_update(self.config.write_timeout);
        let deadlines = [write, read, self.half_close_deadline(active)];
        deadlines.into_iter().flatten().min()
    }

    /// Returns the time at which a half-closed client counts as disconnected. `None` while output is queued:
    /// a client that reads it is still there.
    fn half_close_deadline(&self, active: &Active) -> Option<Instant> {
        let waits = matches!(active.stage, Stage::Call(..) | Stage::Respond(_));
        let since = active.half_closed.filter(|_| waits && active.output.is_empty())?;
        since.checked_add(self.config.http1.half_close)
    }

    /// Handles a deadline that has passed. Returns `false` if the connection ends now.
    pub(super) fn handle_expiry(&mut self, active: &mut Active) -> io::Result<bool> {
        // This poll may have taken long itself, so its `now` is stale.
        let now = clock::now();
        let timeout = self.config.write_timeout;
        if active.output.next_update(timeout).is_some_and(|update| update <= now) {
            active.output.update_progress(&self.io, now, self.config.write_rate);
            if active.output.deadline(timeout).is_some_and(|deadline| deadline <= now) {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not read the response",
                ));
            }
            return Ok(true);
        }
        if self.half_close_deadline(active).is_some_and(|d| d <= now) {
            return Ok(false);
        }
        match active.stage {
            Stage::Head(_) if active.drain_until.is_some_and(|d| d <= now) => {
                // The request is incomplete, so none is lost.
                active.stage = Stage::Close { linger: !active.read_closed };
            }
            Stage::Discard(..) if active.has_stalled_reader() => active.upload = None,
            Stage::Admit(..) => {
                let message = "the service was not ready in time";
                log_request!(warn, "vestibule::request", &self.request_info(active), "{message}");
                self.refuse(active, http::StatusCode::SERVICE_UNAVAILABLE);
            }
            Stage::Call(..) if !active.wants_upload() => {
                let message = "the service did not answer in time";
                log_request!(error, "vestibule::request", &self.request_info(active), "{message}");
                self.refuse(active, http::StatusCode::GATEWAY_TIMEOUT);
            }
            Stage::Head(_) | Stage::Discard(..) | Stage::Call(..) | Stage::Respond(_) => {
                match active.core.timeout() {
                    Some(fault) => self.fail_request(active, fault, now),
                    None => return Ok(false),
                }
            }
            Stage::Linger(..)
            | Stage::Close { .. }
            | Stage::Shutdown(_)
            | Stage::Http2
            | Stage::Switch(_)
            | Stage::End => {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Returns `now + span`, or a time a century away if that overflows.
pub(super) fn deadline_after(now: Instant, span: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(span).unwrap_or(now + CENTURY)
}
