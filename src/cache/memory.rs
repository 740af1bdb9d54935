//! `MemoryStore`: objects in memory, within a capacity in bytes and the budget.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;
use quick_cache::{OptionsBuilder, Weighter, sync};

use super::{
    clock::Clock,
    key::{Key, KeyHasher},
    marks::Verdict,
    object::{Object, Variants},
    store::{Changes, Found, Judge, Lookup, Purge, Store},
};
use crate::semantics::cache::Vary;

/// The default capacity of the memory store, 64 MiB.
pub const CAPACITY: u64 = 64 << 20;

/// The default maximum length of a content in memory, 1 MiB.
pub const MAX_OBJECT: u64 = 1 << 20;

/// The default maximum number of variants of a key, 16. Beyond it the oldest one is dropped.
pub const MAX_VARIANTS: usize = 16;

/// The assumed average size of an object, in bytes. Determines the initial capacity of the hash table.
const TYPICAL_OBJECT: u64 = 8 << 10;

/// The maximum number of shards, 8. Each has its own lock and part of the capacity.
const SHARDS: u64 = 8;

/// Returns the maximum weight of a key in a store with this number of shards: 90 % of a shard. `quick_cache` reserves 97 % for
/// frequently used keys, and keeps none that exceeds that.
pub(super) fn max_key_weight(capacity: u64, shards: u64) -> u64 {
    capacity / shards / 10 * 9
}

/// A store in memory. S3-FIFO evicts rarely used objects.
pub(super) struct MemoryStore {
    objects: sync::Cache<Key, Entry, ByBytes, KeyHasher>,
    max_object: u64,
    max_variants: usize,
    /// The maximum weight of a key: that of a shard that is kept for frequently used ones. A key with more is not stored.
    max_weight: u64,
    clock: Clock,
}

/// The objects of a key, and their weight: an eviction reads it without touching the fields of the objects, which are
/// rarely in the processor's cache by then.
#[derive(Clone)]
struct Entry {
    variants: Variants,
    weight: u64,
}

impl Entry {
    fn new(key: &Key, variants: Variants) -> Self {
        let weight = key.as_str().len() as u64 + variants.memory();
        Self { variants, weight }
    }
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<Key, Entry> for ByBytes {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.weight
    }
}

impl MemoryStore {
    pub(super) fn new(capacity: u64, max_object: u64, max_variants: usize, clock: Clock) -> Self {
        // A shard must have capacity for several of the largest objects, or it cannot keep any.
        let shards = (capacity / max_object.saturating_mul(4).max(1)).clamp(1, SHARDS);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(
                usize::try_from(capacity / TYPICAL_OBJECT).unwrap_or(0).max(16),
            )
            .weight_capacity(capacity)
            .shards(usize::try_from(shards).unwrap_or(1))
            .build()
            .expect("capacities are set");
        let objects = sync::Cache::with_options(
            options,
            ByBytes,
            KeyHasher::default(),
            sync::DefaultLifecycle::default(),
        );
        let max_weight = max_key_weight(capacity, shards);
        Self { objects, max_object, max_variants, max_weight, clock }
    }
}

impl MemoryStore {
    /// Replaces or removes the objects of a key by the result of `f`.
    fn update(&self, key: &Key, f: impl FnMut(&Arc<Object>) -> Option<Arc<Object>>) {
        let Some(entry) = self.objects.peek(key) else { return };
        match entry.variants.filter_map(f) {
            Some(left) => self.objects.insert(key.clone(), Entry::new(key, left)),
            None => drop(self.objects.remove(key)),
        }
    }
}

impl MemoryStore {
    /// Returns the object with this id, as a use of its key.
    pub(super) fn find(&self, key: &Key, id: u64) -> Option<Arc<Object>> {
        let entry = self.objects.get(key)?;
        entry.variants.iter().find(|object| object.id == id).cloned()
    }

    /// Removes older objects that a request may select instead of this one, which is not in memory.
    pub(super) fn remove_older(&self, key: &Key, vary: &Vary, revision: u64) {
        let is_older =
            |object: &Arc<Object>| object.revision < revision && object.may_overlap(vary);
        if self.objects.peek(key).is_some_and(|entry| entry.variants.iter().any(is_older)) {
            self.update(key, |object| (!is_older(object)).then(|| object.clone()));
        }
    }

    /// Removes objects with these ids whose content is in a file.
    pub(super) fn close_files(&self, key: &Key, ids: &[u64]) {
        let is_closed = |object: &Arc<Object>| object.content.is_file() && ids.contains(&object.id);
        if self.objects.peek(key).is_some_and(|entry| entry.variants.iter().any(is_closed)) {
            self.update(key, |object| (!is_closed(object)).then(|| object.clone()));
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &Key, request: &HeaderMap) -> Lookup {
        let found = self.objects.get(key);
        let has_others = found.is_some();
        let object = found.and_then(|entry| entry.variants.find(request));
        Lookup::Ready(Found { object, has_others })
    }

    fn insert(&self, key: &Key, object: &Arc<Object>) {
        let variants = match self.objects.peek(key) {
            Some(entry) => {
                let max_memory = self.max_weight.saturating_sub(key.as_str().len() as u64);
                entry.variants.with(object, self.max_variants, max_memory)
            }
            None => Variants::One(object.clone()),
        };
        self.objects.insert(key.clone(), Entry::new(key, variants));
    }

    fn replace(&self, key: &Key, old: &Object, new: &Arc<Object>) {
        self.update(key, |object| {
            Some(if object.is_unchanged(old) { new.clone() } else { object.clone() })
        });
    }

    fn remove(&self, key: &Key, object: &Object) {
        self.update(key, |known| (!known.is_same_variant(object)).then(|| known.clone()));
    }

    fn invalidate(&self, key: &Key, purge: Purge) -> Option<Changes> {
        let now = self.clock.now();
        self.update(key, |object| expired(object, purge, now));
        None
    }

    fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key)) {
        for (key, entry) in self.objects.iter() {
            let keeps = |object: &Arc<Object>| {
                judge(&key, &object.groups, object.revision) == Verdict::Keep
            };
            if !entry.variants.iter().all(keeps) {
                selected(&key);
            }
        }
    }

    fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes {
        let mut changes = Changes::default();
        self.update(key, |object| match judge(key, &object.groups, object.revision) {
            Verdict::Keep => Some(object.clone()),
            verdict => {
                let mut judged = Object::clone(object);
                let is_kept = changes.record(object.id, &mut judged.freshness, verdict);
                is_kept.then(|| Arc::new(judged))
            }
        });
        changes
    }

    fn usage(&self) -> (u64, u64) {
        (self.objects.len() as u64, self.objects.weight())
    }

    fn max_object(&self) -> u64 {
        self.max_object
    }
}

/// Returns the object after a purge: stale, or `None` if it is removed.
pub(super) fn expired(object: &Arc<Object>, purge: Purge, now: Duration) -> Option<Arc<Object>> {
    match purge {
        Purge::Hard => None,
        Purge::Soft => {
            let mut stale = Object::clone(object);
            stale.freshness.expire(now);
            Some(Arc::new(stale))
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keys, bytes) = self.usage();
        f.debug_struct("MemoryStore").field("keys", &keys).field("bytes", &bytes).finish()
    }
}
