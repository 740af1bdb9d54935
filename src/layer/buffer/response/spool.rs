//! The queue between the task that reads a body and the client: pieces in memory and segments of a
//! file.

use std::{
    collections::VecDeque,
    fs::File,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    super::spill::{close, memory_cost},
    BodyEnd,
};
use crate::{
    Budget,
    body::FileSlice,
    budget::Lease,
    error::{BoxError, Error, Kind},
    net::reclaim,
};

/// The size from which a piece counts until it is sent, 4 KiB.
const MIN_COUNTED_LEN: usize = 4 << 10;

/// A queue that the task and the client share.
#[derive(Clone)]
pub(super) struct Spool(Arc<Mutex<State>>);

/// A segment in the queue.
pub(super) enum Segment {
    /// Never empty.
    Memory(Bytes),
    /// A byte range of the file, from its first to before its second offset; never empty.
    Disk(u64, u64),
}

impl Segment {
    fn memory_len(&self) -> usize {
        match self {
            Self::Memory(data) => data.len(),
            Self::Disk(..) => 0,
        }
    }
}

struct State {
    budget: Budget,
    queue: VecDeque<Segment>,
    /// The bytes that the pieces in memory count for, without those that are being written to disk.
    in_memory: usize,
    lease: Lease,
    /// Segments of the file that the reader has not released.
    disk_segments: usize,
    file: Option<Arc<File>>,
    disk: Option<Lease>,
    trailers: Option<HeaderMap>,
    /// Set once: the end or the error that follows the queue.
    end: Option<Result<(), BoxError>>,
    /// The bytes that remain of a known length.
    remaining: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What [`Spool::poll_next`] returns.
pub(super) enum Item {
    Data(Bytes),
    /// A segment of the file, which is not overwritten until this is dropped.
    OnDisk(FileSlice),
    Trailers(HeaderMap),
    End,
    Failed(BoxError),
}

/// The fill level, as the writer sees it.
pub(super) struct FillLevel {
    pub(super) in_memory: usize,
    pub(super) is_empty: bool,
    pub(super) on_disk: bool,
}

fn store_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(w) => w.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(w) = waker {
        w.wake();
    }
}

impl State {
    fn update_lease(&mut self) {
        self.lease.set(self.in_memory as u64);
    }

    /// Keeps a large piece counted until it is sent.
    fn count_until_sent(&self, data: Bytes) -> Bytes {
        if data.len() < MIN_COUNTED_LEN {
            return data;
        }
        let mut lease = self.budget.memory_lease();
        lease.set(data.len() as u64);
        lease.hold(data)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        close(self.file.take());
        reclaim::after_free(self.budget.usage().memory);
    }
}

/// Releases a segment of the file when it was sent.
struct SegmentGuard(Spool);

impl Drop for SegmentGuard {
    fn drop(&mut self) {
        self.0.release_segment();
    }
}

