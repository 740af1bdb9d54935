//! `CacheBuilder`: the options of a cache.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use http::{Request, request};

use super::{
    clock::Clock,
    disk::{self, DiskBounds, DiskStore, Durability},
    key::QueryKey,
    layer::{CacheLayer, Options},
    marks::Marks,
    memory::{self, MemoryStore},
    shared::Shared,
    status_values::StatusValues,
    store::Store,
};
use crate::{
    Body, Budget,
    net::process_budget,
    semantics::cache::{Heuristic, storable::SetCookie},
};

/// Options of a [`CacheLayer`]; created by [`CacheLayer::builder`].
#[must_use = "a layer is made by build()"]
pub struct CacheBuilder {
    options: Options,
    capacity: u64,
    max_object: u64,
    max_variants: usize,
    budget: Budget,
    disk: DiskBounds,
}

impl CacheBuilder {
    pub(super) fn new() -> Self {
        Self {
            options: Options::default(),
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

    /// Sets the memory for stored responses, in bytes. Defaults to [`CAPACITY`](super::CAPACITY). It also counts in the
    /// [budget](Self::budget).
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets the maximum length of a content that is stored in memory, in bytes. Defaults to
    /// [`MAX_OBJECT`](super::MAX_OBJECT).
    pub fn max_object(mut self, bytes: u64) -> Self {
        self.max_object = bytes;
        self
    }

    /// Sets the maximum number of variants of a key, at least 1. Defaults to [`MAX_VARIANTS`](super::MAX_VARIANTS).
    pub fn max_variants(mut self, n: usize) -> Self {
        self.max_variants = n.max(1);
        self
    }

    /// Sets the budget in which stored responses count. Defaults to [`process_budget`]. While the budget is above its soft
    /// limit, no response is stored, so that the cache does not force buffers to disk.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets a heuristic lifetime, derived from `Last-Modified`, for responses without explicit freshness (RFC 9111 section
    /// 4.2.2). Off by default.
    pub fn heuristic(mut self, heuristic: Heuristic) -> Self {
        self.options.lifetimes.heuristic = Some(heuristic);
        self
    }

    /// Sets the lifetime of successes and redirects without explicit freshness. Defaults to 0: they are stored only with a
    /// validator.
    ///
    /// Only for an application that answers all clients alike, or sends `private`, `no-store` or `Vary: Cookie` otherwise:
    /// the page of a user who has logged in would be stored and sent to others. Let requests with a session
    /// [bypass](Self::bypass_if) the cache if it does not.
    pub fn default_lifetime(mut self, time: Duration) -> Self {
        self.options.lifetimes.default = time;
        self
    }

    /// Sets the lifetime of a 404, 405, 410, 414 or 501 without explicit freshness. Defaults to 0.
    pub fn negative_lifetime(mut self, time: Duration) -> Self {
        self.options.lifetimes.negative = time;
        self
    }

    /// Sets the `stale-while-revalidate` of responses without one: for how long after its expiry a response is used while it
    /// is revalidated in the background. Does not apply to responses that were never fresh. Defaults to 0.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.options.lifetimes.stale_while_revalidate = time;
        self
    }

    /// Sets the `stale-if-error` of responses without one: for how long after its expiry a response is used instead of a 500,
    /// 502, 503 or 504. Does not apply to responses that were never fresh. Defaults to 0.
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.options.lifetimes.stale_if_error = time;
        self
    }

    /// Sets for how long after its expiry a response is used while the origin is unreachable: the inner service fails, or
    /// answers with 502 or 504. Does not apply to responses without a lifetime. Defaults to [`STALE_IF_UNREACHABLE`](super::STALE_IF_UNREACHABLE).
    pub fn stale_if_unreachable(mut self, time: Duration) -> Self {
        self.options.stale_if_unreachable = time;
        self
    }

    /// Answers with stale responses, which are refreshed in the background, while `is_overloaded` returns `true`: for example
    /// while requests wait long for a worker. [`stale_if_unreachable`](Self::stale_if_unreachable) limits how stale they
    /// may be. Called for each request for a stale response, so it must be cheap.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower::Layer;
    /// use vestibule::{Response, cache::CacheLayer, worker};
    ///
    /// # fn main() -> Result<(), vestibule::Error> {
    /// let pool = worker::threads(8, || worker::blocking(|_request| Response::new("page"))).start()?;
    /// let queue = pool.clone();
    /// let site = CacheLayer::builder()
    ///     .stale_while(move || queue.stats().oldest_wait > Duration::from_millis(200))
    ///     .build()
    ///     .layer(pool);
    /// # drop(site);
    /// # Ok(()) }
    /// ```
    ///
    /// For the queue in front of upstream servers, see
    /// [`QueueStats::oldest_wait`](crate::upstream::QueueStats::oldest_wait).
    pub fn stale_while(mut self, is_overloaded: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.options.stale_while = Some(Arc::new(is_overloaded));
        self
    }

