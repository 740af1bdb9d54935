//! `Flights`: the fetches in progress, so that requests for one response share one fetch, and an invalidation also
//! applies to responses that are not stored yet.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use http::HeaderMap;
use tokio::sync::Notify;

use super::{
    fetch::Fetch,
    fill::Fill,
    invalidations::Invalidations,
    key::{Key, KeyHasher},
    layer::Options,
    object::Object,
    store::Store,
    variant::Variant,
};
use crate::semantics::cache::Reuse;

/// The maximum number of fetches of one key in progress up to which a request for a further variant starts one that others may
/// join, 64: each request for the key is compared with each of them.
pub(super) const MAX_FLIGHTS_OF_KEY: usize = 64;

type ByKey = HashMap<Key, Vec<Arc<Flight>>, KeyHasher>;

/// All fetches of a cache whose responses may be stored.
#[derive(Default)]
pub(super) struct Flights {
    /// Also locked during writes to the store, so that an invalidation misses none of them.
    by_key: Mutex<ByKey>,
    invalidations: Invalidations,
    /// The number of objects that were stored, and of invalidations, so far.
    changes: AtomicU64,
    len: AtomicUsize,
    followers: AtomicUsize,
}

/// A fetch in progress.
#[derive(Default)]
pub(super) struct Flight {
    /// Whether an invalidation has applied to it since its start. Its response is then not stored.
    is_invalidated: AtomicBool,
    /// The variant that it is probably for; `None` if that is not known before the head.
    variant: Option<Variant>,
    phase: Mutex<Phase>,
    /// Notified when the phase is no longer [`Phase::Waiting`].
    head_received: Notify,
}

/// The progress of a fetch, for its followers.
#[derive(Clone, Default)]
pub(super) enum Phase {
    /// The fetch waits for the head of the response.
    #[default]
    Waiting,
    /// The head was received, and the content is being read.
    Filling(Arc<Fill>),
    /// The response is complete, or the stored one was validated.
    Ready(Arc<Object>),
    /// The fetch failed, or its response is not shared.
    Released,
}

/// The role of a request without a usable stored response.
pub(super) enum Role {
    /// It fetches the response, and others may follow.
    Lead(Leader),
    /// It follows the fetch of another request.
    Follow(Follower),
    /// It is forwarded individually, and its response may be stored if the number of [`Invalidations`] is still this one
    /// when its head is received.
    Single(u64),
    /// It is forwarded individually, and its response is not stored.
    Unstored,
}

/// The fetch of a request. Dropping it before its end releases its followers.
pub(super) struct Leader {
    flights: Arc<Flights>,
    key: Key,
    flight: Arc<Flight>,
    /// Whether it is in the list. If not, the phase was set.
    is_listed: bool,
}

/// A request that follows a fetch, counted until it is dropped.
pub(super) struct Follower {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, ByKey> {
        // A panic of the store leaves the map consistent.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a fetch whose response may answer the request, or starts one.
    pub(super) fn enter(
        self: &Arc<Self>,
        fetch: &Fetch,
        variant: Option<Variant>,
        options: &Options,
    ) -> Role {
        let (key, own) = (&fetch.key, variant.as_ref());
        let mut by_key = self.lock();
        let flights = by_key.get(key).map_or(&[][..], Vec::as_slice);
        if let Some(flight) = flights.iter().rev().find(|f| f.accepts(fetch, own, options)) {
            if self.followers.load(Relaxed) >= options.max_followers {
                return Role::Unstored;
            }
            self.followers.fetch_add(1, Relaxed);
            return Role::Follow(Follower { flights: self.clone(), flight: flight.clone() });
        }
        if flights.len() >= MAX_FLIGHTS_OF_KEY {
            return self.enter_single(key);
        }
        self.lead(&mut by_key, key, variant, options).map_or(Role::Unstored, Role::Lead)
    }

    /// Returns the role of a request that must not wait for another one.
    pub(super) fn enter_single(&self, key: &Key) -> Role {
        Role::Single(self.invalidations(key))
    }

