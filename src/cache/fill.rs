//! `Fill`: a response whose content a task reads from the origin, while any number of clients read it from memory.

mod reader;

use std::{
    collections::VecDeque,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use self::reader::Reader;
use super::{
    hit_fields::HitFields,
    object::{Content, Object},
    sent_forms::SentForms,
};
use crate::{
    Body,
    body::{FileSlice, Segment},
    budget::Lease,
    semantics::cache::{Freshness, Vary, VaryKey},
};

/// The maximum number of bytes that are kept for the slowest reader of a content that is not stored, 256 KiB. While there
/// are more, the origin is not read (backpressure).
pub(super) const WINDOW: u64 = 256 << 10;

/// The maximum number of pieces that are kept for the slowest reader of a content that is not stored, 4,096.
const MAX_PIECES: usize = 4096;

/// The memory of a piece in addition to its bytes, 96 bytes: the entry in the list, and the header of the allocation.
const PIECE: u64 = 96;

/// The head of a response that may be stored.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// The id of the object.
    pub(super) id: u64,
    pub(super) status: StatusCode,
    /// The fields that are stored.
    pub(super) headers: HeaderMap,
    pub(super) freshness: Freshness,
    pub(super) vary: Vary,
    pub(super) vary_key: VaryKey,
    pub(super) groups: Arc<[String]>,
    pub(super) cost: Duration,
    /// The length of the content; `None` if it is unknown in advance.
    pub(super) len: Option<u64>,
}

impl Head {
    /// Returns whether the response may answer a request that has waited for it: the request selects this variant, and the
    /// response may be used without a validation (RFC 9111 section 4). Its age is not considered: it is as new as the
    /// response to a request of its own would be.
    pub(super) fn answers_waiting(&self, request: &HeaderMap) -> bool {
        self.freshness.is_shareable() && self.matches(request)
    }

    /// Returns whether the request selects this variant.
    pub(super) fn matches(&self, request: &HeaderMap) -> bool {
        self.vary.key(request).is_some_and(|key| key == self.vary_key)
    }

    /// Returns the object with this head.
    pub(super) fn into_object(self, content: Content) -> Object {
        Object {
            id: self.id,
            revision: self.id,
            status: self.status,
            headers: self.headers,
            freshness: self.freshness,
            vary: self.vary,
            vary_key: self.vary_key,
            groups: self.groups,
            cost: self.cost,
            content,
            hit_fields: HitFields::default(),
            sent_forms: SentForms::default(),
        }
    }
}

/// A response that is being read.
pub(super) struct Fill {
    pub(super) head: Head,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The pieces that are in memory, with their offsets.
    pieces: VecDeque<(u64, Bytes)>,
    /// The file with the beginning of the content, and the number of bytes in it. Their pieces are dropped.
    file: Option<(Arc<File>, u64)>,
    /// The number of bytes received.
    len: u64,
    /// The time at which the head or the latest bytes were received.
    progressed: Duration,
    /// `Some` after the end of the content; `Err` if the origin failed.
    end: Option<Result<(), ()>>,
    /// Whether the content is stored. If not, pieces that every reader has read are dropped.
    is_stored: bool,
    /// The memory of the pieces, if the content is not stored.
    lease: Option<Lease>,
    /// The readers by slot; `None` is a free slot.
    readers: Vec<Option<ReaderSlot>>,
    /// Woken when a reader is dropped, and if it waits for capacity, when there is some.
    producer: Option<Waker>,
    is_producer_waiting: bool,
}

struct ReaderSlot {
    offset: u64,
    waker: Option<Waker>,
}

/// The error if all readers were dropped.
pub(super) struct NoReaders;

