//! `CacheLayer` and its options.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use http::Request;
use tower_layer::Layer;

use super::{
    clock::Clock,
    disk::{self, DiskBounds, DiskStore, Durability},
    handle::CacheHandle,
    key::QueryKey,
    marks::Marks,
    memory::{self, MemoryStore},
    service::Cache,
    shared::Shared,
    store::Store,
};
use crate::{
    Body, Budget,
    net::process_budget,
    semantics::cache::{Heuristic, Lifetimes, storable::SetCookie},
};

/// The default number of fetches in progress whose responses may be stored, 1,024.
pub const MAX_FETCHES: usize = 1024;

/// The default number of requests that wait for fetches of others, 65,536.
pub const MAX_FOLLOWERS: usize = 65_536;

/// The default number of refreshes in the background at a time, 64.
pub const MAX_REFRESHES: usize = 64;

/// The default time that a request waits for the head of a response to another request, 5 seconds. Then it is
/// forwarded itself.
pub const FILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The default time for which requests of a key do not wait for each other after a response that was not for others,
/// 10 seconds.
pub const HIT_FOR_MISS: Duration = Duration::from_secs(10);

/// The default time for which a stale response is used while the origin cannot be reached, 5 minutes. Responses with
/// `must-revalidate`, `proxy-revalidate`, `s-maxage` or `no-cache` are not.
pub const STALE_IF_UNREACHABLE: Duration = Duration::from_secs(300);

/// Selects requests.
pub(super) type Predicate = dyn Fn(&Request<Body>) -> bool + Send + Sync;

/// Wraps a service in [`Cache`]. All services that a layer and its clones wrap share one store.
#[derive(Clone, Debug)]
pub struct CacheLayer {
    shared: Arc<Shared>,
}

/// Options of a [`CacheLayer`]; created by [`CacheLayer::builder`].
#[must_use = "a layer is made by build()"]
pub struct CacheBuilder {
    pub(super) options: Options,
    capacity: u64,
    max_object: u64,
    max_variants: usize,
    budget: Budget,
    disk: DiskBounds,
}

/// The options that the service reads.
pub(super) struct Options {
    pub(super) lifetimes: Lifetimes,
    pub(super) set_cookie: SetCookie,
    pub(super) query: QueryKey,
    pub(super) name: Option<String>,
    pub(super) max_fetches: usize,
    pub(super) max_followers: usize,
    pub(super) max_refreshes: usize,
    pub(super) fill_timeout: Duration,
    pub(super) hit_for_miss: Duration,
    pub(super) stale_if_unreachable: Duration,
    pub(super) early_refresh: f64,
    pub(super) obeys_requests: bool,
    pub(super) fills_ranges: bool,
    pub(super) no_vary_search: bool,
    pub(super) early_hints: bool,
    pub(super) collapses: bool,
    pub(super) bypass_if: Option<Arc<Predicate>>,
    pub(super) stale_while: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl CacheLayer {
    /// Creates a layer with a store in memory and the default options.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder with the default options.
    pub fn builder() -> CacheBuilder {
        CacheBuilder {
            options: Options {
                lifetimes: Lifetimes::default(),
                set_cookie: SetCookie::default(),
                query: QueryKey::default(),
                name: None,
                max_fetches: MAX_FETCHES,
                max_followers: MAX_FOLLOWERS,
                max_refreshes: MAX_REFRESHES,
                fill_timeout: FILL_TIMEOUT,
                hit_for_miss: HIT_FOR_MISS,
                stale_if_unreachable: STALE_IF_UNREACHABLE,
                early_refresh: 1.0,
                obeys_requests: false,
                fills_ranges: false,
                no_vary_search: false,
                early_hints: false,
                collapses: true,
                bypass_if: None,
                stale_while: None,
            },
            capacity: memory::CAPACITY,
            max_object: memory::MAX_OBJECT,
            max_variants: memory::MAX_VARIANTS,
            budget: process_budget(),
            disk: DiskBounds {
                capacity: disk::DISK_CAPACITY,
                max_objects: disk::MAX_DISK_OBJECTS,
                max_object: disk::MAX_DISK_OBJECT,
                max_variants: memory::MAX_VARIANTS,
                durability: Durability::default(),
            },
        }
    }

    /// Returns a handle to invalidate stored responses, and to read stats.
    pub fn handle(&self) -> CacheHandle {
        CacheHandle::new(self.shared.clone())
    }
}

impl Default for CacheLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = Cache<S>;

    fn layer(&self, inner: S) -> Cache<S> {
        Cache::new(inner, self.shared.clone())
    }
}