    /// Starts a fetch whose head was already received, by a request in the role [`Role::Single`] with this number. Returns
    /// `None` if its response must not be stored.
    pub(super) fn lead_late(
        self: &Arc<Self>,
        key: &Key,
        invalidations: u64,
        options: &Options,
    ) -> Option<Leader> {
        let mut by_key = self.lock();
        let is_valid = self.invalidations.count(key) == invalidations;
        if is_valid { self.lead(&mut by_key, key, None, options) } else { None }
    }

    /// Starts a fetch; returns `None` if there are too many.
    fn lead(
        self: &Arc<Self>,
        by_key: &mut ByKey,
        key: &Key,
        variant: Option<Variant>,
        options: &Options,
    ) -> Option<Leader> {
        if self.len.load(Relaxed) >= options.max_fetches {
            return None;
        }
        self.len.fetch_add(1, Relaxed);
        let flight = Arc::new(Flight { variant, ..Flight::default() });
        by_key.entry(key.clone()).or_default().push(flight.clone());
        Some(Leader { flights: self.clone(), key: key.clone(), flight, is_listed: true })
    }

    /// Removes a fetch that has ended.
    fn unlist(&self, by_key: &mut ByKey, key: &Key, ended: &Arc<Flight>) {
        if let Some(mut flights) = by_key.remove(key) {
            flights.retain(|flight| !Arc::ptr_eq(flight, ended));
            // Usually it was the only one.
            if !flights.is_empty() {
                by_key.insert(key.clone(), flights);
            }
        }
        self.len.fetch_sub(1, Relaxed);
    }

    /// Returns the number of objects that were stored, and of invalidations, so far. If it has not changed between a
    /// lookup and the start of a fetch, the lookup need not be repeated.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Counts an invalidation, after the store was changed: a request that has still found an invalidated response, and
    /// validates it, reads one of the numbers before, so it repeats its lookup, or its response is not stored.
    fn count_invalidation(&self, count: impl FnOnce(&Invalidations)) {
        // In this order: a request reads the invalidations first.
        self.changes.fetch_add(1, Release);
        count(&self.invalidations);
    }

    /// Returns whether a fetch is in progress that refreshes the stored response of a request.
    pub(super) fn has(&self, fetch: &Fetch, own: Option<&Variant>) -> bool {
        let is_same = |flight: &Arc<Flight>| flight.is_for(fetch.headers(), own);
        self.lock().get(&fetch.key).is_some_and(|flights| flights.iter().any(is_same))
    }

    /// Changes the store, and prevents the responses of the selected fetches from being stored. `selects` gets the
    /// groups of the response, or `None` while they are unknown.
    pub(super) fn invalidate<R>(
        &self,
        selects: impl Fn(&Key, Option<&[String]>) -> bool,
        change_store: impl FnOnce() -> R,
    ) -> R {
        let by_key = self.lock();
        for (key, flights) in by_key.iter() {
            for flight in flights {
                let is_selected = match &*flight.phase() {
                    Phase::Filling(fill) => selects(key, Some(&fill.head.groups)),
                    Phase::Waiting | Phase::Ready(_) | Phase::Released => selects(key, None),
                };
                if is_selected {
                    flight.is_invalidated.store(true, Relaxed);
                }
            }
        }
        let result = change_store();
        self.count_invalidation(Invalidations::add);
        drop(by_key);
        result
    }

    /// Changes the store, and prevents the responses of the fetches for `key` from being stored.
    pub(super) fn invalidate_key<R>(&self, key: &Key, change_store: impl FnOnce() -> R) -> R {
        let by_key = self.lock();
        for flight in by_key.get(key).into_iter().flatten() {
            flight.is_invalidated.store(true, Relaxed);
        }
        let result = change_store();
        self.count_invalidation(|invalidations| invalidations.add_key(key));
        drop(by_key);
        result
    }

    /// Returns how many invalidations may have concerned a key so far, for [`write_unless_invalidated`].
    ///
    /// [`write_unless_invalidated`]: Self::write_unless_invalidated
    pub(super) fn invalidations(&self, key: &Key) -> u64 {
        self.invalidations.count(key)
    }

    /// Changes the store without affecting fetches, if the number of [`invalidations`](Self::invalidations) is still this
    /// one.
    pub(super) fn write_unless_invalidated(
        &self,
        key: &Key,
        invalidations: u64,
        change_store: impl FnOnce(),
    ) {
        self.write(|| {
            if self.invalidations.count(key) == invalidations {
                change_store();
            }
        });
    }

