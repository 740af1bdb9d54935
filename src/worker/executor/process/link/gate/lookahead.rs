//! `Window`: the request that was sent ahead to a worker, while it answers another one.

use std::{os::fd::OwnedFd, time::Instant};

use super::{
    super::super::super::super::queue::ahead::{Lookahead, MAX_DURATION},
    FrameSocket, State,
    encode::{Attachment, Encoded, encode},
};
use crate::{
    Request,
    net::seqpacket::{try_recv, unread},
    proto::gate::request_id,
};

/// The known state of the worker's end of the socket.
///
/// A request is sent ahead only when the worker has read everything else. So it is the only one in the socket, and
/// either the worker reads it or this process does, which takes it back.
pub(super) struct Window {
    /// The worker's end, to take back unread requests. `None` if nothing can be sent ahead: the worker reads requests
    /// before it has answered others, or has ended.
    worker_end: Option<OwnedFd>,
    /// The request that was sent ahead and not taken back.
    ahead: Option<u32>,
    /// The request that a worker had not read when it ended.
    unread: Option<u32>,
    /// The time at which the worker began its current request; `None` if nothing may be sent ahead after it.
    begun_at: Option<Instant>,
    /// Whether its last request was short.
    was_short: bool,
}

impl Window {
    pub(super) fn new(worker_end: Option<OwnedFd>) -> Self {
        Self { worker_end, ahead: None, unread: None, begun_at: None, was_short: false }
    }

    pub(super) fn is_possible(&self) -> bool {
        self.worker_end.is_some()
    }

    /// Records that the worker begins a request. Another one may be sent ahead if `may_look_ahead`: the whole request
    /// is in its frame.
    pub(super) fn begin(&mut self, now: Instant, may_look_ahead: bool) {
        self.begun_at = Some(now).filter(|_| may_look_ahead);
    }

    /// Records that the worker has completed its request.
    pub(super) fn complete(&mut self, now: Instant) {
        let is_short = |at: Instant| now.saturating_duration_since(at) < MAX_DURATION;
        self.was_short = self.begun_at.take().is_some_and(is_short);
    }

    /// Prevents sending ahead until the next request is begun.
    pub(super) fn close(&mut self) {
        self.begun_at = None;
    }

    pub(super) fn take_ahead(&mut self) -> Option<u32> {
        self.ahead.take()
    }

    /// Returns whether the worker ended before it read request `id`.
    pub(super) fn is_unread(&self, id: u32) -> bool {
        self.unread == Some(id)
    }

    /// Records that the worker has ended: determines which request it has not read, and closes its end.
    pub(super) fn end(&mut self, buffer: &mut [u8]) {
        let Some(worker_end) = self.worker_end.take() else { return };
        while let Ok(message) = try_recv(&worker_end, buffer)
            && message.len > 0
        {
            self.unread = self.unread.or_else(|| request_id(&buffer[..message.len]));
        }
    }

    /// Returns whether a request may be sent ahead now.
    fn is_open(&self, now: Instant) -> bool {
        let is_short = |at: Instant| now.saturating_duration_since(at) < MAX_DURATION;
        self.was_short
            && self.ahead.is_none()
            && self.begun_at.is_some_and(is_short)
            && self.has_read_all()
    }

    fn has_read_all(&self) -> bool {
        self.worker_end.as_ref().is_some_and(|end| matches!(unread(end), Ok(0)))
    }
}

impl Lookahead for FrameSocket {
    fn send_ahead(&self, request: &Request) -> bool {
        let mut state = self.lock();
        if state.in_progress.is_none() || !state.window.is_open(Instant::now()) {
            return false;
        }
        let id = state.next_id();
        // A request that cannot be encoded is refused when it is begun.
        let Ok(Encoded { frame, attachment: Attachment::Nothing }) = encode(id, request, None)
        else {
            return false;
        };
        let is_sent = self.socket.try_send(&frame, &[]).is_ok();
        state.window.ahead = Some(id).filter(|_| is_sent);
        is_sent
    }

    fn take_back(&self) -> bool {
        let mut state = self.lock();
        let State { window, buffer, .. } = &mut *state;
        let Some(id) = window.ahead else { return false };
        let taken = match &window.worker_end {
            Some(end) => match try_recv(end, buffer) {
                Ok(message) => request_id(&buffer[..message.len]),
                Err(_would_block) => None,
            },
            None => window.unread,
        };
        let is_taken = taken == Some(id);
        window.ahead.take_if(|_| is_taken);
        is_taken
    }

    fn has_begun(&self) -> bool {
        let state = self.lock();
        state.window.ahead.is_some() && state.window.has_read_all()
    }
}
