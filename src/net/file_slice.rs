//! File slices whose bytes are prefetched by a thread of the page cache's pool.

use std::{fs::File, sync::Arc, time::Instant};

use super::{clock, page_cache};
use crate::body::{FileSlice, Prefetching};

impl FileSlice {
    /// Creates a slice of `len` bytes that starts at `offset`.
    ///
    /// If the file is shorter, the body ends in an error: it is not padded.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self::with_prefetch(file, offset, len, prefetch)
    }
}

fn prefetch(file: &mut FileSlice) -> Option<Prefetching> {
    let (to, read) = prefetch_next(file, clock::now())?;
    let read = async move {
        let _ = read.await; // errors are reported when the bytes are read
        clock::now()
    };
    Some(Prefetching { to, read: Box::pin(read) })
}

/// Starts to read the next bytes of `file` into the page cache, at most to the end of a window. Returns the end
/// offset, and the receiver of [`prefetch`](page_cache::prefetch). If the bytes are resident already, it marks
/// them so and returns `None`. Valid while [`resident_len`](FileSlice::resident_len) is 0.
pub(crate) fn prefetch_next(
    file: &mut FileSlice,
    now: Instant,
) -> Option<(u64, tokio::sync::oneshot::Receiver<()>)> {
    let to = file.unchecked_to(now)?;
    if page_cache::is_resident(file.file(), file.offset(), to) {
        file.mark_resident(to, now);
        return None;
    }
    Some((to, page_cache::prefetch(file.file().clone(), file.offset(), to)))
}
