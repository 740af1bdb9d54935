//! `KnownVary`: the `Vary` of the latest response of a key, by which requests for different variants are told apart before
//! their response is received.

use std::{fmt, sync::Arc};

use http::HeaderMap;
use quick_cache::{UnitWeighter, sync};

use super::key::{Key, KeyHasher};
use crate::semantics::cache::{Vary, VaryKey};

/// The maximum number of keys with `Vary`, 16,384. Beyond it, the least used ones are forgotten: requests for their variants
/// wait for the head of one response.
const MAX_KEYS: usize = 16_384;

/// The fields of the latest response's `Vary`, by key. Keys whose responses have none are not kept.
pub(super) struct KnownVary(sync::Cache<Key, Arc<Vary>, UnitWeighter, KeyHasher>);

/// The variant that a request selects if the response has the `Vary` of the latest one.
pub(super) struct Variant {
    vary: Arc<Vary>,
    key: VaryKey,
}

impl KnownVary {
    pub(super) fn new() -> Self {
        Self(sync::Cache::with(
            MAX_KEYS,
            MAX_KEYS as u64,
            UnitWeighter,
            KeyHasher::default(),
            sync::DefaultLifecycle::default(),
        ))
    }

    /// Records the `Vary` of a response.
    pub(super) fn set(&self, key: &Key, vary: &Vary) {
        // A read is cheaper than a change.
        match self.0.get(key) {
            Some(known) if *known == *vary => {}
            None if vary.is_none() => {}
            Some(_) if vary.is_none() => drop(self.0.remove(key)),
            _ => self.0.insert(key.clone(), Arc::new(vary.clone())),
        }
    }

    /// Returns the variant that a request probably selects; `None` if the key has none.
    pub(super) fn variant(&self, key: &Key, request: &HeaderMap) -> Option<Variant> {
        let vary = self.0.get(key)?;
        let key = vary.key(request)?;
        Some(Variant { vary, key })
    }
}

impl Variant {
    /// Returns whether a request selects this variant. `own` is the one that it selects by the latest `Vary`.
    pub(super) fn is_selected_by(&self, request: &HeaderMap, own: Option<&Self>) -> bool {
        match own {
            Some(own) if Arc::ptr_eq(&own.vary, &self.vary) => own.key == self.key,
            _ => self.vary.key(request).is_some_and(|key| key == self.key),
        }
    }
}

impl fmt::Debug for KnownVary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownVary").field("len", &self.0.len()).finish()
    }
}