    /// Sets how early before its expiry a response is refreshed in the background, so that a response that is often requested
    /// does not expire. The unit is the time of a fetch, and the exact moment is random. Defaults to 1; 0 disables it.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.options.early_refresh = if beta.is_finite() { beta.max(0.0) } else { 0.0 };
        self
    }

    /// Sets how responses with `Set-Cookie` are stored. Defaults to [`SetCookie::KeepOut`].
    pub fn set_cookie(mut self, how: SetCookie) -> Self {
        self.options.set_cookie = how;
        self
    }

    /// Sets which part of the query belongs to the key. Defaults to the whole query.
    pub fn query_key(mut self, query: QueryKey) -> Self {
        self.options.query = query;
        self
    }

    /// Adds a `Cache-Status` field (RFC 9211) to responses, with this name for the cache. Off by default.
    pub fn cache_status(mut self, name: impl Into<String>) -> Self {
        self.options.status = Some(StatusValues::new(name.into()));
        self
    }

    /// Obeys `no-cache`, `max-age`, `max-stale` and `min-fresh` of requests. Off by default, since with it any client can
    /// bypass the cache. `no-store` and `only-if-cached` are always obeyed.
    pub fn obey_requests(mut self, on: bool) -> Self {
        self.options.obeys_requests = on;
        self
    }

    /// Fetches the whole response on a miss of a range request, stores it, and answers with the range. Off by default: such a
    /// request is forwarded unchanged, and its response is not stored. A response that is too large for the store is sent as
    /// a whole.
    pub fn fill_ranges(mut self, on: bool) -> Self {
        self.options.fills_ranges = on;
        self
    }

    /// Obeys `No-Vary-Search` of responses: a fresh response is used for all queries that this field declares equivalent. Off
    /// by default, since the field is an IETF draft. The known equivalences are lost in a restart.
    pub fn no_vary_search(mut self, on: bool) -> Self {
        self.options.no_vary_search = on;
        self
    }

    /// Sends the `Link` fields of a stale response as 103 Early Hints (RFC 8297) while it is validated or fetched again. Sends
    /// only `preload`, `modulepreload` and `preconnect`, and only for navigations of browsers (`Sec-Fetch-Mode: navigate`).
    /// Off by default: some old clients do not understand 103.
    pub fn early_hints(mut self, on: bool) -> Self {
        self.options.early_hints = on;
        self
    }

    /// Lets requests for the same response share one fetch, if the response may be used without a validation. On by default.
    pub fn collapse(mut self, on: bool) -> Self {
        self.options.collapses = on;
        self
    }

    /// Lets only requests for which `predicate` returns `true` share one fetch. Others neither wait for another request nor
    /// are waited for before their response is received; that is stored as usual. For routes whose responses are seldom
    /// storable, or must not be delayed by a slow request of another client. Without effect if [`collapse`](Self::collapse)
    /// is off.
    ///
    /// ```
    /// use vestibule::cache::CacheLayer;
    ///
    /// let layer = CacheLayer::builder()
    ///     .collapse_if(|request| !request.uri.path().starts_with("/search"))
    ///     .build();
    /// ```
    pub fn collapse_if(
        mut self,
        predicate: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.collapse_if = Some(Arc::new(predicate));
        self
    }

    /// Sets how long a request waits for the head of the response to another request, and after which time without a byte of
    /// its content later requests are forwarded instead of joining it. Defaults to
    /// [`FILL_TIMEOUT`](super::FILL_TIMEOUT).
    pub fn fill_timeout(mut self, time: Duration) -> Self {
        self.options.fill_timeout = time;
        self
    }

    /// Sets the maximum time from the head of a response to the end of its content. A slower response is not stored, and is
    /// read only as long as clients read it, so that an origin that sends little by little without end does not occupy one
    /// of [`max_fetches`](Self::max_fetches). Defaults to [`MAX_FILL_TIME`](super::MAX_FILL_TIME).
    pub fn max_fill_time(mut self, time: Duration) -> Self {
        self.options.max_fill_time = time;
        self
    }

    /// Sets for how long requests for a key do not wait for each other after a response that could not be shared: it was not
    /// stored, or must be validated before each use.
    /// Defaults to [`HIT_FOR_MISS`](super::HIT_FOR_MISS).
    pub fn hit_for_miss(mut self, time: Duration) -> Self {
        self.options.hit_for_miss = time;
        self
    }

    /// Sets the maximum number of fetches in progress whose responses may be stored. Defaults to [`MAX_FETCHES`](super::MAX_FETCHES). Further requests are
    /// forwarded, and their responses are not stored.
    pub fn max_fetches(mut self, n: usize) -> Self {
        self.options.max_fetches = n;
        self
    }

    /// Sets the maximum number of requests that wait for the fetch of another request. Defaults to [`MAX_FOLLOWERS`](super::MAX_FOLLOWERS). Further ones are forwarded.
    pub fn max_followers(mut self, n: usize) -> Self {
        self.options.max_followers = n;
        self
    }

    /// Sets the maximum number of concurrent refreshes in the background. Defaults to [`MAX_REFRESHES`](super::MAX_REFRESHES).
    pub fn max_refreshes(mut self, n: usize) -> Self {
        self.options.max_refreshes = n;
        self
    }

    /// Sets the time within which the origin must begin its response to a refresh in the background. Then the request is
    /// dropped, and the next one for a stale response starts another refresh. Defaults to
    /// [`REFRESH_TIMEOUT`](super::REFRESH_TIMEOUT). The content that follows has [`max_fill_time`](Self::max_fill_time).
    pub fn refresh_timeout(mut self, time: Duration) -> Self {
        self.options.refresh_timeout = time;
        self
    }

    /// Forwards requests for which `predicate` returns `true`, without a lookup. Unsafe ones still invalidate.
    pub fn bypass_if(
        mut self,
        predicate: impl Fn(&Request<Body>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.bypass_if = Some(Arc::new(predicate));
        self
    }

    /// Sets the capacity in bytes of a store on disk ([`open`](Self::open)). Defaults to
    /// [`DISK_CAPACITY`](super::DISK_CAPACITY).
    ///
    /// It bounds the stored responses. In addition, contents that are being received take up to a quarter of it together, or
    /// [`max_disk_object`](Self::max_disk_object) if that is more. A file that was removed, or whose content was received and
    /// not stored, takes its space until the last client that is reading it has ended: at most
    /// [`max_disk_object`](Self::max_disk_object) for each such client. A minimum rate for clients
    /// bounds that time.
    pub fn disk_capacity(mut self, bytes: u64) -> Self {
        self.disk.capacity = bytes;
        self
    }

    /// Sets the maximum number of responses on disk. Defaults to [`MAX_DISK_OBJECTS`](super::MAX_DISK_OBJECTS).
    pub fn max_disk_objects(mut self, n: u64) -> Self {
        self.disk.max_objects = n;
        self
    }

    /// Sets the maximum length of a content on disk, in bytes. Defaults to [`MAX_DISK_OBJECT`](super::MAX_DISK_OBJECT). A
    /// content that exceeds [`max_object`](Self::max_object) is written to its file while it is received.
    pub fn max_disk_object(mut self, bytes: u64) -> Self {
        self.disk.max_object = bytes;
        self
    }

    /// Sets which events a response on disk survives. Defaults to [`Durability::PowerLoss`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.disk.durability = durability;
        self
    }

    /// Creates the layer, with a store in memory.
    pub fn build(self) -> CacheLayer {
        let clock = Clock::new();
        let memory = MemoryStore::new(self.capacity, self.max_object, self.max_variants, clock);
        self.with_store(Arc::new(memory), clock, Arc::default())
    }

    /// Creates the layer, with a store in a directory, and a store in memory of [`capacity`](Self::capacity) in front of it
    /// for the most used responses. Contents up to [`max_object`](Self::max_object) are read into memory, longer ones, and
    /// those that the budget has no memory for, are sent by `sendfile`, and the files of the most used ones stay open. The
    /// directory is created if it is missing.
    ///
    /// A scan in the background, of at most [`SCAN_TIMEOUT`](super::SCAN_TIMEOUT), finds the responses of earlier processes;
    /// until then, requests for them are forwarded. [`CacheHandle::loaded`](super::CacheHandle::loaded) waits for its end.
    /// A response is written to disk after it was received, or, if it exceeds [`max_object`](Self::max_object), while it is
    /// received. While the disk is full or read-only, responses are stored in memory only.
    ///
    /// The directory belongs to one layer of one process, which locks it (`flock`) until it ends, even by
    /// SIGKILL. During an upgrade with two processes the new one therefore opens the directory after the old one has ended,
    /// or uses another one.
    ///
    /// # What is verified
    /// After a crash, a response is either complete or missing: [`Durability`]. The scan and each read from disk check the
    /// checksum of a response's fields and times, and the length of its content. A response that fails is removed and fetched
    /// again. The bytes of a content are not verified: one that the disk returns with other bytes of the same length
    /// is served. Where that matters, use a file system with checksums, or hardware that has them.
    ///
    /// # Errors
    /// [`ResourceBusy`](io::ErrorKind::ResourceBusy) if another process or layer uses the directory. Other errors if it cannot
    /// be created, read, written or locked.
    pub fn open(self, dir: impl AsRef<Path>) -> io::Result<CacheLayer> {
        let clock = Clock::new();
        let memory = MemoryStore::new(self.capacity, self.max_object, self.max_variants, clock);
        let bounds = DiskBounds { max_variants: self.max_variants, ..self.disk };
        let (store, marks) =
            DiskStore::open(dir.as_ref(), bounds, memory, clock, self.budget.clone())?;
        Ok(self.with_store(Arc::new(store), clock, marks))
    }

    pub(super) fn with_store(
        self,
        store: Arc<dyn Store>,
        clock: Clock,
        marks: Arc<Marks>,
    ) -> CacheLayer {
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