impl Fill {
    pub(super) fn new(head: Head, now: Duration) -> Arc<Self> {
        let state = State { progressed: now, is_stored: true, ..State::default() };
        Arc::new(Self { head, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a piece.
    pub(super) fn push(&self, piece: Bytes, now: Duration) {
        if piece.is_empty() {
            return;
        }
        let mut state = self.lock();
        let at = state.len;
        state.len += piece.len() as u64;
        state.progressed = now;
        state.pieces.push_back((at, piece));
        state.update_lease();
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the content: `Ok` if it is complete, `Err` if the origin failed. Only the first call has an effect.
    pub(super) fn end(&self, result: Result<(), ()>) {
        let mut state = self.lock();
        state.end.get_or_insert(result);
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns whether nothing has been received for `time`.
    pub(super) fn has_stalled(&self, now: Duration, time: Duration) -> bool {
        now.saturating_sub(self.lock().progressed) >= time
    }

    /// Returns the number of bytes received.
    pub(super) fn len(&self) -> u64 {
        self.lock().len
    }

    /// Returns the pieces from `offset`, which must be the offset of a piece or the length.
    pub(super) fn pieces_from(&self, offset: u64) -> Vec<Bytes> {
        let state = self.lock();
        let pieces = state.pieces.iter().filter(|(at, _)| *at >= offset);
        pieces.map(|(_, piece)| piece.clone()).collect()
    }

    /// Sets the file, which has the first `len` bytes, and drops their pieces. Readers read them from the file.
    pub(super) fn set_written(&self, file: Arc<File>, len: u64) {
        let mut state = self.lock();
        state.file = Some((file, len));
        while state.pieces.front().is_some_and(|(at, _)| *at < len) {
            state.pieces.pop_front();
        }
    }

    /// Returns the memory of the pieces, in bytes.
    pub(super) fn memory_len(&self) -> u64 {
        self.lock().memory_len()
    }

    /// Stops storing the content. From now on, pieces are dropped when every reader has read them. Until then they count in the
    /// lease.
    pub(super) fn stop_storing(&self, lease: Option<Lease>) {
        let mut state = self.lock();
        (state.is_stored, state.lease) = (false, lease);
        state.trim();
    }

    /// For a content that is not stored: ready when the slowest reader has read all but [`WINDOW`] bytes. Also wakes the task
    /// when the last reader is dropped.
    pub(super) fn poll_capacity(&self, cx: &Context<'_>) -> Poll<Result<(), NoReaders>> {
        let mut state = self.lock();
        if state.slowest().is_none() {
            return Poll::Ready(Err(NoReaders));
        }
        state.producer = Some(cx.waker().clone());
        state.is_producer_waiting = !state.has_capacity();
        if state.is_producer_waiting { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Returns the object with the whole content: the file, or a copy of the pieces. Readers continue with that.
    pub(super) fn to_object(&self, lease: Option<Lease>) -> Object {
        let mut state = self.lock();
        if let Some((file, len)) = state.file.clone() {
            drop(state);
            return self.head.clone().into_object(Content::File(FileSlice::new(file, 0, len)));
        }
        let lease = lease.map(|mut lease| {
            // The copy has no pieces.
            lease.set(state.len);
            lease
        });
        let content =
            Content::copied(state.len, state.pieces.iter().map(|(_, piece)| piece), lease);
        if let Content::Memory(copy) = &content {
            // The copy returns its lease when the last reader has ended, also after its eviction.
            state.pieces = VecDeque::from([(0, copy.clone())]);
        }
        drop(state);
        self.head.clone().into_object(content)
    }

    /// Returns a body of the bytes from `first` to `last`, or to the end; `None` if some of them were dropped.
    pub(super) fn reader(self: &Arc<Self>, first: u64, last: Option<u64>) -> Option<Body> {
        let mut state = self.lock();
        let kept_from = state.pieces.front().map_or(state.len, |(at, _)| *at);
        let in_file = state.file.as_ref().map_or(0, |(_, written)| *written);
        if kept_from > first && kept_from > in_file {
            return None;
        }
        let slot = state.readers.iter().position(Option::is_none).unwrap_or_else(|| {
            state.readers.push(None);
            state.readers.len() - 1
        });
        state.readers[slot] = Some(ReaderSlot { offset: first, waker: None });
        drop(state);
        let end = last.map(|last| last + 1).or(self.head.len);
        let is_part = last.is_some();
        Some(Body::segmented(Reader { fill: self.clone(), slot, offset: first, end, is_part }))
    }
}

impl State {
    fn take_wakers(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().flatten().filter_map(|reader| reader.waker.take()).collect()
    }

    fn slowest(&self) -> Option<u64> {
        self.readers.iter().flatten().map(|reader| reader.offset).min()
    }

    /// Returns whether the slowest reader has read all but [`WINDOW`] bytes, and at most [`MAX_PIECES`] pieces are left.
    fn has_capacity(&self) -> bool {
        self.pieces.len() <= MAX_PIECES
            && self.slowest().is_some_and(|offset| self.len.saturating_sub(offset) < WINDOW)
    }

    /// Returns the waker of the producer if it waits for capacity and there is some.
    fn take_waiting_producer(&mut self) -> Option<Waker> {
        if !self.is_producer_waiting || !self.has_capacity() {
            return None;
        }
        self.is_producer_waiting = false;
        self.producer.take()
    }

    /// Returns the memory of the pieces, in bytes. An origin may send pieces of a single byte.
    fn memory_len(&self) -> u64 {
        let first = self.pieces.front().map_or(self.len, |(at, _)| *at);
        self.len - first + PIECE * self.pieces.len() as u64
    }

    fn update_lease(&mut self) {
        let len = self.memory_len();
        self.lease.iter_mut().for_each(|lease| lease.set(len));
    }

    /// Drops the pieces that every reader has read, if the content is not stored.
    fn trim(&mut self) {
        if self.is_stored {
            return;
        }
        let from = self.slowest().unwrap_or(self.len);
        while self.pieces.front().is_some_and(|(at, piece)| at + piece.len() as u64 <= from) {
            self.pieces.pop_front();
        }
        self.update_lease();
    }

    /// Returns the available bytes at `offset` of one piece or of the file.
    fn segment_at(&self, offset: u64) -> Option<Segment> {
        match &self.file {
            Some((file, written)) if offset < *written => {
                Some(Segment::File(FileSlice::new(file.clone(), offset, written - offset)))
            }
            _ => self.piece_at(offset).map(Segment::Bytes),
        }
    }

    /// Returns the available bytes at `offset` of one piece.
    fn piece_at(&self, offset: u64) -> Option<Bytes> {
        let next = self.pieces.partition_point(|(at, _)| *at <= offset);
        let (at, piece) = self.pieces.get(next.checked_sub(1)?)?;
        let skip = usize::try_from(offset - at).ok()?;
        (skip < piece.len()).then(|| piece.slice(skip..))
    }
}