    /// Changes the store without affecting fetches.
    pub(super) fn write<R>(&self, change_store: impl FnOnce() -> R) -> R {
        let by_key = self.lock();
        let result = change_store();
        drop(by_key);
        result
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    pub(super) fn followers(&self) -> usize {
        self.followers.load(Relaxed)
    }
}

impl Flight {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        // Nothing panics while the lock is held.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the phase if the fetch still waits for the head. Later ones do not concern its followers.
    fn set_phase(&self, next: Phase) {
        let mut phase = self.phase();
        let is_awaited = matches!(*phase, Phase::Waiting);
        if is_awaited {
            *phase = next;
        }
        drop(phase);
        if is_awaited {
            self.head_received.notify_waiters();
        }
    }

    /// Returns whether a new request may follow the fetch. After the head of the response, this depends on its freshness, as
    /// if it were stored already, and on the progress of its content.
    fn accepts(&self, fetch: &Fetch, own: Option<&Variant>, options: &Options) -> bool {
        if self.is_invalidated.load(Relaxed) {
            return false;
        }
        match &*self.phase() {
            Phase::Waiting => self.is_probably_for(fetch.headers(), own),
            Phase::Filling(fill) => {
                let head = &fill.head;
                head.answers_waiting(fetch.headers())
                    && head.freshness.reuse(&fetch.control, fetch.now) != Reuse::Validate
                    && !fill.has_stalled(fetch.now, options.fill_timeout)
            }
            Phase::Ready(_) | Phase::Released => false,
        }
    }

    /// Returns whether the response will be stored for this request, as far as that is known.
    fn is_for(&self, request: &HeaderMap, own: Option<&Variant>) -> bool {
        if self.is_invalidated.load(Relaxed) {
            return false;
        }
        match &*self.phase() {
            Phase::Waiting => self.is_probably_for(request, own),
            Phase::Filling(fill) => fill.head.matches(request),
            Phase::Ready(_) | Phase::Released => false,
        }
    }

    /// Returns whether the request selects the same variant by the `Vary` of the latest response.
    fn is_probably_for(&self, request: &HeaderMap, own: Option<&Variant>) -> bool {
        self.variant.as_ref().is_none_or(|variant| variant.is_selected_by(request, own))
    }
}

impl Leader {
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Returns whether an invalidation has applied to the fetch since its start, so that its response is not stored.
    pub(super) fn is_invalidated(&self) -> bool {
        self.flight.is_invalidated.load(Relaxed)
    }

    /// Lets followers read the content as it is received.
    pub(super) fn open(&self, fill: Arc<Fill>) {
        self.flight.set_phase(Phase::Filling(fill));
    }

    /// Stores the object, unless it was invalidated since the start of the fetch, and ends the fetch. Followers that
    /// wait for the head get the object in any case, since they arrived before the invalidation. Returns whether it
    /// was stored.
    pub(super) fn store(mut self, store: &dyn Store, object: &Arc<Object>) -> bool {
        let flights = &*self.flights;
        let mut by_key = flights.lock();
        let is_stored = !self.flight.is_invalidated.load(Relaxed);
        if is_stored {
            store.insert(&self.key, object);
            flights.changes.fetch_add(1, Release);
        }
        flights.unlist(&mut by_key, &self.key, &self.flight);
        drop(by_key);
        self.is_listed = false;
        self.flight.set_phase(Phase::Ready(object.clone()));
        is_stored
    }

    /// Ends the fetch without storing its response. Followers that read the content continue.
    pub(super) fn release(self) {
        drop(self);
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.is_listed {
            self.flights.unlist(&mut self.flights.lock(), &self.key, &self.flight);
            self.flight.set_phase(Phase::Released);
        }
    }
}

impl Follower {
    /// Waits for the head of the response, or for the end of the fetch.
    pub(super) async fn wait(self) -> Phase {
        loop {
            // Created before the phase is read, so that it is notified of a change after that.
            let head_received = self.flight.head_received.notified();
            let phase = self.flight.phase().clone();
            if !matches!(phase, Phase::Waiting) {
                return phase;
            }
            head_received.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.flights.followers.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("len", &self.len()).finish_non_exhaustive()
    }
}
