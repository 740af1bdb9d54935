//! Which bytes of a file are known to be in the page cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The known residency of one slice: everything before an offset is resident. Uses the file's cache, if any.
#[derive(Clone, Default)]
pub(super) struct Residency {
    to: u64,
    cache: Option<Arc<ResidencyCache>>,
}

impl Residency {
    pub(super) fn with_cache(cache: Arc<ResidencyCache>) -> Self {
        Self { to: 0, cache: Some(cache) }
    }

    /// Returns the end of the bytes that are known to be resident.
    pub(super) fn end(&self) -> u64 {
        self.to
    }

    /// Returns the end of the part of `from .. to` that the caller must check, at most the end of a window.
    /// `None` if the cache has them as resident; they are marked then.
    pub(super) fn unchecked_to(&mut self, from: u64, to: u64, now: Instant) -> Option<u64> {
        let window_end = (from / ResidencyCache::WINDOW + 1) * ResidencyCache::WINDOW;
        let to = to.min(window_end);
        if !self.cache.as_ref().is_some_and(|cache| cache.is_resident(from, now)) {
            return Some(to);
        }
        self.to = to;
        None
    }

    /// Marks the bytes `from .. to` as resident, here and in the cache.
    pub(super) fn mark(&mut self, from: u64, to: u64, now: Instant) {
        self.to = to;
        if let Some(cache) = &self.cache {
            cache.mark(from, to, now);
        }
    }
}

/// When each window of a file was last seen in the page cache, for all responses that send the file.
///
/// A check costs a system call for every 64 KiB, which is 12 % of a response of 100 KiB. A file that is
/// sent all the time is checked every two seconds instead.
#[derive(Debug)]
pub(crate) struct ResidencyCache {
    len: u64,
    base: Instant,
    /// Milliseconds from `base`, plus one; 0 means never.
    windows: Box<[AtomicU32]>,
}

impl ResidencyCache {
    /// Bytes that are checked at a time, 2 MiB.
    pub(crate) const WINDOW: u64 = 2 << 20;

    /// The largest number of cached windows, 512: the first GiB.
    const MAX_WINDOWS: u64 = 512;

    /// How long a window is trusted to stay resident.
    const TRUSTED_FOR: Duration = Duration::from_secs(2);

    /// Creates an empty cache for a file of `len` bytes.
    pub(crate) fn new(len: u64, now: Instant) -> Self {
        let windows = len.div_ceil(Self::WINDOW).min(Self::MAX_WINDOWS);
        Self { len, base: now, windows: (0..windows).map(|_| AtomicU32::new(0)).collect() }
    }

    fn window(&self, at: u64) -> Option<&AtomicU32> {
        self.windows.get(usize::try_from(at / Self::WINDOW).ok()?)
    }

    fn millis(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.base).as_millis();
        u32::try_from(since + 1).unwrap_or(0) // after 49 days nothing is trusted
    }

    /// Marks the window that begins at `from`, if `from .. to` covers it: another slice may send the rest of a
    /// partly covered window.
    pub(crate) fn mark(&self, from: u64, to: u64, now: Instant) {
        let begin = from - from % Self::WINDOW;
        let is_whole = from == begin && to >= self.len.min(begin + Self::WINDOW);
        if let Some(window) = self.window(from).filter(|_| is_whole) {
            window.store(self.millis(now), Relaxed);
        }
    }

    /// Returns whether the window around `at` was resident within the last two seconds.
    fn is_resident(&self, at: u64, now: Instant) -> bool {
        let marked = self.window(at).map_or(0, |window| window.load(Relaxed));
        let trusted = u32::try_from(Self::TRUSTED_FOR.as_millis()).unwrap_or(0);
        marked > 0 && self.millis(now).checked_sub(marked).is_some_and(|age| age < trusted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any time will do")]
    fn resident_window_is_trusted_for_two_seconds() {
        let now = Instant::now();
        let cache = Arc::new(ResidencyCache::new(5 * MIB, now));
        let slice = || Residency::with_cache(cache.clone());
        let later = |millis| now + Duration::from_millis(millis);
        assert_eq!(slice().unchecked_to(0, 5 * MIB, now), Some(2 * MIB));
        // Parts of a window do not mark it.
        slice().mark(0, MIB, now);
        slice().mark(MIB, 2 * MIB, now);
        assert_eq!(slice().unchecked_to(0, 1, now), Some(1));
        slice().mark(0, 2 * MIB, later(100));
        let mut trusting = slice();
        assert_eq!(trusting.unchecked_to(MIB, 4 * MIB, later(2099)), None);
        assert_eq!(trusting.end(), 2 * MIB);
        assert_eq!(slice().unchecked_to(MIB, 2 * MIB, later(2100)), Some(2 * MIB));
        assert_eq!(slice().unchecked_to(2 * MIB, 3 * MIB, later(200)), Some(3 * MIB));
        // The last window ends with the file. Before the base, and after 49 days, nothing is trusted.
        slice().mark(4 * MIB, 5 * MIB, now);
        assert_eq!(slice().unchecked_to(4 * MIB + 1, 4 * MIB + 11, now), None);
        let day = 24 * 3600 * 1000;
        slice().mark(4 * MIB, 5 * MIB, later(50 * day));
        assert!(slice().unchecked_to(4 * MIB, 5 * MIB, later(50 * day)).is_some());
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any time will do")]
    fn windows_beyond_the_first_gibibyte_are_not_remembered() {
        let (far, now) = (1 << 40, Instant::now());
        let mut slice = Residency::with_cache(Arc::new(ResidencyCache::new(u64::MAX, now)));
        slice.mark(far, far + 2 * MIB, now);
        assert!(slice.unchecked_to(far, far + MIB, now).is_some());
    }
}
