//! `CacheHandle`: invalidation, and stats.

use std::sync::Arc;

use http::Uri;

use super::{
    key::Key, marks::Scope, purge::PurgeService, shared::Shared, stats::CacheStats, store::Purge,
    sweep,
};
use crate::net::Drain;

/// A handle of a [`CacheLayer`](super::CacheLayer), cheap to clone.
///
/// Invalidations take effect at once: no request that comes later is answered by what was stored before, nor by a
/// fetch that began before. Those of a prefix, a group or everything are marks, with which each lookup compares what it
/// finds. The store is searched for what they concern in the background, and no request waits for that.
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

    /// Invalidates all keys that begin with `prefix`, as [`Key::as_str`] shows them.
    pub fn delete_prefix(&self, prefix: &str, purge: Purge) {
        sweep::invalidate(&self.0, &[Scope::Prefix(prefix)], purge);
    }

    /// Invalidates all responses of a group, which their `Cache-Groups` (RFC 9875) or `Surrogate-Key` name, in all
    /// sites.
    pub fn invalidate(&self, group: &str, purge: Purge) {
        sweep::invalidate(&self.0, &[Scope::Group { group, origin: "" }], purge);
    }

    /// Invalidates everything.
    pub fn delete_all(&self, purge: Purge) {
        sweep::invalidate(&self.0, &[Scope::All], purge);
    }

    /// Returns a service that invalidates by request, for clients that know `token`.
    ///
    /// # Panics
    /// If the token is shorter than [`MIN_TOKEN`](super::MIN_TOKEN).
    pub fn purge_service(&self, token: &str) -> PurgeService {
        PurgeService::new(self.clone(), token)
    }

    /// Returns the key of an URL, with what of its query [belongs to keys](super::CacheBuilder::query_key); `None` if it is
    /// not absolute, or its path has no normal form.
    pub fn key_of_url(&self, url: &str) -> Option<Key> {
        let url: Uri = url.parse().ok()?;
        let (scheme, authority) = (url.scheme_str()?, url.authority()?);
        self.0.options.query.key(scheme, authority.as_str(), url.path(), url.query())
    }

    /// Waits until all earlier invalidations are carried out: memory is freed and files are removed.
    /// [`CacheStats::invalidated`] then counts them.
    pub async fn swept(&self) {
        let mut sweeps = self.0.sweeps.subscribe();
        // The sender lives as long as this handle.
        let _ = sweeps.wait_for(|is_sweeping| !is_sweeping).await;
    }

    /// Waits until all is known that a store in a folder had at its start. Before that, what is not known yet is
    /// fetched again.
    pub async fn loaded(&self) {
        self.0.store.loaded().await;
    }

    /// Returns the current stats.
    pub fn stats(&self) -> CacheStats {
        let (keys, bytes) = self.0.store.usage();
        CacheStats {
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
    if let Some(other) = shared.aliases.find(key) {
        shared.flights.invalidate_key(&other, || shared.store.invalidate(&other, purge));
    }
}

/// Invalidates groups, those of one origin only if it is not empty (RFC 9875 section 3).
pub(super) fn invalidate_groups(
    shared: &Arc<Shared>,
    groups: &[String],
    origin: &str,
    purge: Purge,
) {
    let scopes: Vec<_> = groups.iter().map(|group| Scope::Group { group, origin }).collect();
    sweep::invalidate(shared, &scopes, purge);
}
