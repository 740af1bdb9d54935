//! `Incoming`: the body of a response on a shared connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Frame, SizeHint};

use super::{Active, Cause};
use crate::{
    conn::{
        h2::{inbox::Inbox, server::respond::Outgoing},
        timer::Timer,
    },
    error::BoxError,
    net::clock,
    proto::h1::Limits,
};

/// The body of a response. The server may send as much as its window allows, and the window is released as the body
/// is read. Dropping it before its end resets the request.
pub(super) struct Incoming {
    inbox: Inbox,
    /// The unsent part of the request's body: the server may respond before the request is complete.
    upload: Option<Box<Outgoing>>,
    limits: Arc<Limits>,
    /// The remaining bytes of the body, if known.
    remaining: Option<u64>,
    has_data: bool,
    has_ended: bool,
    /// The time since which the reader waits for the server.
    since: Option<Instant>,
    timer: Timer,
    _active: Active,
}

impl Incoming {
    pub(super) fn new(
        inbox: Inbox,
        upload: Option<Box<Outgoing>>,
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
            _active: active,
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.has_data {
            match self.inbox.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.has_data = true,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(data))) => {
                    if let Some(remaining) = &mut self.remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
        self.inbox
            .poll_trailers(cx)
            .map(|trailers| trailers.transpose().map(|t| t.map(Frame::trailers)))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        let now = clock::now();
        if let Some(upload) = &mut this.upload {
            // A request that can no longer be sent does not invalidate its response.
            if upload.poll(now, &mut 0, cx).is_ready() {
                this.upload = None;
            }
        }
        let result = match this.poll_recv(cx) {
            Poll::Ready(result) => {
                this.since = None;
                result.map(|frame| frame.map_err(Cause::new))
            }
            Poll::Pending => {
                let since = *this.since.get_or_insert(now);
                let until = since.checked_add(this.limits.body_timeout);
                if !this.timer.poll(cx, until, now) {
                    return Poll::Pending;
                }
                Some(Err(Cause::Timeout))
            }
        };
        this.has_ended = match &result {
            Some(Ok(frame)) => frame.is_trailers(),
            Some(Err(_)) | None => true,
        };
        Poll::Ready(result.map(|frame| frame.map_err(Cause::into_error)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || (self.upload.is_none() && self.inbox.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
