//! What is between the task that drains a body and the client that reads it: pieces in memory, and
//! stretches of a file.

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
    super::spill::{close, cost},
    End,
};
use crate::{
    Budget,
    body::FileSlice,
    budget::Lease,
    error::{BoxError, Error, Kind},
    net::reclaim,
};

/// Pieces from this size on count until they are sent: 4 KiB.
const LARGE: usize = 4 << 10;

/// Shared by the task and the client.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<State>>);

/// The next of a body.
pub(super) enum Stretch {
    /// Never empty.
    Memory(Bytes),
    /// Bytes `0 .. 1` of the file; never empty.
    Disk(u64, u64),
}

impl Stretch {
    fn in_memory(&self) -> usize {
        match self {
            Self::Memory(data) => data.len(),
            Self::Disk(..) => 0,
        }
    }
}

struct State {
    budget: Budget,
    queue: VecDeque<Stretch>,
    /// What the pieces in memory count for, those on their way to the disk not included.
    held: usize,
    lease: Lease,
    /// Stretches that the reader has not done with.
    on_disk: usize,
    file: Option<Arc<File>>,
    disk: Option<Lease>,
    trailers: Option<HeaderMap>,
    /// Set once: after the queue comes the end, or this error.
    end: Option<Result<(), BoxError>>,
    /// What is left of a length that was known.
    left: Option<u64>,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// What a reader finds.
pub(super) enum Next {
    Data(Bytes),
    /// A stretch of the file, which stays as it is until this is dropped.
    OnDisk(FileSlice),
    Trailers(HeaderMap),
    End,
    Failed(BoxError),
}

/// How much there is, for the side that feeds.
pub(super) struct Level {
    pub(super) held: usize,
    pub(super) is_empty: bool,
    pub(super) on_disk: bool,
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
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
    fn count(&mut self) {
        self.lease.set(self.held as u64);
    }

    /// A large piece counts until it is sent.
    fn keep_counting(&self, data: Bytes) -> Bytes {
        if data.len() < LARGE {
            return data;
        }
        let mut lease = self.budget.memory();
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

/// A stretch of the file that is being sent.
struct Sending(Shared);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.was_sent();
    }
}

impl Shared {
    pub(super) fn new(len: Option<u64>, budget: &Budget) -> Self {
        Self(Arc::new(Mutex::new(State {
            budget: budget.clone(),
            queue: VecDeque::new(),
            held: 0,
            lease: budget.memory(),
            on_disk: 0,
            file: None,
            disk: None,
            trailers: None,
            end: None,
            left: len,
            reader: None,
            feeder: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so a poisoned one is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there is. With `cx` its task is woken when there is less.
    pub(super) fn level(&self, cx: Option<&Context<'_>>) -> Level {
        let mut s = self.lock();
        if let Some(cx) = cx {
            remember(&mut s.feeder, cx);
        }
        Level { held: s.held, is_empty: s.queue.is_empty(), on_disk: s.on_disk > 0 }
    }

    /// A piece in memory, behind all others.
    pub(super) fn push(&self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let mut s = self.lock();
        s.held += cost(&data);
        s.count();
        s.queue.push_back(Stretch::Memory(data));
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// A stretch of the file, behind all others.
    pub(super) fn push_disk(&self, file: &Arc<File>, from: u64, to: u64) {
        let mut s = self.lock();
        s.file.get_or_insert_with(|| file.clone());
        match s.queue.back_mut() {
            Some(Stretch::Disk(_, end)) if *end == from => *end = to,
            _ => {
                s.queue.push_back(Stretch::Disk(from, to));
                s.on_disk += 1;
            }
        }
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// The file's share of the disk, for as long as the reader may read it.
    pub(super) fn keep(&self, disk: Lease) {
        let mut s = self.lock();
        if s.on_disk > 0 {
            s.disk = Some(disk);
        }
    }

    /// Tells the reader how the body ended; the first time counts.
    pub(super) fn set_end(&self, end: End) {
        let mut s = self.lock();
        if s.end.is_some() {
            return;
        }
        s.end = Some(end.map(|trailers| s.trailers = trailers));
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// All of it, if it is one piece in memory or `most` bytes at most, and as long as it said it
    /// was, with its share of the budget.
    pub(super) fn take_small(&self, most: usize) -> Option<(VecDeque<Bytes>, Lease)> {
        let mut s = self.lock();
        if s.on_disk > 0 || (s.queue.len() > 1 && s.held > most) {
            return None;
        }
        let len: usize = s.queue.iter().map(Stretch::in_memory).sum();
        if s.left.is_some_and(|left| left != len as u64) {
            return None; // whoever sends it finds that out, and nobody takes it for whole
        }
        let lease = s.lease.take();
        let pieces = mem::take(&mut s.queue).into_iter().filter_map(|stretch| match stretch {
            Stretch::Memory(data) => Some(data),
            Stretch::Disk(..) => None,
        });
        Some((pieces.collect(), lease))
    }

    /// The next for the reader.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let mut s = self.lock();
        match s.queue.front_mut() {
            Some(Stretch::Memory(data)) => {
                let data = mem::take(data);
                s.queue.pop_front();
                s.held -= cost(&data);
                s.count();
                let data = s.keep_counting(data);
                s.left = s.left.map(|left| left.saturating_sub(data.len() as u64));
                let feeder = s.feeder.take();
                drop(s);
                wake(feeder);
                return Poll::Ready(Next::Data(data));
            }
            Some(&mut Stretch::Disk(from, to)) => {
                s.queue.pop_front();
                s.left = s.left.map(|left| left.saturating_sub(to - from));
                let file = s.file.clone().expect("a stretch was written to it");
                drop(s);
                let slice = FileSlice::new(file, from, to - from).with_guard(Sending(self.clone()));
                return Poll::Ready(Next::OnDisk(slice));
            }
            None => {}
        }
        if let Some(trailers) = s.trailers.take() {
            return Poll::Ready(Next::Trailers(trailers));
        }
        Poll::Ready(match s.end.replace(Ok(())) {
            Some(Ok(())) => Next::End,
            // Told once, then the body is at its end.
            Some(Err(e)) => Next::Failed(e),
            None => {
                s.end = None;
                remember(&mut s.reader, cx);
                return Poll::Pending;
            }
        })
    }

    /// The reader has done with a stretch of the file.
    fn was_sent(&self) {
        let mut s = self.lock();
        s.on_disk -= 1;
        let ended = if s.on_disk == 0 { (s.disk.take(), s.file.take()) } else { (None, None) };
        let feeder = s.feeder.take();
        drop(s);
        let (_disk, file) = ended;
        close(file);
        wake(feeder);
    }

    pub(super) fn is_end(&self) -> bool {
        let s = self.lock();
        s.queue.is_empty() && s.trailers.is_none() && matches!(s.end, Some(Ok(())))
    }

    pub(super) fn left(&self) -> Option<u64> {
        self.lock().left
    }
}

/// Without an end, the body panicked or the runtime is shutting down: never a whole body.
pub(super) fn cut() -> End {
    Err(Error::new(Kind::Internal, "the body's task ended before it").into())
}