impl Spool {
    pub(super) fn new(len: Option<u64>, budget: &Budget) -> Self {
        Self(Arc::new(Mutex::new(State {
            budget: budget.clone(),
            queue: VecDeque::new(),
            in_memory: 0,
            lease: budget.memory_lease(),
            disk_segments: 0,
            file: None,
            disk: None,
            trailers: None,
            end: None,
            remaining: len,
            reader: None,
            writer: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so a poisoned state is still consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the fill level. With `cx`, its task is woken when the level falls.
    pub(super) fn level(&self, cx: Option<&Context<'_>>) -> FillLevel {
        let mut s = self.lock();
        if let Some(cx) = cx {
            store_waker(&mut s.writer, cx);
        }
        FillLevel {
            in_memory: s.in_memory,
            is_empty: s.queue.is_empty(),
            on_disk: s.disk_segments > 0,
        }
    }

    /// Appends a piece in memory.
    pub(super) fn push(&self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let mut s = self.lock();
        s.in_memory += memory_cost(&data);
        s.update_lease();
        s.queue.push_back(Segment::Memory(data));
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// Appends a segment of the file.
    pub(super) fn push_disk(&self, file: &Arc<File>, from: u64, to: u64) {
        let mut s = self.lock();
        s.file.get_or_insert_with(|| file.clone());
        match s.queue.back_mut() {
            Some(Segment::Disk(_, end)) if *end == from => *end = to,
            _ => {
                s.queue.push_back(Segment::Disk(from, to));
                s.disk_segments += 1;
            }
        }
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// Holds the disk lease for as long as the reader may read the file.
    pub(super) fn hold_disk(&self, disk: Lease) {
        let mut s = self.lock();
        if s.disk_segments > 0 {
            s.disk = Some(disk);
        }
    }

    /// Sets how the body ended. Only the first call has an effect.
    pub(super) fn set_end(&self, end: BodyEnd) {
        let mut s = self.lock();
        if s.end.is_some() {
            return;
        }
        s.end = Some(end.map(|trailers| s.trailers = trailers));
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// Takes the whole body with its lease, if it is one piece in memory or at most `max_len` bytes, and has
    /// its declared length.
    pub(super) fn take_complete(&self, max_len: usize) -> Option<(VecDeque<Bytes>, Lease)> {
        let mut s = self.lock();
        if s.disk_segments > 0 || (s.queue.len() > 1 && s.in_memory > max_len) {
            return None;
        }
        let len: usize = s.queue.iter().map(Segment::memory_len).sum();
        if s.remaining.is_some_and(|remaining| remaining != len as u64) {
            return None; // the sender reports the mismatch
        }
        let lease = s.lease.take();
        let pieces = mem::take(&mut s.queue).into_iter().filter_map(|segment| match segment {
            Segment::Memory(data) => Some(data),
            Segment::Disk(..) => None,
        });
        Some((pieces.collect(), lease))
    }

    /// Returns the next item for the reader.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Item> {
        let mut s = self.lock();
        match s.queue.front_mut() {
            Some(Segment::Memory(data)) => {
                let data = mem::take(data);
                s.queue.pop_front();
                s.in_memory -= memory_cost(&data);
                s.update_lease();
                let data = s.count_until_sent(data);
                s.remaining =
                    s.remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
                let writer = s.writer.take();
                drop(s);
                wake(writer);
                return Poll::Ready(Item::Data(data));
            }
            Some(&mut Segment::Disk(from, to)) => {
                s.queue.pop_front();
                s.remaining = s.remaining.map(|remaining| remaining.saturating_sub(to - from));
                let file = s.file.clone().expect("a segment was written to it");
                drop(s);
                let slice =
                    FileSlice::new(file, from, to - from).with_guard(SegmentGuard(self.clone()));
                return Poll::Ready(Item::OnDisk(slice));
            }
            None => {}
        }
        if let Some(trailers) = s.trailers.take() {
            return Poll::Ready(Item::Trailers(trailers));
        }
        Poll::Ready(match s.end.replace(Ok(())) {
            Some(Ok(())) => Item::End,
            // Returned once; the body has ended after it.
            Some(Err(e)) => Item::Failed(e),
            None => {
                s.end = None;
                store_waker(&mut s.reader, cx);
                return Poll::Pending;
            }
        })
    }

    /// Releases a segment of the file that was sent.
    fn release_segment(&self) {
        let mut s = self.lock();
        s.disk_segments -= 1;
        let ended =
            if s.disk_segments == 0 { (s.disk.take(), s.file.take()) } else { (None, None) };
        let writer = s.writer.take();
        drop(s);
        let (_disk, file) = ended;
        close(file);
        wake(writer);
    }

    pub(super) fn is_end(&self) -> bool {
        let s = self.lock();
        s.queue.is_empty() && s.trailers.is_none() && matches!(s.end, Some(Ok(())))
    }

    pub(super) fn remaining(&self) -> Option<u64> {
        self.lock().remaining
    }
}

/// Returns the error of a body whose task ended early, by a panic or because the runtime shuts down.
pub(super) fn aborted() -> BodyEnd {
    Err(Error::new(Kind::Internal, "the task that reads the body ended early").into())
}
