//! File slices without the feature `server`: reads block the polling thread.

use std::{fs::File, sync::Arc};

use super::FileSlice;

impl FileSlice {
    /// Creates a slice of `len` bytes from `offset` on. It is read on the thread that polls it.
    ///
    /// If the file is shorter, the body ends with an error and is not padded.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self::with_prefetch(file, offset, len, |_| None)
    }
}
