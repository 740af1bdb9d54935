//! `Store`: the interface of the stores in memory and on disk.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use http::HeaderMap;

use super::{
    disk::{Spool, Unsynced},
    key::Key,
    marks::{RemovalsSynced, Verdict},
    object::Object,
};
use crate::semantics::cache::Freshness;

/// Returns the verdict on an object, given its key, its groups and its revision.
pub(super) type Judge<'a> = &'a dyn Fn(&Key, &[String], u64) -> Verdict;

/// A store of objects by key. Called from many threads; the caller serializes all calls that change it. The store may
/// evict any object at any time.
pub(super) trait Store: fmt::Debug + Send + Sync + 'static {
    /// Returns the variant of `key` that a request with these fields selects.
    fn get(&self, key: &Key, request: &HeaderMap) -> Lookup;

    /// Stores an object. Replaces the stored object of the same variant.
    fn insert(&self, key: &Key, object: &Arc<Object>);

    /// Replaces `old` by `new`, if `old` is still stored.
    fn replace(&self, key: &Key, old: &Object, new: &Arc<Object>);

    /// Removes the variant of an object.
    fn remove(&self, key: &Key, object: &Object);

    /// Removes all variants of a key, or makes them stale. Returns the changes for
    /// [`apply_to_disk`](Self::apply_to_disk); `None` if no object of this key is on disk.
    fn invalidate(&self, key: &Key, purge: Purge) -> Option<Changes>;

    /// Calls `selected` for each key with an object that `judge` does not keep. Takes no lock: objects that are stored
    /// during the call may be missed, and `selected` may be called for removed ones.
    fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key));

    /// Removes the objects of a key, or makes them stale, according to `judge`. Changes memory and the index only.
    fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes;

    /// Applies the changes of [`judge`](Self::judge) to files. Blocks, and is called without a lock. Returns `false` if the
    /// disk has failed.
    fn apply_to_disk(&self, key: &Key, changes: Changes) -> bool {
        let _ = (key, changes);
        true
    }

    /// Removes the files of objects that are no longer stored. Blocks, and is called without a lock. Returns whether the disk has
    /// not failed, and the removals for [`end_removals`](Self::end_removals).
    fn finish_removals(&self) -> (bool, Unsynced) {
        (true, Unsynced::default())
    }

    /// Ends removals after their synchronization to the disk, or its failure.
    fn end_removals(&self, removals: Unsynced, synced: &RemovalsSynced) {
        let _ = (removals, synced);
    }

    /// Returns the number of keys and the bytes that are stored.
    fn usage(&self) -> (u64, u64);

    /// Returns the maximum length of a content, in bytes.
    fn max_object(&self) -> u64;

    /// Returns the maximum length of a content that is collected in memory before it is stored. A longer one needs a
    /// [spool](Self::spool).
    fn max_in_memory(&self) -> u64 {
        self.max_object()
    }

    /// Creates the file of an object's content, to be written while the content is received; `None` if this store has no
    /// files, or cannot write at present. The object must be inserted before the spool is dropped.
    fn spool(&self, id: u64) -> Option<Spool> {
        let _ = id;
        None
    }

    /// Waits until the objects of earlier processes are in the index.
    fn loaded(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// The ids of objects that an invalidation has removed or made stale.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) removed: Vec<u64>,
    /// Ids, each with the time at which the object became stale.
    pub(super) expired: Vec<(u64, Duration)>,
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.removed.len() + self.expired.len()
    }

    /// Applies a verdict to an object's freshness, and records the change. Returns whether the object is kept.
    pub(super) fn record(&mut self, id: u64, freshness: &mut Freshness, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Keep => true,
            Verdict::Expire(at) => {
                let before = *freshness;
                freshness.expire(at);
                // No change if the object was stale already.
                if *freshness != before {
                    self.expired.push((id, at));
                }
                true
            }
            Verdict::Remove => {
                self.removed.push(id);
                false
            }
        }
    }
}

/// The stored response for a request.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) object: Option<Arc<Object>>,
    /// Whether the key has variants that the request does not select.
    pub(super) has_others: bool,
}

/// The result of a lookup.
pub(super) enum Lookup {
    Ready(Found),
    /// The object has to be read from disk.
    Pending(Pin<Box<dyn Future<Output = Found> + Send>>),
}

/// How stored responses are invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purge {
    /// They are removed.
    #[default]
    Hard,
    /// They become stale: they are validated before their next use. Where a stale response may be used, they still are:
    /// while the origin fails, and once more while a request in the background validates them, with
    /// [`stale_while_revalidate`](super::CacheBuilder::stale_while_revalidate).
    Soft,
}
