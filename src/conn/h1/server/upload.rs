//! The request's body, on its way from the connection to the service.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::Connection;
use crate::{
    body::Body,
    error::{BoxError, Error, Kind},
    net::Io,
    proto::h1::{Event, Fault},
};

impl<I, S, B> Connection<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// The body that follows the head that was just read. What came with the head is one piece;
    /// the rest will come through a channel.
    pub(super) fn open_body(&mut self, now: Instant) -> Result<Body, Fault> {
        let whole = match self.core.body_left() {
            Some(0) => return self.core.recv(now, &mut self.input).map(|_end| Body::empty()),
            Some(n) => n <= self.input.len() as u64,
            None => false,
        };
        if whole && let Some(Event::Data(data)) = self.core.recv(now, &mut self.input)? {
            self.core.recv(now, &mut self.input)?; // its end
            return Ok(data.into());
        }
        let (sender, body) = Body::channel(self.core.body_left());
        self.upload = Some(sender);
        self.upload_wanted = false;
        Ok(body)
    }

    /// Moves what has come of the body to its reader, and finds out whether more is wanted.
    pub(super) fn pump_upload(&mut self, now: Instant, cx: &Context<'_>) {
        let wanted = self.pump(now, cx);
        if wanted && !self.upload_wanted {
            self.core.resume(now); // the time that the reader took is not the client's
        }
        self.upload_wanted = wanted;
    }

    fn pump(&mut self, now: Instant, cx: &Context<'_>) -> bool {
        while let Some(sender) = &self.upload {
            let room = match sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(_gone)) => {
                    self.upload = None;
                    return false;
                }
                Poll::Pending => false,
            };
            if !room || !self.may_continue(cx) {
                return false;
            }
            match self.core.recv(now, &mut self.input) {
                Ok(Some(Event::Data(data))) => {
                    let data = detach(data);
                    if let Some(Err(_gone)) = self.upload.as_ref().map(|s| s.send(data)) {
                        self.upload = None;
                    }
                }
                Ok(Some(Event::End(trailers))) => {
                    if let Some(sender) = self.upload.take() {
                        sender.finish(trailers);
                    }
                }
                Ok(None) => return true,
                Ok(Some(Event::Head(_))) => unreachable!("a body is under way"),
                Err(fault) => self.fail(fault),
            }
        }
        false
    }

    /// Sends `100 Continue` once the body is asked for; until then there is nothing to read.
    fn may_continue(&mut self, cx: &Context<'_>) -> bool {
        if !self.core.wants_continue() {
            return true;
        }
        let asked = self.upload.as_ref().is_some_and(|s| s.poll_wanted(cx) == Poll::Ready(Ok(())));
        let early = !self.input.is_empty(); // the client did not wait for it
        if (asked || early) && self.output.has_room() && !self.core.writes_body() {
            self.core.send_continue(self.output.head());
            return true;
        }
        false
    }

    /// The client broke the protocol, or was too slow: its request fails, in the middle of its
    /// body or before.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.faulted = true;
        let Some(sender) = self.upload.take() else {
            self.refuse(fault.status());
            return;
        };
        // The service learns it from the body; its answer, an error as a rule, is still sent.
        let kind = match fault {
            Fault::Timeout => Kind::ClientTimeout,
            _ => Kind::BadRequest,
        };
        sender.abort(Error::new(kind, fault));
        self.core.close_after();
    }
}

/// Pieces below this size are copied out of the read buffer.
const SMALL: usize = 4 << 10;

/// A small piece by itself: as a slice it would keep a read buffer of 64 KiB alive, for as long as
/// its reader lets it wait.
fn detach(data: Bytes) -> Bytes {
    if data.len() < SMALL { Bytes::copy_from_slice(&data) } else { data }
}
