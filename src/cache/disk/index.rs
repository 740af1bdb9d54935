//! `Index`: the objects that are on disk. The files of entries that it evicts are removed.

use std::{cmp::Reverse, sync::Arc};

use http::HeaderMap;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync};

use super::{
    super::{
        key::{Key, KeyHasher},
        marks::Verdict,
        memory::{MemoryStore, max_key_weight},
        object::Object,
        store::{Changes, Judge},
    },
    DiskBounds,
    removals::Removals,
};
use crate::semantics::cache::{Freshness, Vary, VaryKey};

/// The size of a block of the file system, 4 KiB: a head and a content take at least one each.
const BLOCK: u64 = 4096;

/// The facts about an object on disk that a lookup and an invalidation need.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) id: u64,
    pub(super) revision: u64,
    pub(super) freshness: Freshness,
    pub(super) groups: Arc<[String]>,
    pub(super) vary: Vary,
    vary_key: VaryKey,
    len: u64,
}

impl Meta {
    pub(super) fn of(object: &Object, len: u64) -> Self {
        Self {
            id: object.id,
            revision: object.revision,
            freshness: object.freshness,
            groups: object.groups.clone(),
            vary: object.vary.clone(),
            vary_key: object.vary_key.clone(),
            len,
        }
    }

    pub(super) fn matches(&self, request: &HeaderMap) -> bool {
        self.vary.key(request).is_some_and(|key| key == self.vary_key)
    }

    pub(super) fn is_same_variant(&self, object: &Object) -> bool {
        self.vary == object.vary && self.vary_key == object.vary_key
    }

    fn is_variant_of(&self, other: &Self) -> bool {
        self.vary == other.vary && self.vary_key == other.vary_key
    }
}

/// The objects of a key. A slice, since a `Vec` of one element reserves memory for four.
type Metas = Arc<[Meta]>;

pub(super) struct Index {
    entries: sync::Cache<Key, Metas, ByBytes, KeyHasher, Collect>,
    max_variants: usize,
    weighter: ByBytes,
    /// The maximum weight of a key. One with more is not stored.
    max_weight: u64,
    removals: Arc<Removals>,
    /// Where files of objects are kept open.
    memory: Arc<MemoryStore>,
}

#[derive(Clone)]
struct ByBytes {
    min_weight: u64,
}

impl ByBytes {
    fn weight_of(&self, meta: &Meta) -> u64 {
        ((meta.len.div_ceil(BLOCK) + 1) * BLOCK).max(self.min_weight)
    }
}

impl Weighter<Key, Metas> for ByBytes {
    fn weight(&self, _: &Key, metas: &Metas) -> u64 {
        metas.iter().map(|meta| self.weight_of(meta)).sum()
    }
}

/// Collects the entries that an insertion drops: evicted ones, the replaced one, and the new one if it is too large.
#[derive(Clone)]
struct Collect;

impl Lifecycle<Key, Metas> for Collect {
    type RequestState = Vec<(Key, Metas)>;

    fn on_evict(&self, dropped: &mut Self::RequestState, key: Key, metas: Metas) {
        dropped.push((key, metas));
    }
}

