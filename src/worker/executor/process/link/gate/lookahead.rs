//! `Window`: the requests that were sent ahead to a worker while it runs another one.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    task::Waker,
    time::{Duration, Instant},
};

use http::header::UPGRADE;

use super::{
    super::super::super::super::queue::ahead::{Lookahead, MAX_DURATION, NotSent},
    FrameSocket, State,
    encode::{Attachment, Encoded, encode},
    frames::with_buffer,
};
use crate::{
    Request,
    net::seqpacket::{try_recv, unread},
    proto::gate::request_id,
};

/// Maximum number of requests that are ahead at a worker: 16. With more of them it runs for longer before another process
/// gets its core and replaces the contents of the caches.
const MAX_DEPTH: usize = 16;

/// Maximum expected duration of all requests that are ahead at a worker, by the average of its last ones: 2 ms. One
/// request may take longer.
const MAX_WORK: Duration = Duration::from_millis(2);

/// The inverse weight of a request in the average duration: 8, so that the average is over about eight requests.
const WEIGHT: u32 = 8;

/// The state of the requests that are ahead, and of the request that the worker runs.
///
/// They are in the worker's socket, of which this process has both ends. It takes a request back by reading it before
/// the worker does. Both read the oldest request first.
pub(super) struct Window {
    /// The worker's end of the socket pair; `None` after its exit.
    worker_end: Option<OwnedFd>,
    /// Whether the worker reads a request only after it has answered the previous one.
    is_sequential: bool,
    /// The ids and sizes of the requests that were sent ahead and not taken back, oldest first.
    ahead: VecDeque<(u32, usize)>,
    /// The id of a request that was sent ahead and has begun, until its exchange begins.
    begun: Option<u32>,
    /// The id of the current request, if it was taken back together with later ones, before the worker had read it.
    pub(super) taken_back: Option<u32>,
    /// Woken when the current request is taken back.
    exchange: Option<Waker>,
    /// The requests that the worker had not read when it exited.
    unread: Vec<u32>,
    /// When the worker began its current request; `None` if it has none.
    begun_at: Option<Instant>,
    /// Whether requests may be sent ahead during the current one.
    may_look_ahead: bool,
    /// The duration of its previous request.
    last: Option<Duration>,
    /// The average duration of its requests.
    average: Duration,
}

impl Window {
    /// Creates the state of a worker with this end of its socket pair.
    pub(super) fn new(is_sequential: bool, worker_end: OwnedFd) -> Self {
        Self {
            worker_end: Some(worker_end),
            is_sequential,
            ahead: VecDeque::new(),
            begun: None,
            taken_back: None,
            exchange: None,
            unread: Vec::new(),
            begun_at: None,
            may_look_ahead: false,
            last: None,
            average: Duration::ZERO,
        }
    }

    /// Returns whether the worker reads a request only after it has answered the previous one.
    pub(super) fn is_sequential(&self) -> bool {
        self.is_sequential
    }

    /// Records that the worker begins a request. `may_look_ahead` means that the whole request is in its frame, so that
    /// others may be sent ahead.
    pub(super) fn begin(&mut self, now: Instant, may_look_ahead: bool) {
        self.begun_at = Some(now);
        self.may_look_ahead = may_look_ahead && self.is_sequential;
    }

    /// Records that the worker has completed its request.
    pub(super) fn complete(&mut self, now: Instant) {
        let Some(begun_at) = self.begun_at.take() else { return };
        let last = now.saturating_duration_since(begun_at);
        self.average = match self.last {
            None => last,
            Some(_) => self.average - self.average / WEIGHT + last / WEIGHT,
        };
        self.last = Some(last);
    }

    /// Allows no request to be sent ahead until the next one is begun.
    pub(super) fn close(&mut self) {
        self.may_look_ahead = false;
    }

    /// Takes the id of the request that was sent ahead, whose exchange begins now.
    pub(super) fn take_begun(&mut self) -> Option<u32> {
        self.begun.take()
    }

    /// Returns whether the current request, `id`, was taken back. If not, `waker` is woken when it is.
    pub(super) fn is_taken_back(&mut self, id: u32, waker: &Waker) -> bool {
        if !self.is_sequential {
            return false;
        }
        match &mut self.exchange {
            Some(before) => before.clone_from(waker),
            None => self.exchange = Some(waker.clone()),
        }
        self.taken_back.take_if(|taken| *taken == id).is_some()
    }

    /// Returns whether the worker exited before it read request `id`.
    pub(super) fn is_unread(&self, id: u32) -> bool {
        self.unread.contains(&id)
    }

    /// Records that the worker has exited: finds the requests that it has not read, and closes its end of the socket.
    pub(super) fn end(&mut self) {
        let Some(worker_end) = self.worker_end.take() else { return };
        with_buffer(|buffer| {
            while let Ok(message) = try_recv(&worker_end, buffer)
                && message.len > 0
            {
                self.unread.extend(request_id(&buffer[..message.len]));
            }
        });
    }

