//! Forwarding of the request's body from the connection to the service.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::{
    active::{Active, Upload},
    driver::Driver,
};
use crate::{
    HttpService,
    body::Body,
    conn::thread_buffers::detach,
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
        active.upload = Some(Upload { sender, is_wanted: false });
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
                Err(fault) => self.fail_request(active, fault),
            }
        }
        false
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
    pub(super) fn fail_request(&mut self, active: &mut Active, fault: Fault) {
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
    }
}
