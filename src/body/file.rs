//! A slice of an open file as a body.

use std::{
    any::Any,
    fmt,
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::read_at::read_at;

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
    /// What was in memory lately, for all slices of the file.
    lately: Option<Arc<Lately>>,
    /// What is given back when nobody needs the file any more.
    held: Option<Arc<dyn Any + Send + Sync>>,
}

/// Which windows of a file were in memory, and when: what is sent all the time need not be looked for
/// each time.
#[derive(Debug)]
pub(crate) struct Lately {
    len: u64,
    base: Instant,
    /// Milliseconds since then, and one; 0: never.
    windows: Box<[AtomicU32]>,
}

impl Lately {
    /// So much is looked for in memory at a time, 2 MiB.
    pub(crate) const WINDOW: u64 = 2 << 20;

    /// Of so many windows it is remembered, 512: the first GiB.
    const MOST: u64 = 512;

    /// How long the kernel is trusted to keep them there.
    const TRUST: Duration = Duration::from_secs(2);

    /// Nothing is known of a file of `len` bytes.
    pub(crate) fn new(len: u64, now: Instant) -> Self {
        let windows = len.div_ceil(Self::WINDOW).min(Self::MOST);
        Self { len, base: now, windows: (0..windows).map(|_| AtomicU32::new(0)).collect() }
    }

    fn window(&self, at: u64) -> Option<&AtomicU32> {
        self.windows.get(usize::try_from(at / Self::WINDOW).ok()?)
    }

    fn millis(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.base).as_millis();
        u32::try_from(since + 1).unwrap_or(0) // after 49 days nothing is known any more
    }

    /// These bytes are in memory: the window that they begin in, if they are all of it. Of a window in
    /// part nothing is said, since who sends its other part would believe it.
    pub(crate) fn set(&self, from: u64, to: u64, now: Instant) {
        let begin = from - from % Self::WINDOW;
        let is_whole = from == begin && to >= self.len.min(begin + Self::WINDOW);
        if let Some(window) = self.window(from).filter(|_| is_whole) {
            window.store(self.millis(now), Relaxed);
        }
    }

    /// Is it still, presumably?
    fn is_warm(&self, at: u64, now: Instant) -> bool {
        let set = self.window(at).map_or(0, |window| window.load(Relaxed));
        let trusted = u32::try_from(Self::TRUST.as_millis()).unwrap_or(0);
        set > 0 && self.millis(now).checked_sub(set).is_some_and(|age| age < trusted)
    }
}

impl FileSlice {
    /// A slice of `len` bytes from `offset` on.
    ///
    /// If the file turns out shorter, the body ends in an error: nothing is padded.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len, warm_to: 0, lately: None, held: None }
    }

    /// The file's bytes before `to`, counted from its beginning, were read lately: a server need not
    /// look whether they are in memory before it sends them. Otherwise it looks, every 2 MiB, and
    /// has another thread read what is not.
    #[must_use]
    pub fn warm(mut self, to: u64) -> Self {
        self.warm_to = to;
        self
    }

    /// What is known of it is for other slices of the file, too.
    pub(crate) fn knowing(mut self, lately: Arc<Lately>) -> Self {
        self.lately = Some(lately);
        self
    }

    /// Up to where the next bytes must be in memory before they are sent, and whether they were
    /// lately.
    pub(crate) fn next_window(&self, now: Instant) -> (u64, bool) {
        let window = (self.offset / Lately::WINDOW + 1) * Lately::WINDOW;
        let is_warm = self.lately.as_ref().is_some_and(|l| l.is_warm(self.offset, now));
        (window.min(self.offset + self.len), is_warm)
    }

    /// The next bytes were in memory lately, up to `to`.
    pub(crate) fn trust_to(&mut self, to: u64) {
        self.warm_to = to;
    }

    /// The next bytes are in memory now, up to `to`.
    pub(crate) fn is_warm_to(&mut self, to: u64, now: Instant) {
        self.warm_to = to;
        if let Some(lately) = &self.lately {
            lately.set(self.offset, to, now);
        }
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
    #[allow(clippy::disallowed_methods, reason = "any time will do")]
    fn a_window_that_was_in_memory_is_trusted_for_two_seconds() {
        const MIB: u64 = 1 << 20;
        let (file, now) = (Arc::new(tempfile::tempfile().unwrap()), Instant::now());
        let lately = Arc::new(Lately::new(5 * MIB, now));
        let slice = |from, len| FileSlice::new(file.clone(), from, len).knowing(lately.clone());
        let later = |millis| now + Duration::from_millis(millis);
        assert_eq!(slice(0, 5 * MIB).next_window(now), (2 * MIB, false));
        // Parts of a window say nothing of it.
        slice(0, MIB).is_warm_to(MIB, now);
        slice(MIB, MIB).is_warm_to(2 * MIB, now);
        assert!(!slice(0, 1).next_window(now).1);
        slice(0, 5 * MIB).is_warm_to(2 * MIB, later(100));
        assert_eq!(slice(MIB, 3 * MIB).next_window(later(2099)), (2 * MIB, true));
        assert!(!slice(MIB, MIB).next_window(later(2100)).1);
        assert!(!slice(2 * MIB, MIB).next_window(later(200)).1);
        // The last one ends with the file; before the first look, and after 49 days, nothing is known.
        slice(4 * MIB, MIB).is_warm_to(5 * MIB, now);
        assert_eq!(slice(4 * MIB + 1, 10).next_window(now), (4 * MIB + 11, true));
        let day = 24 * 3600 * 1000;
        slice(4 * MIB, MIB).is_warm_to(5 * MIB, later(50 * day));
        assert!(!slice(4 * MIB, MIB).next_window(later(50 * day)).1);
        // Beyond the first GiB nothing is remembered.
        let lately = Arc::new(Lately::new(u64::MAX, now));
        let far = 1 << 40;
        FileSlice::new(file.clone(), far, 4 * MIB).knowing(lately).is_warm_to(far + 2 * MIB, now);
    }

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
