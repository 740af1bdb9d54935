//! `Spool`: writes a content to its file while it is received from the origin.

use std::{
    fs::File,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{
    super::{
        fill::Fill,
        pool::{self, POOL},
    },
    Inner,
};

/// The minimum length of a write, 64 KiB, except for the last one.
const MIN_WRITE: u64 = 64 << 10;

/// The maximum number of unwritten bytes, 256 KiB. While there are more, the origin is not read (backpressure).
const MAX_UNWRITTEN: u64 = 256 << 10;

/// The file of a content that is being received. The file is removed if the spool is dropped before the object is inserted
/// into the store.
pub(in crate::cache) struct Spool {
    store: Arc<Inner>,
    id: u64,
    /// `None` before the first write.
    file: Option<Arc<File>>,
    written: u64,
    writing: Option<Writing>,
    /// Its part of [`Inner::spooled_len`].
    reserved: u64,
}

/// A write in progress.
struct Writing {
    /// The length of the file after the write.
    end: u64,
    result: oneshot::Receiver<io::Result<io::Result<Arc<File>>>>,
}

impl Spool {
    /// Creates a spool for the object with this id. The object must have no other writer.
    pub(super) fn new(store: Arc<Inner>, id: u64) -> Self {
        store.lock().spools.insert(id);
        Self { store, id, file: None, written: 0, writing: None, reserved: 0 }
    }

    /// Reserves disk space for a content of `len` bytes. Returns `false` if all spools together have none left.
    pub(in crate::cache) fn reserve(&mut self, len: u64) -> bool {
        let more = len.saturating_sub(self.reserved);
        let add = |n: u64| n.checked_add(more).filter(|sum| *sum <= self.store.max_spooled);
        let is_reserved = self.store.spooled_len.fetch_update(Relaxed, Relaxed, add).is_ok();
        self.reserved += if is_reserved { more } else { 0 };
        is_reserved
    }

    /// Writes the pieces of the fill. Ready when more may be read from the origin, or when a write has failed.
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

    /// Writes all pieces of the fill. Ready when they are written, or when a write has failed.
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

    /// Polls the write in progress, or starts one if at least `min_len` bytes are unwritten. Ready when a write has
    /// completed. Also pending, without a wake-up, if there are fewer unwritten bytes.
    fn poll_write(
        &mut self,
        fill: &Fill,
        min_len: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.writing.is_none() {
            let len = fill.len() - self.written;
            // Checked first: the list of many small pieces is long, and this is polled for each of them.
            if len < min_len {
                return Poll::Pending;
            }
            let pieces = fill.pieces_from(self.written);
            let (store, id, file, at) =
                (self.store.clone(), self.id, self.file.clone(), self.written);
            let write = move || {
                let result = store.files.append_content(id, file, at, &pieces);
                if !store.lock().spools.contains(&id) {
                    // The spool was dropped, and its file removed, before this write created the file again.
                    let _ = store.files.remove(id);
                }
                result
            };
            self.writing = Some(Writing { end: at + len, result: POOL.call(write) });
        }
        let Some(writing) = &mut self.writing else { return Poll::Pending };
        let result = ready!(std::pin::Pin::new(&mut writing.result).poll(cx));
        let end = writing.end;
        self.writing = None;
        let panicked = |_| io::Error::other("the write panicked");
        let file = result.map_err(panicked).and_then(|r| r).and_then(|r| r);
        let file = file.inspect_err(|error| self.store.pause(error))?;
        self.written = end;
        self.file = Some(file.clone());
        fill.set_written(file, end);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.store.spooled_len.fetch_sub(self.reserved, Relaxed);
        // An inserted object has removed the id.
        let is_abandoned = self.store.lock().spools.remove(&self.id);
        if is_abandoned {
            let (store, id) = (self.store.clone(), self.id);
            pool::run(move || {
                let _ = store.files.remove(id);
            });
        }
    }
}
