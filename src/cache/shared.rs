//! `Shared`: the state of a cache that all its services share.

use std::{
    fmt,
    future::{Future, poll_fn},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use http::HeaderMap;
use quick_cache::{UnitWeighter, sync};
use tokio::{runtime::Handle, sync::watch};

use super::{
    aliases::Aliases,
    clock::Clock,
    deletions::Deletions,
    flight::Flights,
    key::{Key, KeyHasher},
    layer::Options,
    marks::Marks,
    request_fields::RequestFields,
    stats::Counters,
    store::{Found, Lookup, Store},
    variant::KnownVary,
};
use crate::{
    Budget,
    net::Drain,
    semantics::cache::{
        RequestControl,
        status::{CACHE_STATUS, CacheStatus},
    },
};

/// The maximum number of hit-for-miss keys, 16,384. Beyond it, the least used ones are forgotten.
const MAX_HIT_FOR_MISS: usize = 16_384;

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) store: Arc<dyn Store>,
    pub(super) budget: Budget,
    pub(super) clock: Clock,
    pub(super) flights: Arc<Flights>,
    pub(super) marks: Arc<Marks>,
    /// Whether a sweep is in progress.
    pub(super) sweeps: watch::Sender<bool>,
    /// The keys that were deleted and whose files are not removed yet.
    pub(super) deletions: Deletions,
    pub(super) aliases: Aliases,
    pub(super) known_vary: KnownVary,
    pub(super) counters: Counters,
    pub(super) tasks: Drain,
    /// Keys with responses that cannot be shared, each with the time until which requests do not wait for each other.
    hit_for_miss: sync::Cache<Key, Duration, UnitWeighter, KeyHasher>,
    refreshes: AtomicUsize,
    random: RandomState,
    draws: AtomicUsize,
    last_id: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        options: Options,
        store: Arc<dyn Store>,
        budget: Budget,
        clock: Clock,
        marks: Arc<Marks>,
    ) -> Self {
        let last_id = AtomicU64::new(marks.first_id());
        Self {
            options,
            store,
            budget,
            clock,
            flights: Arc::default(),
            marks,
            sweeps: watch::Sender::default(),
            deletions: Deletions::default(),
            aliases: Aliases::new(),
            known_vary: KnownVary::new(),
            counters: Counters::default(),
            tasks: Drain::new(),
            hit_for_miss: sync::Cache::with(
                MAX_HIT_FOR_MISS,
                MAX_HIT_FOR_MISS as u64,
                UnitWeighter,
                KeyHasher::default(),
                sync::DefaultLifecycle::default(),
            ),
            refreshes: AtomicUsize::new(0),
            random: RandomState::new(),
            draws: AtomicUsize::new(0),
            last_id,
        }
    }

    /// Returns the directives of a request that are obeyed.
    pub(super) fn control(&self, headers: &HeaderMap, fields: RequestFields) -> RequestControl {
        if !fields.has(RequestFields::CONTROL) {
            return RequestControl::default();
        }
        let control = RequestControl::of(headers);
        if self.options.obeys_requests { control } else { control.without_bypass() }
    }

    /// Looks up the stored response of a request. The marks of all earlier invalidations apply to it.
    pub(super) fn get(self: &Arc<Self>, key: &Key, request: &HeaderMap) -> Lookup {
        let removals = self.marks.removals();
        let pending = match self.store.get(key, request) {
            Lookup::Ready(found) => match self.marks.apply(key, found, removals) {
                Some(found) => return Lookup::Ready(found),
                None => None,
            },
            Lookup::Pending(found) => Some(found),
        };
        let (shared, key, request) = (self.clone(), key.clone(), request.clone());
        Lookup::Pending(Box::pin(async move {
            let found = match pending {
                Some(found) => shared.marks.apply(&key, found.await, removals),
                None => None,
            };
            match found {
                Some(found) => found,
                None => shared.lookup(&key, &request).await,
            }
        }))
    }

    /// The same as [`get`](Self::get), as a future.
    pub(super) async fn lookup(&self, key: &Key, request: &HeaderMap) -> Found {
        loop {
            let removals = self.marks.removals();
            let found = match self.store.get(key, request) {
                Lookup::Ready(found) => found,
                Lookup::Pending(found) => found.await,
            };
            if let Some(found) = self.marks.apply(key, found, removals) {
                return found;
            }
        }
    }

    /// Returns an id above all earlier ones, including those of earlier processes with the same directory.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Relaxed) + 1
    }

    /// Returns whether requests for a key do not wait for each other.
    pub(super) fn is_hit_for_miss(&self, key: &Key, now: Duration) -> bool {
        self.hit_for_miss.get(key).is_some_and(|until| now < until)
    }

    pub(super) fn set_hit_for_miss(&self, key: &Key, now: Duration) {
        let time = self.options.hit_for_miss;
        // Extended in its second half only, since a read is cheaper than a change.
        if self.hit_for_miss.get(key).is_none_or(|until| until < now + time / 2) {
            self.hit_for_miss.insert(key.clone(), now.saturating_add(time));
        }
    }

    pub(super) fn clear_hit_for_miss(&self, key: &Key) {
        self.hit_for_miss.remove(key);
    }

    /// Adds `Cache-Status` to the fields of a response, if the cache has a name.
    pub(super) fn add_status(&self, headers: &mut HeaderMap, status: CacheStatus) {
        let value = self.options.status.as_ref().and_then(|values| values.value(status));
        if let Some(value) = value {
            headers.append(CACHE_STATUS, value);
        }
    }

    /// Returns a number between 0 and 1 that clients cannot predict.
    pub(super) fn random(&self) -> f64 {
        let draw = self.random.hash_one(self.draws.fetch_add(1, Relaxed));
        // 53 bits are a float's precision.
        (draw >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Spawns a task, which a shutdown may abort. Returns `false` if there is no runtime.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(runtime) = Handle::try_current() else { return false };
        let mut watch = self.tasks.watch();
        runtime.spawn(async move {
            let mut work = Box::pin(work);
            poll_fn(|cx| {
                if watch.poll_draining(cx) && watch.is_aborted() {
                    return Poll::Ready(());
                }
                work.as_mut().poll(cx)
            })
            .await;
            drop(work);
            drop(watch);
        });
        true
    }

    /// Returns the permit of a refresh; `None` if there are too many.
    pub(super) fn try_begin_refresh(self: &Arc<Self>) -> Option<RefreshPermit> {
        let add = |n: usize| (n < self.options.max_refreshes).then_some(n + 1);
        self.refreshes.fetch_update(Relaxed, Relaxed, add).ok()?;
        Some(RefreshPermit(self.clone()))
    }
}

/// The permit of a refresh in the background.
pub(super) struct RefreshPermit(Arc<Shared>);

impl Drop for RefreshPermit {
    fn drop(&mut self) {
        self.0.refreshes.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}
