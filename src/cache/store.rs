//! `Store`: where objects are, in memory or on disk.

use std::{fmt, pin::Pin, sync::Arc};

use http::HeaderMap;

use super::{key::Key, object::Object};

/// Which objects a purge concerns.
pub(super) type Selector<'a> = &'a dyn Fn(&Key, &[String]) -> bool;

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

    /// Removes all objects that `selects` selects, or makes them stale. Returns how many.
    fn purge(&self, selects: Selector<'_>, purge: Purge) -> usize;

    /// Returns the number of keys and the bytes that are stored.
    fn usage(&self) -> (u64, u64);

    /// Returns the largest content that is stored, in bytes.
    fn max_object(&self) -> u64;
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
