//! `Spool`: a content that is written to its file while it is read from the origin.

use std::{
    fs::File,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{
    super::{fill::Fill, pool::POOL},
    Inner, index,
};

/// The bytes that are collected before they are written, 64 KiB.
const MIN_WRITE: u64 = 64 << 10;

/// The bytes in memory above which the origin is read no further until they are written, 256 KiB.
const MAX_UNWRITTEN: u64 = 256 << 10;

/// The content of a fill on its way to the disk. Dropped before the store has taken its object over, it removes the file.
pub(in crate::cache) struct Spool {
    store: Arc<Inner>,
    id: u64,
    /// Created with the first write.
    file: Option<Arc<File>>,
    written: u64,
    writing: Option<Writing>,
    /// What it takes of [`Inner::max_spooled`].
    reserved: u64,
}

/// A write, and the length of the file after it.
struct Writing {
    to: u64,
    result: oneshot::Receiver<io::Result<io::Result<Arc<File>>>>,
}

impl Spool {
    /// Creates a spool for the object with this id, which nothing else writes.
    pub(super) fn new(store: Arc<Inner>, id: u64) -> Self {
        store.lock().spools.insert(id);
        Self { store, id, file: None, written: 0, writing: None, reserved: 0 }
    }

    /// Takes a share of what all fills may have on disk. Returns `false` if that is exhausted.
    pub(in crate::cache) fn reserve(&mut self, len: u64) -> bool {
        let more = len.saturating_sub(self.reserved);
        let take = |n: u64| n.checked_add(more).filter(|sum| *sum <= self.store.max_spooled);
        let is_taken = self.store.spooled_len.fetch_update(Relaxed, Relaxed, take).is_ok();
        self.reserved += if is_taken { more } else { 0 };
        is_taken
    }

    /// Writes what was pushed to the fill. Ready when more may be read from the origin, or the disk has failed.
    pub(in crate::cache) fn poll_capacity(
        &mut self,
        fill: &Fill,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Poll::Ready(result) = self.poll_write(fill, MIN_WRITE, cx) {
                result?;
                continue;
            }
            let is_full = fill.len() - self.written >= MAX_UNWRITTEN;
            return if is_full { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
    }

    /// Writes all that was pushed. Ready when it is written, or the disk has failed.
    pub(in crate::cache) fn poll_flush(
        &mut self,
        fill: &Fill,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < fill.len() {
            ready!(self.poll_write(fill, 1, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits for the write in progress, and begins one if at least `least` bytes are not written. Ready when one has
    /// ended; pending also if there is nothing to write.
    fn poll_write(
        &mut self,
        fill: &Fill,
        min_len: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.writing.is_none() {
            let pieces = fill.pieces_from(self.written);
            let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            if len < min_len {
                return Poll::Pending;
            }
            let (store, id, file, at) =
                (self.store.clone(), self.id, self.file.clone(), self.written);
            let write = move || {
                let result = store.files.append_content(id, file, at, &pieces);
                if !store.lock().spools.contains(&id) {
                    // The spool was dropped meanwhile, and its file removed before this write created it.
                    store.files.remove(id);
                }
                result
            };
            self.writing = Some(Writing { to: at + len, result: POOL.call(write) });
        }
        let Some(writing) = &mut self.writing else { return Poll::Pending };
        let result = ready!(std::pin::Pin::new(&mut writing.result).poll(cx));
        let to = writing.to;
        self.writing = None;
        let panicked = |_| io::Error::other("the write panicked");
        let file = result.map_err(panicked).and_then(|r| r).and_then(|r| r);
        let file = file.inspect_err(|error| self.store.pause(error))?;
        self.written = to;
        self.file = Some(file.clone());
        fill.set_written(file, to);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.store.spooled_len.fetch_sub(self.reserved, Relaxed);
        let is_abandoned = self.store.lock().spools.remove(&self.id);
        if is_abandoned {
            index::remove_later(&self.store.files, vec![self.id]);
        }
    }
}
