//! A slice of an open file as a body.

use std::{
    any::Any,
    fmt,
    fs::File,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use super::{
    read_at::read_at,
    residency::{Residency, ResidencyCache},
};

/// The largest read of a file that is not sent by `sendfile`, in bytes.
const READ_STEP: u64 = 64 << 10;

/// Bytes `offset .. offset + len` of an open file.
///
/// The descriptor is shared and its position is not used, so many responses may send one open file. On a
/// plain socket a server sends the slice with `sendfile`; as an `http_body::Body` it is read in steps of
/// 64 KiB. In both cases another thread first reads bytes that are not resident into the page cache, so that
/// no connection waits for a disk. (Without the feature `server` there is no such thread: each step is read
/// on the thread that polls.)
#[derive(Clone)]
pub struct FileSlice {
    file: Arc<File>,
    offset: u64,
    len: u64,
    residency: Residency,
    prefetch: Prefetch,
    pending: Pending,
    /// Dropped with the last clone.
    guard: Option<Arc<Guard>>,
}

/// A value that is dropped with a slice. Boxed, so that the slice has a thin pointer for it.
struct Guard(#[expect(dead_code, reason = "dropped with the slice")] Box<dyn Any + Send + Sync>);

/// Starts to read the next bytes of a slice into the page cache; `None` if they can be read now.
///
/// Given by the creator of the slice, since this module has no threads.
pub(crate) type Prefetch = fn(&mut FileSlice) -> Option<Prefetching>;

/// Bytes that are being read into the page cache.
pub(crate) struct Prefetching {
    /// The offset in the file up to which they are read.
    pub(crate) to: u64,
    /// Resolves to the time at which they are resident.
    pub(crate) read: Pin<Box<dyn Future<Output = Instant> + Send + Sync>>,
}

/// The prefetch that a slice waits for. A clone of the slice does not wait for it.
#[derive(Default)]
struct Pending(Option<Box<Prefetching>>);

impl Clone for Pending {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl FileSlice {
    /// Creates a slice whose bytes are prefetched by `prefetch` before they are read.
    pub(crate) fn with_prefetch(
        file: Arc<File>,
        offset: u64,
        len: u64,
        prefetch: Prefetch,
    ) -> Self {
        let (residency, pending) = (Residency::default(), Pending::default());
        Self { file, offset, len, residency, prefetch, pending, guard: None }
    }

    /// Shares the file's residency cache with its other slices.
    pub(crate) fn with_residency(mut self, cache: Arc<ResidencyCache>) -> Self {
        self.residency = Residency::with_cache(cache);
        self
    }

    /// Returns the end offset of the next bytes that must be checked before they are sent; `None` if they
    /// are known to be resident. Valid while [`resident_len`](Self::resident_len) is 0.
    pub(crate) fn unchecked_to(&mut self, now: Instant) -> Option<u64> {
        self.residency.unchecked_to(self.offset, self.offset + self.len, now)
    }

    /// Marks the next bytes, up to `to`, as resident.
    pub(crate) fn mark_resident(&mut self, to: u64, now: Instant) {
        self.residency.mark(self.offset, to, now);
    }

    /// Drops `guard` with the last clone of this slice. For example a [`Lease`](crate::budget::Lease).
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guard = Some(Arc::new(Guard(Box::new(guard))));
        self
    }

    /// Returns the open file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Returns the offset of the slice in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the number of remaining bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns how many of the next bytes are known to be in the page cache.
    pub fn resident_len(&self) -> u64 {
        self.residency.end().saturating_sub(self.offset).min(self.len)
    }

    /// Returns whether no bytes remain.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Marks `n` bytes at the front as sent.
    pub fn advance(&mut self, n: u64) {
        let n = n.min(self.len);
        self.offset += n;
        self.len -= n;
    }

    /// Splits the first `n` bytes off, or all if there are fewer.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only drivers send records"))]
    pub(crate) fn split_to(&mut self, n: u64) -> Self {
        let first = Self { len: n.min(self.len), ..self.clone() };
        self.advance(first.len);
        first
    }

    /// Reads the next bytes, at most 64 KiB, once they are in the page cache; `None` at the end of the slice.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.len > 0 && self.resident_len() == 0 {
            ready!(self.poll_prefetch(cx));
        }
        Poll::Ready(self.read_next().transpose())
    }

    fn poll_prefetch(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.pending.0.is_none() {
            self.pending.0 = (self.prefetch)(self).map(Box::new);
        }
        let Some(prefetching) = &mut self.pending.0 else { return Poll::Ready(()) };
        let now = ready!(prefetching.read.as_mut().poll(cx));
        let to = prefetching.to;
        self.pending = Pending::default();
        self.mark_resident(to, now);
        Poll::Ready(())
    }

    /// Reads the next bytes, at most 64 KiB and not beyond those [known](Self::resident_len) to be in the
    /// page cache; `None` at the end of the slice. Waits for the disk if their residency is unknown.
    ///
    /// # Errors
    /// Those of the file, and `UnexpectedEof` if it has shrunk.
    pub fn read_next(&mut self) -> io::Result<Option<Bytes>> {
        if self.len == 0 {
            return Ok(None);
        }
        let resident = self.resident_len();
        let step = if resident > 0 { resident } else { self.len }.min(READ_STEP);
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
    use std::{io::Write, sync::Mutex, task::Waker};

    use super::*;

    fn file(len: u32) -> (Arc<File>, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
        file.write_all(&data).unwrap();
        (Arc::new(file), data)
    }

    #[test]
    fn file_slice_is_read_in_steps_and_not_padded() {
        let (file, data) = file(200_000);
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

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any time will do")]
    fn slice_reads_only_prefetched_bytes() {
        /// Up to which offsets prefetches were started; the last one is not done yet.
        static STARTED: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        static IS_DONE: Mutex<bool> = Mutex::new(false);
        let prefetch = |slice: &mut FileSlice| {
            let to = slice.unchecked_to(Instant::now()).unwrap();
            STARTED.lock().unwrap().push(to);
            let read = std::future::poll_fn(|_| {
                let mut is_done = IS_DONE.lock().unwrap();
                let ready = std::mem::take(&mut *is_done);
                if ready { Poll::Ready(Instant::now()) } else { Poll::Pending }
            });
            Some(Prefetching { to, read: Box::pin(read) })
        };
        const WINDOW: u64 = ResidencyCache::WINDOW;
        let (file, data) = file(u32::try_from(WINDOW).unwrap() + 100_000);
        let mut slice = FileSlice::with_prefetch(file, WINDOW - 10, 100_000, prefetch);
        let mut cx = Context::from_waker(Waker::noop());
        let mut got = Vec::new();
        // Ten bytes to the end of a window, then the other ones.
        for window_end in [WINDOW, WINDOW + 99_990] {
            assert!(slice.poll_next(&mut cx).is_pending());
            assert!(slice.clone().pending.0.is_none());
            assert!(slice.poll_next(&mut cx).is_pending());
            assert_eq!(*STARTED.lock().unwrap().last().unwrap(), window_end);
            *IS_DONE.lock().unwrap() = true;
            while slice.offset() < window_end {
                let Poll::Ready(Some(Ok(bytes))) = slice.poll_next(&mut cx) else { panic!() };
                got.extend_from_slice(&bytes);
            }
            assert_eq!(slice.offset(), window_end);
        }
        assert!(matches!(slice.poll_next(&mut cx), Poll::Ready(None)));
        assert_eq!(got, data[data.len() - 100_010..][..100_000]);
        assert_eq!(STARTED.lock().unwrap().len(), 2);
    }
}
