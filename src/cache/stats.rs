//! `CacheStats`: the counters of a cache.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters and gauges of a cache. Returned by [`CacheHandle::stats`](super::CacheHandle::stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheStats {
    /// Requests that were answered with a fresh stored response.
    pub hits: u64,
    /// Requests that were answered with a stale response: during its revalidation, because the origin failed, or because the
    /// request permitted it.
    pub stale_hits: u64,
    /// Requests that were answered by the fetch of another request.
    pub collapsed: u64,
    /// Requests that were forwarded, because no usable response was stored.
    pub misses: u64,
    /// Stored responses that the origin confirmed with 304.
    pub validated: u64,
    /// Requests that bypassed the cache, for example because of their method, their content, or a missing host.
    pub bypassed: u64,
    /// Requests that were forwarded individually, because there were too many fetches or followers.
    pub uncollapsed: u64,
    /// Responses that were stored.
    pub stored: u64,
    /// Responses that must not be stored, or are too large.
    pub not_stored: u64,
    /// Refreshes in the background.
    pub refreshes: u64,
    /// Failures of the origin that were answered with a stale response.
    pub concealed_errors: u64,
    /// Stored responses that were removed or made stale by invalidations of a prefix, a group or everything.
    pub invalidated: u64,
    /// Keys in the store.
    pub keys: u64,
    /// Bytes in the store.
    pub bytes: u64,
    /// Fetches in progress whose responses may be stored.
    pub fetches: u64,
    /// Requests that wait for the fetch of another request.
    pub followers: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// The counters of [`CacheStats`].
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> CacheStats {
                CacheStats { $($name: self.$name.0.load(Relaxed),)* ..CacheStats::default() }
            }
        }
    };
}

counters!(
    hits,
    stale_hits,
    collapsed,
    misses,
    validated,
    bypassed,
    uncollapsed,
    stored,
    not_stored,
    refreshes,
    concealed_errors,
    invalidated
);

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.add_many(1);
    }

    pub(super) fn add_many(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
}
