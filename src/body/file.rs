//! A slice of an open file as a body.

use std::{any::Any, fmt, fs::File, io, os::unix::fs::FileExt, sync::Arc};

use bytes::{Bytes, BytesMut};

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
    /// What is before this in the file is in memory.
    warm_to: u64,
    /// What is given back when nobody needs the file any more.
    held: Option<Arc<dyn Any + Send + Sync>>,
}

impl FileSlice {
    /// A slice of `len` bytes from `offset` on.
    ///
    /// If the file turns out shorter, the body ends in an error: nothing is padded.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len, warm_to: 0, held: None }
    }

    /// The file's bytes before `to`, counted from its beginning, were read lately: a server need not
    /// look whether they are in memory before it sends them. Otherwise it looks, every 2 MiB, and
    /// has another thread read what is not.
    #[must_use]
    pub fn warm(mut self, to: u64) -> Self {
        self.warm_to = to;
        self
    }

    /// Keeps `what` until the last clone of this slice is dropped: a share of a disk's budget, say.
    #[must_use]
    pub fn holding(mut self, what: impl Any + Send + Sync) -> Self {
        self.held = Some(Arc::new(what));
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

    /// How many of the next bytes are in memory, as far as is known.
    pub fn warm_len(&self) -> u64 {
        self.warm_to.saturating_sub(self.offset).min(self.len)
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
        let n = self.file.read_at(&mut buf, self.offset)?;
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
    fn reads_its_slice_in_steps_and_refuses_to_pad() {
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
