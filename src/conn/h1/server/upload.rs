//! The request's body, on its way from the connection to the service.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::{busy::Busy, link::Link};
use crate::{
    body::Body,
    error::{BoxError, Error, Kind},
    net::Io,
    proto::h1::{Event, Fault},
};

impl<I, S, B> Link<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The body that follows the head that was just read. What came with the head is one piece;
    /// the rest will come through a channel.
    pub(super) fn open_body(&mut self, x: &mut Busy, now: Instant) -> Result<Body, Fault> {
        let whole = match x.core.body_left() {
            Some(0) => return x.core.recv(now, &mut x.input).map(|_end| Body::empty()),
            Some(n) => n <= x.input.len() as u64,
            None => false,
        };
        if whole && let Some(Event::Data(data)) = x.core.recv(now, &mut x.input)? {
            x.core.recv(now, &mut x.input)?; // its end
            return Ok(data.into());
        }
        let (sender, body) = Body::channel(x.core.body_left());
        x.upload = Some(sender);
        x.upload_wanted = false;
        Ok(body)
    }

    /// Moves what has come of the body to its reader, and finds out whether more is wanted.
    pub(super) fn pump_upload(&mut self, x: &mut Busy, now: Instant, cx: &Context<'_>) {
        let wanted = self.pump(x, now, cx);
        match (x.upload_wanted, wanted) {
            (false, true) => x.core.resume(now), // the time that the reader took is not the client's
            (true, false) => x.asked = now,      // nor the other way round
            _ => {}
        }
        x.upload_wanted = wanted;
    }

    fn pump(&mut self, x: &mut Busy, now: Instant, cx: &Context<'_>) -> bool {
        while let Some(sender) = &x.upload {
            let room = match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_gone)) => {
                    x.upload = None;
                    return false;
                }
                Poll::Pending => false,
            };
            if !room || !self.may_continue(x, cx) {
                return false;
            }
            match x.core.recv(now, &mut x.input) {
                Ok(Some(Event::Data(data))) => {
                    let data = detach(data);
                    if let Some(Err(_gone)) = x.upload.as_ref().map(|s| s.send(data)) {
                        x.upload = None;
                    }
                }
                Ok(Some(Event::End(trailers))) => {
                    if let Some(sender) = x.upload.take() {
                        sender.finish(trailers);
                    }
                }
                Ok(None) => return true,
                Ok(Some(Event::Head(_))) => unreachable!("a body is under way"),
                Err(fault) => self.fail(x, fault),
            }
        }
        false
    }

    /// Sends `100 Continue` once the body is asked for; until then there is nothing to read.
    fn may_continue(&mut self, x: &mut Busy, cx: &Context<'_>) -> bool {
        if !x.core.wants_continue() {
            return true;
        }
        let asked = x.upload.as_ref().is_some_and(|s| s.poll_wanted(cx) == Poll::Ready(Ok(())));
        let early = !x.input.is_empty(); // the client did not wait for it
        if (asked || early) && x.output.has_room() && !x.core.writes_body() {
            x.core.send_continue(x.output.head());
            return true;
        }
        false
    }

    /// The client broke the protocol, or was too slow: its request fails, in the middle of its
    /// body or before.
    pub(super) fn fail(&mut self, x: &mut Busy, fault: Fault) {
        x.faulted = true;
        let Some(sender) = x.upload.take() else {
            self.refuse(x, fault.status());
            return;
        };
        // The service learns it from the body; its answer, an error as a rule, is still sent.
        let kind = match fault {
            Fault::Timeout => Kind::ClientTimeout,
            Fault::FieldsTooLarge => Kind::TooLarge, // its trailers
            _ => Kind::BadRequest,
        };
        sender.abort(Error::new(kind, fault));
        x.core.close_after();
    }
}

/// Pieces below this size, 16 KiB, are copied out of the read buffer: so what waits holds at most four
/// times what it counts for.
const SMALL: usize = 16 << 10;

/// A small piece by itself: as a slice it would keep a read buffer of 64 KiB alive, for as long as
/// its reader lets it wait.
fn detach(data: Bytes) -> Bytes {
    if data.len() < SMALL { Bytes::copy_from_slice(&data) } else { data }
}
