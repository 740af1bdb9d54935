//! `Incoming`: the body of a response on a shared connection.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::SizeHint;

use super::{Active, Cause, upload::Upload};
use crate::{
    body::{PollSegment, Segment, Segments},
    conn::{h2::inbox::Inbox, timer::Timer},
    net::clock,
    proto::{h1::Limits, h2::remove_framing},
};

/// The body of a response. The server may send as much as its window allows, and the window is released as the body
/// is read. Dropping it before its end resets the request.
pub(super) struct Incoming {
    inbox: Inbox,
    /// The unsent part of the request's body: the server may respond before the request is complete.
    upload: Option<Box<Upload>>,
    limits: Arc<Limits>,
    /// The remaining bytes of the body, if known.
    remaining: Option<u64>,
    has_data: bool,
    has_ended: bool,
    /// The time since which the reader waits for the server, while that does not wait for the client.
    since: Option<Instant>,
    timer: Timer,
    active: Active,
}

impl Incoming {
    pub(super) fn new(
        inbox: Inbox,
        upload: Option<Box<Upload>>,
        limits: Arc<Limits>,
        active: Active,
        headers: &HeaderMap,
    ) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let has_data = inbox.is_end_stream();
        Self {
            has_data,
            has_ended: false,
            remaining: if has_data { Some(0) } else { length },
            inbox,
            upload,
            limits,
            since: None,
            timer: Timer::default(),
            active,
        }
    }

    /// Sends the rest of the request as far as possible.
    fn poll_upload(&mut self, now: Instant, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        // A request that can no longer be sent does not invalidate its response.
        let mut sent = 0;
        if upload.poll(&self.active.shared.room, now, &mut sent, cx).is_ready() {
            self.upload = None;
        }
        if sent > 0 || self.upload.is_none() {
            self.since = None;
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Segment, h2::Error>>> {
        if !self.has_data {
            match self.inbox.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.has_data = true,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(data))) => {
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Segment::Bytes(data))));
                }
            }
        }
        self.inbox
            .poll_trailers(cx)
            .map_ok(|trailers| {
                trailers.map(|mut trailers| {
                    remove_framing(&mut trailers);
                    Segment::Trailers(trailers)
                })
            })
            .map(Result::transpose)
    }
}

impl Segments for Incoming {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let now = clock::now();
        self.poll_upload(now, cx);
        let result = match self.poll_recv(cx) {
            Poll::Ready(result) => {
                self.since = None;
                result.map(|segment| segment.map_err(Cause::new))
            }
            Poll::Pending => {
                let timeout = self.limits.body_timeout;
                let until =
                    match self.upload.as_ref().map(|upload| upload.outgoing.deadline(timeout)) {
                        // The server has all that the client has sent, and may wait for more.
                        Some(None) => {
                            self.since = None;
                            None
                        }
                        // It must take more of the request, or send more of the response.
                        unread => {
                            let since = *self.since.get_or_insert(now);
                            since.checked_add(timeout).max(unread.flatten())
                        }
                    };
                if !self.timer.poll(cx, until, now) {
                    return Poll::Pending;
                }
                Some(Err(Cause::Timeout))
            }
        };
        self.has_ended = match &result {
            Some(Ok(segment)) => matches!(segment, Segment::Trailers(_)),
            Some(Err(_)) | None => true,
        };
        Poll::Ready(result.map(|segment| segment.map_err(Cause::into_error)))
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        self.poll_upload(clock::now(), cx);
    }

    fn is_end(&self) -> bool {
        self.has_ended || (self.upload.is_none() && self.inbox.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests;
