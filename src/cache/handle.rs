//! `CacheHandle`: invalidation and counters.

use std::sync::Arc;

use http::Uri;

use super::{
    deletions, key::Key, marks::Scope, purge::PurgeService, shared::Shared, stats::CacheStats,
    store::Purge, sweep,
};
use crate::net::Drain;

/// A handle of a [`CacheLayer`](super::CacheLayer), cheap to clone.
///
/// An invalidation takes effect at once: a later request is answered neither by a response that was stored before, nor by a
/// fetch that was started before; after [`Purge::Soft`], by those only as stale ones. Invalidations of a prefix, a group or everything are marks, which each lookup applies to
/// what it finds. A sweep in the background removes the responses from the store; no request waits for it. It removes more
/// than 10,000 objects a second from disk, so everything of a store of a million takes one to two minutes.
///
/// With a store on disk, an invalidation is recorded there before the call returns, so that it survives SIGKILL. It survives
/// power loss once [`swept`](Self::swept) has returned, unless the disk cannot be synchronized, which is logged: then all
/// invalidations stay recorded until the next start. If more than 1 MiB of invalidations are pending when the process is
/// killed, everything is invalidated.
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

    /// Invalidates all responses of a group, which is named by their `Cache-Groups` (RFC 9875) or `Surrogate-Key`, of all
    /// origins.
    pub fn invalidate(&self, group: &str, purge: Purge) {
        sweep::invalidate(&self.0, &[Scope::Group { group, origin: "" }], purge);
    }

    /// Invalidates everything.
    pub fn delete_all(&self, purge: Purge) {
        sweep::invalidate(&self.0, &[Scope::All], purge);
    }

    /// Returns a service with which clients that know `token` invalidate stored responses over HTTP.
    ///
    /// # Panics
    /// If the token is shorter than [`MIN_TOKEN`](super::MIN_TOKEN).
    pub fn purge_service(&self, token: &str) -> PurgeService {
        PurgeService::new(self.clone(), token)
    }

    /// Returns the key of a URL, with the part of its query that [belongs to keys](super::CacheBuilder::query_key); `None` if
    /// the URL is not absolute, or if its path has no normal form.
    pub fn key_of_url(&self, url: &str) -> Option<Key> {
        let url: Uri = url.parse().ok()?;
        let (scheme, authority) = (url.scheme_str()?, url.authority()?);
        self.0.options.query.key(scheme, authority.as_str(), url.path(), url.query())
    }

    /// Waits for the sweep of all earlier invalidations: after it, memory is freed, files are removed, and
    /// [`CacheStats::invalidated`] has counted the responses.
    pub async fn swept(&self) {
        // The sender lives as long as this handle.
        let _ = self.0.sweeps.subscribe().wait_for(|is_sweeping| !is_sweeping).await;
        self.0.deletions.settled().await;
    }

    /// Waits for the scan of the directory after a start. Before its end, requests for stored responses may be forwarded.
    pub async fn loaded(&self) {
        self.0.store.loaded().await;
    }

    /// Returns the current counters.
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
pub(super) fn delete(shared: &Arc<Shared>, key: &Key, purge: Purge) {
    delete_one(shared, key, purge);
    if shared.options.no_vary_search
        && let Some(other) = shared.aliases.find(key)
    {
        delete_one(shared, &other, purge);
    }
}

fn delete_one(shared: &Arc<Shared>, key: &Key, purge: Purge) {
    let change = || (shared.store.invalidate(key, purge), shared.next_id());
    let (changes, revision) = shared.flights.invalidate_key(key, change);
    if let Some(changes) = changes {
        deletions::delete(shared, key, purge, revision, changes);
    }
}

/// Invalidates groups of one origin (RFC 9875 section 3), or of all if `origin` is empty.
pub(super) fn invalidate_groups(
    shared: &Arc<Shared>,
    groups: &[String],
    origin: &str,
    purge: Purge,
) {
    let scopes: Vec<_> = groups.iter().map(|group| Scope::Group { group, origin }).collect();
    sweep::invalidate(shared, &scopes, purge);
}
