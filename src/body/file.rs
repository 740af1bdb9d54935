//! A slice of an open file as a body.

use std::{any::Any, fmt, fs::File, io, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    read_at::read_at,
    residency::{Residency, ResidencyCache},
};

/// The most that is read at once when a file cannot leave by `sendfile`.
const READ_STEP: u64 = 64 << 10;

/// Bytes `offset .. offset + len` of an open file.
///
/// The descriptor is shared, its position is not used: many responses may send one open file.
/// On a plain socket a server sends it with `sendfile`, and has another thread read first what is not
/// in memory; anywhere else it is read in steps of 64 KiB, on the thread that asks.
#[derive(Clone)]
pub struct FileSlice {
    file: Arc<File>,
    offset: u64,
    len: u64,
    residency: Residency,
    /// Dropped with the last clone.
    guard: Option<Arc<dyn Any + Send + Sync>>,
}

impl FileSlice {
    /// A slice of `len` bytes from `offset` on.
    ///
    /// If the file turns out shorter, the body ends in an error: nothing is padded.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len, residency: Residency::default(), guard: None }
    }

    /// Shares what is known of the file's residency with its other slices.
    pub(crate) fn with_residency(mut self, cache: Arc<ResidencyCache>) -> Self {
        self.residency = Residency::with_cache(cache);
        self
    }

    /// Returns up to where the next bytes must be checked before they are sent; `None` if they are known to
    /// be resident. Valid while [`resident_len`](Self::resident_len) is 0.
    pub(crate) fn unchecked_to(&mut self, now: Instant) -> Option<u64> {
        self.residency.unchecked_to(self.offset, self.offset + self.len, now)
    }

    /// Marks the next bytes, up to `to`, as resident.
    pub(crate) fn mark_resident(&mut self, to: u64, now: Instant) {
        self.residency.mark(self.offset, to, now);
    }

    /// Drops `guard` with the last clone of this slice: a share of a disk's budget, for example.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guard = Some(Arc::new(guard));
        self
    }

    /// The open file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where the slice begins in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes are left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns how many of the next bytes are known to be in the page cache.
    pub fn resident_len(&self) -> u64 {
        self.residency.end().saturating_sub(self.offset).min(self.len)
    }

    /// Is nothing left?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Marks `n` bytes at the front as sent.
    pub fn advance(&mut self, n: u64) {
        let n = n.min(self.len);
        self.offset += n;
        self.len -= n;
    }

    /// Reads the next bytes, at most 64 KiB; `None` at the end of the slice.
    ///
    /// # Errors
    /// Those of the file, and `UnexpectedEof` if it has shrunk.
    pub fn read_next(&mut self) -> io::Result<Option<Bytes>> {
        if self.len == 0 {
            return Ok(None);
        }
        let step = self.len.min(READ_STEP);
        let mut buf = BytesMut::zeroed(usize::try_from(step).expect("at most READ_STEP"));
        let n = read_at(&self.file, &mut buf, self.offset)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has shrunk"));
        }
        buf.truncate(n);
        self.advance(n as u64);
        Ok(Some(buf.freeze()))
    }
}

impl fmt::Debug for FileSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, len, .. } = self;
        f.debug_struct("FileSlice")
            .field("file", file)
            .field("offset", offset)
            .field("len", len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn file_slice_is_read_in_steps_and_never_padded() {
        let mut f = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        f.write_all(&data).unwrap();
        let file = Arc::new(f);

        let mut slice = FileSlice::new(file.clone(), 10, 150_000);
        let mut got = Vec::new();
        while let Some(b) = slice.read_next().unwrap() {
            assert!(b.len() as u64 <= READ_STEP);
            got.extend_from_slice(&b);
        }
        assert_eq!(got, data[10..150_010]);

        let mut beyond = FileSlice::new(file, 199_999, 2);
        assert_eq!(beyond.read_next().unwrap().unwrap().len(), 1);
        assert_eq!(beyond.read_next().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
