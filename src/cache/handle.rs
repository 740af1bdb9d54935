//! `CacheHandle`: invalidation, and figures.

use std::sync::Arc;

use super::{figures::Figures, key::Key, shared::Shared, store::Purge};
use crate::net::Drain;

/// A handle of a [`CacheLayer`](super::CacheLayer), cheap to clone.
///
/// Invalidations take effect at once: no request that comes later is answered by what was stored before, nor by a
/// fetch that began before.
///
/// ```
/// use vestibule::cache::{CacheLayer, Key, Purge};
///
/// let layer = CacheLayer::new();
/// let cache = layer.handle();
/// let page = Key::new("https", "example.com", "/news", None).unwrap();
/// cache.delete(&page, Purge::Soft);
/// cache.delete_prefix("https://example.com/products/", Purge::Hard);
/// cache.invalidate("front-page", Purge::Hard);
/// cache.delete_all(Purge::Hard);
/// ```
#[derive(Clone, Debug)]
pub struct CacheHandle(Arc<Shared>);

impl CacheHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Invalidates all variants of a key.
    pub fn delete(&self, key: &Key, purge: Purge) {
        delete(&self.0, key, purge);
    }

    /// Invalidates all keys that begin with `prefix`, as [`Key::as_str`] shows them, and returns how many responses
    /// these are. Takes time in proportion to all that is stored.
    pub fn delete_prefix(&self, prefix: &str, purge: Purge) -> usize {
        let selects = |key: &Key| key.as_str().starts_with(prefix);
        self.0
            .flights
            .invalidate(|key, _| selects(key), || self.0.store.purge(&|key, _| selects(key), purge))
    }

    /// Invalidates all responses of a group, which their `Cache-Groups` (RFC 9875) or `Surrogate-Key` name, in all
    /// sites, and returns how many these are. Takes time in proportion to all that is stored.
    pub fn invalidate(&self, group: &str, purge: Purge) -> usize {
        invalidate_groups(&self.0, &[group.to_owned()], None, purge)
    }

    /// Invalidates everything, and returns how many responses these are.
    pub fn delete_all(&self, purge: Purge) -> usize {
        self.0.flights.invalidate(|_, _| true, || self.0.store.purge(&|_, _| true, purge))
    }

    /// Returns the current figures.
    pub fn figures(&self) -> Figures {
        let (keys, bytes) = self.0.store.usage();
        Figures {
            keys,
            bytes,
            fetches: self.0.flights.len() as u64,
            followers: self.0.flights.followers() as u64,
            ..self.0.counters.read()
        }
    }

    /// Returns a handle to the fills and refreshes in the background. To wait for them at shutdown, pass it to
    /// [`Serve::drain_also`](crate::serve::Serve::drain_also).
    pub fn tasks(&self) -> Drain {
        self.0.tasks.clone()
    }
}

/// Invalidates a key.
pub(super) fn delete(shared: &Shared, key: &Key, purge: Purge) {
    shared.flights.invalidate_key(key, || shared.store.invalidate(key, purge));
}

/// Invalidates groups, those of one origin only if it is given (RFC 9875 section 3). A fetch whose groups are unknown
/// may be of one of them.
pub(super) fn invalidate_groups(
    shared: &Shared,
    groups: &[String],
    origin: Option<&str>,
    purge: Purge,
) -> usize {
    let is_of_origin = |key: &Key| {
        origin.is_none_or(|origin| {
            let rest = key.as_str().strip_prefix(origin);
            rest.is_some_and(|rest| rest.starts_with('/'))
        })
    };
    let is_member = |of: &[String]| groups.iter().any(|group| of.binary_search(group).is_ok());
    shared.flights.invalidate(
        |key, of| is_of_origin(key) && of.is_none_or(is_member),
        || shared.store.purge(&|key, of| is_of_origin(key) && is_member(of), purge),
    )
}