impl CacheBuilder {
    /// Sets the bytes of memory for stored responses. Defaults to [`CAPACITY`](super::CAPACITY). They count in the
    /// [budget](Self::budget) too.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets the largest content that is stored, in bytes. Defaults to [`MAX_OBJECT`](super::MAX_OBJECT).
    pub fn max_object(mut self, bytes: u64) -> Self {
        self.max_object = bytes;
        self
    }

    /// Sets how many variants of a key are stored. Defaults to [`MAX_VARIANTS`](super::MAX_VARIANTS).
    pub fn max_variants(mut self, n: usize) -> Self {
        self.max_variants = n.max(1);
        self
    }

    /// Sets the budget of which stored responses take a share. Defaults to [`process_budget`]. While it is above its
    /// soft limit nothing more is stored, so that the cache does not force buffers to disk.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Derives a lifetime from `Last-Modified` for responses without explicit freshness. Off by default.
    pub fn heuristic(mut self, heuristic: Heuristic) -> Self {
        self.options.lifetimes.heuristic = Some(heuristic);
        self
    }

    /// Sets the lifetime of successes and redirects without explicit freshness. Defaults to 0: not stored without a
    /// validator.
    pub fn default_lifetime(mut self, time: Duration) -> Self {
        self.options.lifetimes.default = time;
        self
    }

    /// Sets the lifetime of a 404, 405, 410, 414 or 501 without explicit freshness. Defaults to 0.
    pub fn negative_lifetime(mut self, time: Duration) -> Self {
        self.options.lifetimes.negative = time;
        self
    }