impl Index {
    pub(super) fn new(
        bounds: DiskBounds,
        removals: Arc<Removals>,
        memory: Arc<MemoryStore>,
    ) -> Self {
        let DiskBounds { capacity, max_objects, max_object, max_variants, .. } = bounds;
        // Each object weighs at least `capacity / max_objects`, so that there are at most `max_objects`.
        let min_weight = capacity.div_ceil(max_objects.max(1));
        let shards = (capacity / max_object.saturating_mul(4).max(1)).clamp(1, 8);
        let items = (capacity / min_weight.max(2 * BLOCK)).clamp(16, 1 << 16);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(usize::try_from(items).unwrap_or(16))
            .weight_capacity(capacity)
            .shards(usize::try_from(shards).unwrap_or(1))
            .build()
            .expect("capacities are set");
        let (weighter, hasher) = (ByBytes { min_weight }, KeyHasher::default());
        let entries = sync::Cache::with_options(options, weighter.clone(), hasher, Collect);
        let max_weight = max_key_weight(capacity, shards);
        Self { entries, max_variants, weighter, max_weight, removals, memory }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Metas> {
        self.entries.get(key)
    }

    pub(super) fn has(&self, key: &Key, id: u64) -> bool {
        self.entries.peek(key).is_some_and(|metas| metas.iter().any(|meta| meta.id == id))
    }

    /// Inserts an object. Replaces the object of the same variant. If the key has too many variants, or too many bytes, the
    /// oldest ones are removed.
    pub(super) fn insert(&self, key: &Key, meta: &Meta) {
        let known = self.entries.peek(key).unwrap_or_default();
        let others = known.iter().filter(|other| !other.is_variant_of(meta));
        let mut metas: Vec<_> = others.cloned().chain([meta.clone()]).collect();
        // If a request selects several, the newest one is used (RFC 9111 section 4.1). The scan finds them in any order.
        metas.sort_by_key(|meta| Reverse(meta.revision));
        metas.truncate(self.max_variants.max(1));
        let mut weight = metas.iter().map(|meta| self.weighter.weight_of(meta)).sum::<u64>();
        while weight > self.max_weight
            && metas.len() > 1
            && let Some(oldest) = metas.pop()
        {
            weight -= self.weighter.weight_of(&oldest);
        }
        if !metas.iter().any(|kept| kept.id == meta.id) {
            self.removals.add(key, &[meta.id]);
        }
        self.set(key, metas);
    }

    /// Sets the entries of a key, and removes the files of all entries that this drops.
    fn set(&self, key: &Key, metas: Vec<Meta>) {
        let (metas, mut dropped) = (Metas::from(metas), Vec::new());
        self.entries.insert_with_lifecycle(key.clone(), metas.clone(), &mut dropped);
        let is_too_large = dropped.iter().any(|(_, other)| Arc::ptr_eq(other, &metas));
        let is_kept = |id: u64| !is_too_large && metas.iter().any(|meta| meta.id == id);
        for (key, metas) in &dropped {
            let ids = metas.iter().map(|meta| meta.id).filter(|id| !is_kept(*id));
            let ids: Vec<_> = ids.collect();
            // Removed files take space on the disk as long as they are open.
            self.memory.close_files(key, &ids);
            self.removals.add(key, &ids);
        }
    }

    /// Inserts an object, unless a newer one of the same variant is stored. Returns whether it was inserted.
    pub(super) fn insert_newest(&self, key: &Key, meta: &Meta) -> bool {
        let known = self.entries.peek(key).unwrap_or_default();
        let has_newer = known.iter().any(|other| other.is_variant_of(meta) && other.id > meta.id);
        if !has_newer {
            if !known.is_empty() {
                self.memory.remove_older(key, &meta.vary, meta.revision);
            }
            self.insert(key, meta);
        }
        !has_newer
    }

    /// Removes the selected entries of a key and returns their ids. Does not remove files.
    pub(super) fn remove(&self, key: &Key, selects: impl Fn(&Meta) -> bool) -> Vec<u64> {
        let Some(metas) = self.entries.peek(key) else { return Vec::new() };
        let (removed, kept): (Vec<_>, Vec<_>) = metas.iter().cloned().partition(|m| selects(m));
        if !removed.is_empty() {
            if kept.is_empty() {
                self.entries.remove(key);
            } else {
                self.set(key, kept);
            }
        }
        removed.into_iter().map(|meta| meta.id).collect()
    }

    /// Removes the entries of a key, or makes them stale, according to `judge`. Does not change files.
    pub(super) fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes {
        let mut changes = Changes::default();
        let Some(metas) = self.entries.peek(key) else { return changes };
        let mut metas = metas.to_vec();
        metas.retain_mut(|meta| {
            let verdict = judge(key, &meta.groups, meta.revision);
            changes.record(meta.id, &mut meta.freshness, verdict)
        });
        match (changes.len(), metas.is_empty()) {
            (0, _) => {}
            (_, true) => drop(self.entries.remove(key)),
            (_, false) => self.set(key, metas),
        }
        changes
    }

    /// Calls `selected` for each key with an object that `judge` does not keep.
    pub(super) fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key)) {
        for (key, metas) in self.entries.iter() {
            if !metas.iter().all(|m| judge(&key, &m.groups, m.revision) == Verdict::Keep) {
                selected(&key);
            }
        }
    }

    pub(super) fn usage(&self) -> (u64, u64) {
        (self.entries.len() as u64, self.entries.weight())
    }
}
