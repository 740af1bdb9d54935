//! File slices of a crate without threads.

use std::{fs::File, sync::Arc};

use super::FileSlice;

impl FileSlice {
    /// A slice of `len` bytes from `offset` on. It is read on the thread that polls it.
    ///
    /// If the file turns out shorter, the body ends in an error: nothing is padded.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self::with_prefetch(file, offset, len, |_| None)
    }
}
