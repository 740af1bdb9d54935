//! `Upload`: forwards the body of a request from `h2` to its reader.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use crate::{
    body::{Body, Sender},
    conn::{h2::unread::Unread, thread_buffers::detach},
    error::{Error, Kind},
    peer::RateMeter,
    proto::{
        h1::{Fault, Limits},
        h2::validate_trailers,
    },
};

/// A request body that is being received.
///
/// The client may send as much as its window allows, and the window is released as the reader takes data. So a reader
/// that stops reading stops the client.
pub(super) struct Upload {
    recv: RecvStream,
    /// Data that the reader has not taken, and whose window is not released.
    unread: Unread,
    sender: Sender,
    began: Instant,
    /// The time of the last data, while the reader waits for the client.
    waits_since: Option<Instant>,
    /// The time at which the reader stopped waiting, for the meter.
    paused_since: Option<Instant>,
    meter: RateMeter,
    expects_continue: bool,
    /// Whether all data was received, and trailers may follow.
    has_data: bool,
    /// The bytes that may still be discarded, once nothing reads the body.
    discard: Option<usize>,
}

/// Maximum number of bytes of a body that are discarded after its reader has gone: 64 KiB. A client that sends more is
/// told to stop, by a reset (RFC 9113 section 8.1).
const MAX_DISCARDED: usize = 64 << 10;

/// The state of an upload after a poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The reader waits for the client.
    Waits,
    /// The reader waits for the client, which waits for `100 Continue`.
    WaitsForContinue,
    /// The client waits for the reader.
    Paused,
    /// The body has no reader any more, and its rest is discarded.
    Discards,
    /// The body is complete, has failed, or its rest is too long to be discarded.
    Ended,
}

/// Returns the body of a request: complete if it was received with the head, otherwise with the upload that sends it.
pub(super) fn open_body(
    mut recv: RecvStream,
    length: Option<u64>,
    expects_continue: bool,
    limits: &Limits,
    now: Instant,
    cx: &mut Context<'_>,
) -> (Body, Option<Upload>) {
    if recv.is_end_stream() {
        return (Body::empty(), None);
    }
    let mut first = None;
    if let Poll::Ready(Some(Ok(data))) = recv.poll_data(cx) {
        let _ = recv.flow_control().release_capacity(data.len()); // it has just been received
        if recv.is_end_stream() {
            return (detach(data).into(), None);
        }
        first = Some(detach(data));
    }
    let (sender, body) = Body::channel(length);
    if let Some(data) = first
        && sender.send(data).is_err()
    {
        return (body, None);
    }
    let upload = Upload {
        recv,
        unread: Unread::default(),
        sender,
        began: now,
        waits_since: None,
        paused_since: Some(now),
        meter: RateMeter::start(limits.body_rate, now),
        expects_continue,
        has_data: false,
        discard: None,
    };
    (body, Some(upload))
}

impl Upload {
    /// Forwards received data while the reader has capacity.
    pub(super) fn poll(&mut self, limits: &Limits, now: Instant, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::Paused;
        if self.discard.is_none() {
            progress = self.pump(limits, now, cx);
        }
        if progress == Progress::Ended && self.start_discarding() || self.discard.is_some() {
            return self.poll_discard(cx);
        }
        match progress {
            Progress::Waits | Progress::WaitsForContinue => {
                self.waits_since.get_or_insert(now);
                if let Some(paused) = self.paused_since.take() {
                    self.meter.extend(now.saturating_duration_since(paused));
                }
            }
            // The client's timeout does not run while the reader does not read.
            Progress::Paused => {
                self.waits_since = None;
                self.paused_since.get_or_insert(now);
            }
            Progress::Discards | Progress::Ended => {}
        }
        progress
    }

