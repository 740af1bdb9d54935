//! `Store`: where objects are, in memory or on disk.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use http::HeaderMap;

use super::{disk::Spool, key::Key, marks::Verdict, object::Object};
use crate::semantics::cache::Freshness;

/// What becomes of an object with this key, these groups and this revision.
pub(super) type Judge<'a> = &'a dyn Fn(&Key, &[String], u64) -> Verdict;

/// A store of objects by key. Called from many threads; all calls that change it are serialized by the caller,
/// except that it may drop any object at any time.
pub(super) trait Store: fmt::Debug + Send + Sync + 'static {
    /// Returns the variant of `key` that a request with these fields selects.
    fn get(&self, key: &Key, request: &HeaderMap) -> Lookup;

    /// Stores an object, which replaces that of the same variant.
    fn insert(&self, key: &Key, object: &Arc<Object>);

    /// Replaces an object, unless it is stored no longer or was replaced.
    fn replace(&self, key: &Key, old: &Object, new: &Arc<Object>);

    /// Removes the variant of an object.
    fn remove(&self, key: &Key, object: &Object);

    /// Removes all variants of a key, or makes them stale.
    fn invalidate(&self, key: &Key, purge: Purge);

    /// Calls `selected` with each key of which `judge` does not keep all objects. No lock is held meanwhile: what is
    /// stored during the call may be missed, and what is removed may be called.
    fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key));

    /// Removes the objects of a key that `judge` does not keep, or makes them stale.
    fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes;

    /// Does on disk what [`judge`](Self::judge) did. It may block, and needs no lock.
    fn settle(&self, key: &Key, changes: Changes) {
        let _ = (key, changes);
    }

    /// Returns the number of keys and the bytes that are stored.
    fn usage(&self) -> (u64, u64);

    /// Returns the largest content that is stored, in bytes.
    fn max_object(&self) -> u64;

    /// Returns the largest content that is held in memory until it is whole.
    fn max_in_memory(&self) -> u64 {
        self.max_object()
    }

    /// Begins the file of an object's content; `None` if it cannot be stored in one. The object is inserted after it was
    /// written, before the spool is dropped.
    fn spool(&self, id: u64) -> Option<Spool> {
        let _ = id;
        None
    }

    /// Waits until all objects are known that earlier processes have stored.
    fn loaded(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// The ids of objects that were invalidated.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) removed: Vec<u64>,
    /// With the time at which they became stale.
    pub(super) expired: Vec<(u64, Duration)>,
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.removed.len() + self.expired.len()
    }

    /// Notes the verdict on an object. Returns whether it stays.
    pub(super) fn note(&mut self, id: u64, freshness: &mut Freshness, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Keep => true,
            Verdict::Expire(at) => {
                let before = *freshness;
                freshness.expire(at);
                // Not one that was stale already, or is judged again.
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
    /// There are variants that the request does not select.
    pub(super) has_others: bool,
}

/// The result of a lookup.
pub(super) enum Lookup {
    Ready(Found),
    /// It has to be read.
    Pending(Pin<Box<dyn Future<Output = Found> + Send>>),
}

/// How stored responses are invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purge {
    /// They are removed.
    #[default]
    Hard,
    /// They become stale: they are validated before their next use, and may still be used stale where that is
    /// permitted, for example while the origin fails.
    Soft,
}
