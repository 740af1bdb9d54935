//! `Window`: the request that was sent ahead to a worker while it runs another one.

use std::{io, os::fd::OwnedFd, time::Instant};

use super::{
    super::super::super::super::queue::ahead::{Lookahead, MAX_DURATION},
    FrameSocket, State,
    encode::{Attachment, Encoded, encode},
};
use crate::{
    Request,
    net::seqpacket::{pair, try_recv, try_send, unread},
    proto::gate::request_id,
};

/// The state of the request that was sent ahead, and of the request that the worker runs.
///
/// A request is sent ahead on a second socket pair, which holds at most one message. After it, a marker of one byte is
/// sent on the main socket; when the worker reads the marker, it reads the second socket. This process has both ends of
/// the second pair: it takes the request back by reading it before the worker does. The marker remains in the main
/// socket then, so no other request is sent ahead until the worker has read the marker.
pub(super) struct Window {
    /// This process's end and the worker's. `None` if the worker runs several requests at a time, so that nothing is
    /// sent ahead.
    sockets: Option<[OwnedFd; 2]>,
    /// The worker's end of the main socket pair, from which unread requests are recovered when the worker has exited;
    /// `None` after that.
    worker_end: Option<OwnedFd>,
    /// The request that was sent ahead and not taken back.
    ahead: Option<u32>,
    /// Whether the main socket may hold the marker of a request that was taken back.
    is_stale: bool,
    /// The request that the worker had not read when it exited.
    unread: Option<u32>,
    /// When the worker began its current request; `None` if it has none.
    begun_at: Option<Instant>,
    /// Whether a request may be sent ahead during the current one.
    may_look_ahead: bool,
    /// Whether the previous request took less than [`MAX_DURATION`].
    was_short: bool,
}

impl Window {
    /// Creates the state of a worker with this end of its socket pair.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub(super) fn new(is_possible: bool, worker_end: OwnedFd) -> io::Result<Self> {
        let sockets = is_possible.then(pair).transpose()?.map(|(ours, theirs)| [ours, theirs]);
        let worker_end = Some(worker_end);
        Ok(Self {
            sockets,
            worker_end,
            ahead: None,
            is_stale: false,
            unread: None,
            begun_at: None,
            may_look_ahead: false,
            was_short: false,
        })
    }

    /// Returns the worker's end of the second socket pair.
    pub(super) fn worker_socket(&self) -> Option<&OwnedFd> {
        self.sockets.as_ref().map(|[_, theirs]| theirs)
    }

    /// Records that the worker begins a request. `may_look_ahead` means that the whole request is in its frame, so that
    /// another one may be sent ahead.
    pub(super) fn begin(&mut self, now: Instant, may_look_ahead: bool) {
        self.begun_at = Some(now);
        self.may_look_ahead = may_look_ahead && !self.is_stale;
        self.is_stale = false; // the worker reads the marker before this request
    }

    /// Records that the worker has completed its request.
    pub(super) fn complete(&mut self, now: Instant) {
        let is_short = |at: Instant| now.saturating_duration_since(at) < MAX_DURATION;
        self.was_short = self.begun_at.take().is_some_and(is_short);
    }

    /// Allows no request to be sent ahead until the next one is begun.
    pub(super) fn close(&mut self) {
        self.may_look_ahead = false;
    }

    /// Records that the worker begins the request that was sent ahead, and returns its id.
    pub(super) fn begin_ahead(&mut self) -> Option<u32> {
        self.ahead.take()
    }

    /// Takes back the request that was sent ahead, unless the worker has read it.
    fn take_back(&mut self, buffer: &mut [u8]) -> bool {
        let (Some(id), Some([_, theirs])) = (self.ahead, &self.sockets) else { return false };
        let message = try_recv(theirs, buffer);
        let is_taken = message.is_ok_and(|m| request_id(&buffer[..m.len]) == Some(id));
        self.ahead.take_if(|_| is_taken);
        self.is_stale |= is_taken;
        is_taken
    }

    /// Returns whether the worker exited before it read request `id`.
    pub(super) fn is_unread(&self, id: u32) -> bool {
        self.unread == Some(id)
    }

    /// Records that the worker has exited: finds the request that it has not read, and closes its end of the main
    /// socket.
    pub(super) fn end(&mut self, buffer: &mut [u8]) {
        let Some(worker_end) = self.worker_end.take() else { return };
        while let Ok(message) = try_recv(&worker_end, buffer)
            && message.len > 0
        {
            self.unread = self.unread.or_else(|| request_id(&buffer[..message.len]));
        }
        // A request that was sent ahead and counts as begun is in the second socket.
        if let (None, Some([_, theirs])) = (self.ahead, &self.sockets)
            && let Ok(message) = try_recv(theirs, buffer)
        {
            self.unread = self.unread.or_else(|| request_id(&buffer[..message.len]));
        }
    }

    /// Returns whether a request may be sent ahead now.
    fn is_open(&self, now: Instant) -> bool {
        let is_short = |at: Instant| now.saturating_duration_since(at) < MAX_DURATION;
        let is_free = self.ahead.is_none() && !self.is_stale && self.may_look_ahead;
        let is_fast = self.was_short && self.begun_at.is_some_and(is_short);
        is_free && is_fast && self.worker_socket().is_some_and(is_read)
    }
}

/// Returns whether the worker has read everything that was sent to its end of a socket.
fn is_read(socket: &OwnedFd) -> bool {
    matches!(unread(socket), Ok(0))
}

impl Lookahead for FrameSocket {
    fn send_ahead(&self, request: &Request) -> bool {
        let mut state = self.lock();
        if state.in_progress.is_none() || !state.window.is_open(Instant::now()) {
            return false;
        }
        let id = state.next_id();
        // A request that cannot be encoded fails later, when it is begun.
        let Ok(Encoded { frame, attachment: Attachment::Nothing }) = encode(id, request, None)
        else {
            return false;
        };
        let Some([ours, _]) = &state.window.sockets else { return false };
        // The marker is sent second, so that the request is there when the worker reads the marker.
        let is_sent = try_send(ours, &frame).is_ok();
        if is_sent && self.socket.try_send(&[0], &[]).is_err() {
            // The worker has exited, or does not read.
            state.window.ahead = Some(id);
            let State { window, buffer, .. } = &mut *state;
            window.take_back(buffer);
            return false;
        }
        state.window.ahead = Some(id).filter(|_| is_sent);
        is_sent
    }

    fn take_back(&self) -> bool {
        let mut state = self.lock();
        let State { window, buffer, .. } = &mut *state;
        window.take_back(buffer)
    }

    fn has_begun(&self) -> bool {
        let state = self.lock();
        let socket = state.window.worker_socket().filter(|_| state.window.ahead.is_some());
        socket.is_some_and(is_read)
    }
}