    /// Sets for how long a response without `stale-while-revalidate` is used while it is revalidated. Defaults to 0.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.options.lifetimes.stale_while_revalidate = time;
        self
    }

    /// Sets for how long a response without `stale-if-error` is used instead of a 500, 502, 503 or 504. Defaults to 0.
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.options.lifetimes.stale_if_error = time;
        self
    }

    /// Sets for how long a response is used while the origin cannot be reached: the inner service fails, or answers
    /// with 502 or 504. Defaults to [`STALE_IF_UNREACHABLE`].
    pub fn stale_if_unreachable(mut self, time: Duration) -> Self {
        self.options.stale_if_unreachable = time;
        self
    }

    /// Answers with stale responses, which are refreshed in the background, while `is_overloaded` returns `true`. For
    /// example while requests wait long in a worker pool's queue. Only where [`stale_if_unreachable`](Self::stale_if_unreachable)
    /// permits it.
    pub fn stale_while(mut self, is_overloaded: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.options.stale_while = Some(Arc::new(is_overloaded));
        self
    }

    /// Sets how much earlier than necessary a response is refreshed in the background, so that one that is often
    /// requested never expires. 0 never does; defaults to 1: about as long before the expiry as a fetch takes.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.options.early_refresh = if beta.is_finite() { beta.max(0.0) } else { 0.0 };
        self
    }

    /// Sets what becomes of responses with `Set-Cookie`. Defaults to [`SetCookie::KeepOut`].
    pub fn set_cookie(mut self, how: SetCookie) -> Self {
        self.options.set_cookie = how;
        self
    }

    /// Sets which part of the query belongs to the key. Defaults to all of it.
    pub fn query_key(mut self, query: QueryKey) -> Self {
        self.options.query = query;
        self
    }

    /// Adds `Cache-Status` (RFC 9211) with this name of the cache to responses. Off by default.
    pub fn cache_status(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// Obeys `no-cache`, `max-age`, `max-stale` and `min-fresh` of requests. Off by default, since any client could
    /// then have each request forwarded. `no-store` and `only-if-cached` are always obeyed.
    pub fn obey_requests(mut self, on: bool) -> Self {
        self.options.obeys_requests = on;
        self
    }

    /// Fetches the whole response for a range that is not stored, and cuts the range from it. Off by default: such a
    /// request is forwarded as it is, and its response is not stored. A response that is too large for the store is sent
    /// whole.
    pub fn fill_ranges(mut self, on: bool) -> Self {
        self.options.fills_ranges = on;
        self
    }

    /// Obeys `No-Vary-Search` of responses: a fresh response is used for all queries between which it says that there is
    /// no difference. Off by default, since the field is a draft of the IETF's. What was learned of queries is not kept
    /// across a restart.
    pub fn no_vary_search(mut self, on: bool) -> Self {
        self.options.no_vary_search = on;
        self
    }

    /// Sends the `Link` fields of a stale response as 103 Early Hints (RFC 8297) while it is validated or fetched again: those
    /// for `preload`, `modulepreload` and `preconnect`, to browsers that navigate (`Sec-Fetch-Mode: navigate`). Off by default:
    /// some old clients do not understand 103.
    pub fn early_hints(mut self, on: bool) -> Self {
        self.options.early_hints = on;
        self
    }

    /// Lets requests for the same response share one fetch. On by default.
    pub fn collapse(mut self, on: bool) -> Self {
        self.options.collapses = on;
        self
    }

    /// Sets how long a request waits for the head of a response to another one. Defaults to [`FILL_TIMEOUT`].
    pub fn fill_timeout(mut self, time: Duration) -> Self {
        self.options.fill_timeout = time;
        self
    }

    /// Sets for how long requests of a key do not wait for each other after a response that was not for others.
    /// Defaults to [`HIT_FOR_MISS`].
    pub fn hit_for_miss(mut self, time: Duration) -> Self {
        self.options.hit_for_miss = time;
        self
    }

    /// Sets how many responses are fetched for the store at a time. Defaults to [`MAX_FETCHES`]. Further requests are
    /// forwarded, and their responses are not stored.
    pub fn max_fetches(mut self, n: usize) -> Self {
        self.options.max_fetches = n;
        self
    }

    /// Sets how many requests wait for fetches of others. Defaults to [`MAX_FOLLOWERS`]. Further ones are forwarded.
    pub fn max_followers(mut self, n: usize) -> Self {
        self.options.max_followers = n;
        self
    }

    /// Sets how many responses are refreshed in the background at a time. Defaults to [`MAX_REFRESHES`].
    pub fn max_refreshes(mut self, n: usize) -> Self {
        self.options.max_refreshes = n;
        self
    }

    /// Leaves requests for which `predicate` returns `true` to the inner service. An unsafe one still invalidates.
    pub fn bypass_if(
        mut self,
        predicate: impl Fn(&Request<Body>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.bypass_if = Some(Arc::new(predicate));
        self
    }

    /// Sets the bytes on disk of a store that is [opened](Self::open). Defaults to [`DISK_CAPACITY`](super::DISK_CAPACITY).
    pub fn disk_capacity(mut self, bytes: u64) -> Self {
        self.disk.capacity = bytes;
        self
    }

    /// Sets how many responses are stored on disk. Defaults to [`MAX_DISK_OBJECTS`](super::MAX_DISK_OBJECTS).
    pub fn max_disk_objects(mut self, n: u64) -> Self {
        self.disk.max_objects = n;
        self
    }

    /// Sets the largest content that is stored on disk, in bytes. Defaults to [`MAX_DISK_OBJECT`](super::MAX_DISK_OBJECT).
    /// A content above [`max_object`](Self::max_object) is written to its file while it is read from the origin.
    pub fn max_disk_object(mut self, bytes: u64) -> Self {
        self.disk.max_object = bytes;
        self
    }

    /// Sets what a response on disk survives. Defaults to [`Durability::PowerLoss`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.disk.durability = durability;
        self
    }

    /// Makes the layer, with its store in memory.
    pub fn build(self) -> CacheLayer {
        let clock = Clock::new();
        let memory = MemoryStore::new(self.capacity, self.max_object, self.max_variants, clock);
        self.with_store(Arc::new(memory), clock, Arc::default())
    }

    /// Makes the layer, with its store in a folder and the [capacity](Self::capacity) of memory in front of it for what is
    /// used most. Contents up to [`max_object`](Self::max_object) are read into memory, larger ones are sent by
    /// `sendfile`.
    ///
    /// What the folder has is read in the background, for up to [`SCAN_TIMEOUT`](super::SCAN_TIMEOUT), and requests for
    /// what was not reached yet are forwarded; [`CacheHandle::loaded`] waits for the end. The folder belongs to one
    /// process. It survives a crash: an object is either whole or gone. A response is written after it was sent, or, if it
    /// is larger than [`max_object`](Self::max_object), as it arrives. While the disk is full or read-only responses are
    /// stored in memory only.
    ///
    /// # Errors
    /// Those of the folder, and if another process uses it.
    pub fn open(self, folder: impl AsRef<Path>) -> io::Result<CacheLayer> {
        let clock = Clock::new();
        let memory = MemoryStore::new(self.capacity, self.max_object, self.max_variants, clock);
        let bounds = DiskBounds { max_variants: self.max_variants, ..self.disk };
        let marks = Arc::new(Marks::default());
        let store = DiskStore::open(folder.as_ref(), bounds, memory, clock, &marks)?;
        Ok(self.with_store(Arc::new(store), clock, marks))
    }

    fn with_store(self, store: Arc<dyn Store>, clock: Clock, marks: Arc<Marks>) -> CacheLayer {
        CacheLayer { shared: Arc::new(Shared::new(self.options, store, self.budget, clock, marks)) }
    }
}

impl fmt::Debug for CacheBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("capacity", &self.capacity)
            .field("max_object", &self.max_object)
            .finish_non_exhaustive()
    }
}