    /// Returns whether no request is ahead.
    pub(super) fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.begun.is_none()
    }

    /// Returns whether a request may be sent ahead now.
    fn is_open(&self, now: Instant) -> bool {
        let is_short = |duration: Duration| duration < MAX_DURATION;
        let is_fast = self.last.is_some_and(is_short)
            && self.begun_at.is_some_and(|at| is_short(now.saturating_duration_since(at)));
        let fits = self.average * (self.ahead.len() as u32 + 1) <= MAX_WORK;
        // What is sent after the exit of the worker is lost, even if a descendant still holds the socket open.
        self.worker_end.is_some()
            && self.may_look_ahead
            && is_fast
            && (self.ahead.is_empty() || fits && self.ahead.len() < MAX_DEPTH)
    }

    /// Returns the number of bytes in the socket that the worker has not read; `None` after its exit.
    fn unread_bytes(&self) -> Option<u64> {
        self.worker_end.as_ref().and_then(|socket| unread(socket).ok())
    }
}

impl State {
    /// Reads requests in place of the worker, up to the request `last`. Returns the ids of those that were ahead.
    fn take_back(&mut self, last: u32) -> Vec<u32> {
        with_buffer(|buffer| self.take_back_with(buffer, last))
    }

    fn take_back_with(&mut self, buffer: &mut [u8], last: u32) -> Vec<u32> {
        let Self { window, in_progress, .. } = self;
        let mut taken = Vec::new();
        let Some(worker_end) = &window.worker_end else {
            // The worker has exited, and `end` has read its socket.
            let Some(end) = window.ahead.iter().position(|(id, _)| *id == last) else {
                return taken;
            };
            let unread = window.ahead.drain(..=end).map(|(id, _)| id).collect::<Vec<_>>();
            taken.extend(unread.iter().filter(|id| window.unread.contains(id)));
            // The others have begun.
            for id in unread.into_iter().rev().filter(|id| !window.unread.contains(id)) {
                window.ahead.push_front((id, 0));
            }
            return taken;
        };
        while let Some(end) = window.ahead.iter().position(|(id, _)| *id == last)
            && let Ok(message) = try_recv(worker_end, buffer)
            && message.len > 0
        {
            let Some(id) = request_id(&buffer[..message.len]) else {
                continue; // the disconnect of an earlier request's client
            };
            if let Some(at) = window.ahead.iter().position(|(ahead, _)| *ahead == id) {
                window.ahead.remove(at);
                taken.push(id);
                if at > end {
                    break; // the worker has read `last`
                }
            } else if in_progress.take_if(|current| *current == id).is_some() {
                window.taken_back = Some(id);
                window.begun_at = None;
            }
        }
        taken
    }
}

impl Lookahead for FrameSocket {
    fn send_ahead(&self, request: &Request, now: Instant) -> Result<u32, NotSent> {
        let mut state = self.lock();
        // A WebSocket would need another socket.
        if request.headers().contains_key(UPGRADE) {
            return Err(NotSent::Unsuitable);
        }
        if state.in_progress.is_none() || !state.window.is_open(now) {
            return Err(NotSent::Full);
        }
        let id = state.next_id();
        // A request that cannot be encoded fails later, when it is begun.
        let Ok(Encoded { frame, attachment: Attachment::Nothing }) = encode(id, request, None)
        else {
            return Err(NotSent::Unsuitable);
        };
        self.socket.try_send(&frame, &[]).map_err(|_| NotSent::Full)?;
        state.window.ahead.push_back((id, frame.len()));
        Ok(id)
    }

    fn begin_ahead(&self, id: u32, now: Instant) {
        let mut state = self.lock();
        // Otherwise the pool and this socket disagree. Then the request is sent anew, and the worker, whose next response
        // has another id, is stopped: no response may go to the client of another request.
        if state.window.ahead.front().is_some_and(|(ahead, _)| *ahead == id) {
            state.window.ahead.pop_front();
            state.window.begun = Some(id);
            state.in_progress = Some(id);
            state.window.begin(now, true);
        }
    }

    fn take_back(&self, last: u32) -> Vec<u32> {
        let mut state = self.lock();
        let taken = state.take_back(last);
        let is_revoked = state.window.taken_back.is_some();
        let exchange = state.window.exchange.take_if(|_| is_revoked);
        drop(state);
        if let Some(waker) = exchange {
            waker.wake();
        }
        taken
    }

    fn has_read_current(&self) -> bool {
        let state = self.lock();
        let ahead: usize = state.window.ahead.iter().map(|(_, size)| size).sum();
        state.window.unread_bytes().is_none_or(|unread| unread <= ahead as u64)
    }

    fn has_begun(&self) -> bool {
        let state = self.lock();
        let ahead: usize = state.window.ahead.iter().map(|(_, size)| size).sum();
        let unread = state.window.unread_bytes();
        ahead > 0 && unread.is_some_and(|unread| unread < ahead as u64)
    }
}
