//! `Window`: the request that was sent ahead to a worker, while it answers another one.

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

/// The state of the request that is sent ahead, and of the one before.
///
/// It travels on a socket pair of its own. A message of one byte on the other socket, the mark, says when the worker is
/// to read it. It is the only message there, and this process has both ends: either the worker reads it or this process
/// does, which takes it back. The mark stays then, so nothing else is sent ahead before the worker has read that.
pub(super) struct Window {
    /// This process's end and the worker's. `None` if nothing can be sent ahead: the worker reads requests before it has
    /// answered others.
    sockets: Option<[OwnedFd; 2]>,
    /// The worker's end of the other socket pair, to find out what it has not read; `None` after its exit.
    worker_end: Option<OwnedFd>,
    /// The request that was sent ahead and not taken back.
    ahead: Option<u32>,
    /// Whether the worker may find the mark of a request that was taken back.
    is_stale: bool,
    /// The request that a worker that has ended had not read.
    unread: Option<u32>,
    /// When the worker began its present request; `None` if it has none.
    begun_at: Option<Instant>,
    /// Whether another request may be sent ahead behind that.
    may_look_ahead: bool,
    /// Whether its last request was short.
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

    /// The socket from which the worker reads what is sent ahead.
    pub(super) fn worker_socket(&self) -> Option<&OwnedFd> {
        self.sockets.as_ref().map(|[_, theirs]| theirs)
    }

    /// Records that the worker begins a request. Another one may be sent ahead if `may_look_ahead`: the whole request
    /// is in its frame.
    pub(super) fn begin(&mut self, now: Instant, may_look_ahead: bool) {
        self.begun_at = Some(now);
        self.may_look_ahead = may_look_ahead && !self.is_stale;
        self.is_stale = false; // once it has completed this request, it has read the mark that was sent before
    }

    /// Records that the worker has completed its request.
    pub(super) fn complete(&mut self, now: Instant) {
        let is_short = |at: Instant| now.saturating_duration_since(at) < MAX_DURATION;
        self.was_short = self.begun_at.take().is_some_and(is_short);
    }

    /// Prevents sending ahead until the next request is begun.
    pub(super) fn close(&mut self) {
        self.may_look_ahead = false;
    }

    /// The worker begins the request that was sent ahead, if there is one: it has the mark, and reads it next.
    pub(super) fn begin_ahead(&mut self) -> Option<u32> {
        self.ahead.take()
    }

    /// Takes back what is ahead, unless the worker has read it.
    fn take_back(&mut self, buffer: &mut [u8]) -> bool {
        let (Some(id), Some([_, theirs])) = (self.ahead, &self.sockets) else { return false };
        let message = try_recv(theirs, buffer);
        let is_taken = message.is_ok_and(|m| request_id(&buffer[..m.len]) == Some(id));
        self.ahead.take_if(|_| is_taken);
        self.is_stale |= is_taken;
        is_taken
    }

    /// Returns whether the worker ended before it read request `id`.
    pub(super) fn is_unread(&self, id: u32) -> bool {
        self.unread == Some(id)
    }

    /// Records that the worker has ended: determines which request it has not read, and closes its end of that socket.
    pub(super) fn end(&mut self, buffer: &mut [u8]) {
        let Some(worker_end) = self.worker_end.take() else { return };
        while let Ok(message) = try_recv(&worker_end, buffer)
            && message.len > 0
        {
            self.unread = self.unread.or_else(|| request_id(&buffer[..message.len]));
        }
        // One that was sent ahead and is begun lies in the other socket.
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

/// Whether the worker has read all that was sent to its end of a socket.
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
        // A request that cannot be encoded is refused when it is begun.
        let Ok(Encoded { frame, attachment: Attachment::Nothing }) = encode(id, request, None)
        else {
            return false;
        };
        let Some([ours, _]) = &state.window.sockets else { return false };
        // The mark comes second: what is there when the worker reads it is what it belongs to.
        let is_sent = try_send(ours, &frame).is_ok();
        if is_sent && self.socket.try_send(&[0], &[]).is_err() {
            // The worker has ended, or does not read.
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
