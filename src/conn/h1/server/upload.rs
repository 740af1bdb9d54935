//! Forwarding of the request's body from the connection to the service.

use std::{
    io,
    task::{Context, Poll, ready},
    time::Instant,
};

use super::{
    active::{Active, Upload},
    driver::Driver,
};
use crate::{
    HttpService,
    body::{Body, Pipe},
    conn::{
        first_read::{MIN_SPLICED, is_splice_unsupported},
        thread_buffers::{self, detach},
    },
    error::{Error, Kind},
    net::Io,
    proto::h1::{Event, Fault},
};

impl<I, S> Driver<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Returns the body of the request whose head was just read. A body that arrived with its head is one
    /// piece; otherwise it is a channel.
    pub(super) fn open_body(&mut self, active: &mut Active, now: Instant) -> Result<Body, Fault> {
        if self.io.can_splice() {
            active.first_read.record_head(active.core.remaining_body().unwrap_or(0));
        }
        let whole = match active.core.remaining_body() {
            Some(0) => return active.core.recv(now, &mut active.input).map(|_end| Body::empty()),
            Some(n) => n <= active.input.len() as u64,
            None => false,
        };
        if whole && let Some(Event::Data(data)) = active.core.recv(now, &mut active.input)? {
            active.core.recv(now, &mut active.input)?; // the end of the body
            return Ok(data.into());
        }
        let (sender, body) = Body::channel(active.core.remaining_body());
        active.upload = Some(Upload { sender, is_wanted: false, is_piped: false });
        Ok(body)
    }

    /// Forwards received bytes of the body to its reader, and records whether the reader wants more.
    pub(super) fn pump_upload(&mut self, active: &mut Active, now: Instant, cx: &Context<'_>) {
        let was_wanted = active.wants_upload();
        let is_wanted = self.pump(active, now, cx);
        match (was_wanted, is_wanted) {
            (false, true) => active.core.resume(now), // the client's time does not run while the reader does not read
            (true, false) => active.restart_call_timer(now), // and the service's not while the client is slow
            _ => {}
        }
        if let Some(upload) = &mut active.upload {
            upload.is_wanted = is_wanted;
        }
    }

    fn pump(&mut self, active: &mut Active, now: Instant, cx: &Context<'_>) -> bool {
        while let Some(Upload { sender, .. }) = &active.upload {
            let room = match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_gone)) => {
                    active.upload = None;
                    return false;
                }
                Poll::Pending => false,
            };
            if !room || !self.try_continue(active, cx) {
                return false;
            }
            match active.core.recv(now, &mut active.input) {
                Ok(Some(Event::Data(data))) => {
                    let data = detach(data);
                    if let Some(Err(_gone)) = active.upload.as_ref().map(|u| u.sender.send(data)) {
                        active.upload = None;
                    }
                }
                Ok(Some(Event::End(trailers))) => {
                    if let Some(upload) = active.upload.take() {
                        upload.sender.finish(trailers);
                    }
                }
                Ok(None) => return true,
                Ok(Some(Event::Head(_))) => unreachable!("a body is under way"),
                Err(fault) => self.fail_request(active, fault, now),
            }
        }
        false
    }

    /// Reads a part of the body that is being forwarded, or moves it into a pipe if its reader takes that.
    pub(super) fn poll_read_upload(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let left = active.core.remaining_body();
        let Some(upload) = &mut active.upload else { return Poll::Ready(Ok(0)) };
        let is_large = left.is_some_and(|left| left >= MIN_SPLICED || upload.is_piped);
        if is_large && active.input.is_empty() && self.io.can_splice() {
            if !upload.sender.accepts_pipes() {
                // An upstream exchange that is still connecting may accept them later.
                if upload.sender.has_demand() {
                    active.first_read.record_refused_pipes();
                }
            } else if let Some(filled) = self.poll_fill_pipe(left, cx) {
                let Some(pipe) = ready!(filled)? else { return Poll::Ready(Ok(0)) };
                let n = pipe.len();
                active.core.recv_moved(now, n).map_err(io::Error::other)?;
                upload.is_piped = true;
                if upload.sender.send_pipe(pipe).is_err() {
                    active.upload = None;
                }
                return Poll::Ready(Ok(n));
            }
        }
        thread_buffers::poll_read_body(&mut self.io, cx, &mut active.input, left)
    }

    /// Moves up to `left` bytes into a pipe. Ready with `None` at the end of the stream. Returns `None` if they must be
    /// read.
    fn poll_fill_pipe(
        &mut self,
        left: Option<u64>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<Option<Pipe>>>> {
        let budget = &self.config.budget;
        if budget.is_above_soft_limit() {
            return None;
        }
        let mut pipe = Pipe::try_acquire()?;
        let left = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        Some(match self.io.poll_fill_pipe(cx, &mut pipe, left) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(_)) => {
                pipe.hold(budget.memory_lease());
                Poll::Ready(Ok(Some(pipe)))
            }
            Poll::Ready(Err(e)) if is_splice_unsupported(&e) => return None,
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
        })
    }

    /// Sends `100 Continue` once the service reads the body. Returns whether the body may be read.
    fn try_continue(&mut self, active: &mut Active, cx: &Context<'_>) -> bool {
        if !active.core.wants_continue() {
            return true;
        }
        let asked =
            active.upload.as_ref().is_some_and(|u| u.sender.poll_demand(cx) == Poll::Ready(Ok(())));
        let early = !active.input.is_empty(); // the client did not wait for 100 Continue
        if (asked || early) && active.output.has_room() && !active.core.is_writing_body() {
            active.core.send_continue(active.output.head());
            return true;
        }
        false
    }

    /// Fails a request that violates the protocol or is too slow, in its head or in its body.
    pub(super) fn fail_request(&mut self, active: &mut Active, fault: Fault, now: Instant) {
        active.protocol_error = true;
        let Some(Upload { sender, .. }) = active.upload.take() else {
            self.refuse_fault(active, fault);
            return;
        };
        // The service sees the error in the body; its response, usually an error, is still sent.
        let kind = match fault {
            Fault::Timeout => Kind::ClientTimeout,
            Fault::FieldsTooLarge => Kind::TooLarge, // its trailers
            _ => Kind::BadRequest,
        };
        sender.abort(Error::new(kind, fault));
        active.core.disable_keep_alive();
        active.restart_call_timer(now); // the service's time to answer to the error
    }
}