    fn pump(&mut self, limits: &Limits, now: Instant, cx: &mut Context<'_>) -> Progress {
        loop {
            match self.sender.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_gone)) => return Progress::Ended,
                Poll::Pending => {
                    self.receive(cx);
                    return Progress::Paused;
                }
            }
            if let Some(data) = self.unread.pop() {
                if self.forward(data, limits, now).is_break() {
                    return Progress::Ended;
                }
                continue;
            }
            if self.has_data {
                return match self.recv.poll_trailers(cx) {
                    Poll::Pending => Progress::Waits,
                    Poll::Ready(Ok(trailers)) => self.finish(trailers, limits),
                    Poll::Ready(Err(error)) => self.abort(Kind::ClientGone, error),
                };
            }
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.expects_continue = false;
                    if self.forward(detach(data), limits, now).is_break() {
                        return Progress::Ended;
                    }
                }
                Poll::Ready(Some(Err(error))) => return self.abort(Kind::ClientGone, error),
                Poll::Ready(None) => self.has_data = true,
                Poll::Pending if self.expects_continue => {
                    // `100 Continue` is sent when the service reads the body, and not before.
                    return match self.sender.poll_demand(cx) {
                        Poll::Ready(Ok(())) => Progress::WaitsForContinue,
                        Poll::Ready(Err(_gone)) => Progress::Ended,
                        Poll::Pending => Progress::Paused,
                    };
                }
                Poll::Pending => return Progress::Waits,
            }
        }
    }

    /// Passes data to the reader, and releases its window.
    fn forward(&mut self, data: Bytes, limits: &Limits, now: Instant) -> ControlFlow<()> {
        // Cannot fail: the data has been received.
        let _ = self.recv.flow_control().release_capacity(data.len());
        self.meter.record(limits.body_rate, now, data.len() as u64);
        self.waits_since = self.waits_since.map(|_| now);
        if self.sender.send(data).is_err() { Break(()) } else { Continue(()) }
    }

    /// Takes received data out of `h2` while the reader does not read. The window bounds it.
    fn receive(&mut self, cx: &mut Context<'_>) {
        // An error is returned again when the reader reads.
        while let Poll::Ready(Some(Ok(data))) = self.recv.poll_data(cx) {
            self.expects_continue = false;
            self.unread.push(data);
        }
    }

    /// Starts to discard the rest of the body. Otherwise its data would arrive after a reset of the stream, and `h2`
    /// remembers a limited number of these. Returns `false` if nothing is left, or the client has not begun to send.
    pub(super) fn start_discarding(&mut self) -> bool {
        if self.has_data || self.expects_continue || self.recv.is_end_stream() {
            return false;
        }
        self.take_sender();
        self.release_unread();
        (self.waits_since, self.paused_since) = (None, None);
        self.discard.get_or_insert(MAX_DISCARDED);
        true
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Progress {
        while let Some(left) = self.discard {
            match self.recv.poll_data(cx) {
                Poll::Pending => return Progress::Discards,
                Poll::Ready(Some(Ok(data))) => {
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    self.discard = left.checked_sub(data.len());
                }
                Poll::Ready(Some(Err(_)) | None) => break,
            }
        }
        Progress::Ended
    }

    fn release_unread(&mut self) {
        let unread = std::mem::take(&mut self.unread).len();
        if unread > 0 {
            let _ = self.recv.flow_control().release_capacity(unread);
        }
    }

    /// Returns whether the client waits for the reader.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// Returns the bytes that were received and not forwarded: at most the stream's window.
    pub(super) fn unread(&mut self) -> usize {
        self.recv.flow_control().used_capacity()
    }

    /// Records that `100 Continue` was sent.
    pub(super) fn record_continue(&mut self) {
        self.expects_continue = false;
    }

    fn take_sender(&mut self) -> Sender {
        // The replacement has no reader, since nothing more is sent.
        std::mem::replace(&mut self.sender, Body::channel(Some(0)).0)
    }

    /// Ends the body with its trailers, or aborts it if they are invalid.
    fn finish(&mut self, trailers: Option<HeaderMap>, limits: &Limits) -> Progress {
        if let Some(trailers) = &trailers
            && let Err(fault) = validate_trailers(trailers, limits)
        {
            let is_large = fault == Fault::FieldsTooLarge;
            let kind = if is_large { Kind::TooLarge } else { Kind::BadRequest };
            return self.abort(kind, fault);
        }
        self.take_sender().finish(trailers);
        Progress::Ended
    }

    fn abort(&mut self, kind: Kind, error: impl Into<crate::BoxError>) -> Progress {
        self.take_sender().abort(Error::new(kind, error));
        Progress::Ended
    }

    /// Aborts the body, since the client is too slow. The service gets the error, and its response is still sent.
    pub(super) fn time_out(&mut self) {
        self.abort(Kind::ClientTimeout, Fault::Timeout);
    }

    /// Returns the time at which the client is too slow; `None` while its reader does not wait for it.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Instant> {
        let since = self.waits_since?;
        let total = self.began.checked_add(limits.body_total_timeout);
        let pause = since.checked_add(limits.body_timeout);
        [pause, total, self.meter.deadline()].into_iter().flatten().min()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // `h2` would release it at the end of the stream, and other requests of the connection may need it before.
        self.release_unread();
    }
}
