//! `Object`: a stored response. `Variants`: the stored responses of one key.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{hit_fields::HitFields, sent_forms::SentForms};
use crate::{
    Body,
    body::FileSlice,
    budget::Lease,
    semantics::cache::{Freshness, Vary, VaryKey},
};

/// The memory of an object in addition to its fields and its content, 1,024 bytes: the structures, and the entry in the store.
const OVERHEAD: usize = 1024;

/// The weight of an open file in the memory store, 256 KiB: the default capacity keeps 256 files open.
const OPEN_FILE: usize = 256 << 10;

/// A stored response. Immutable: an update creates another object, which shares the content.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// Identifies the content: an update keeps it.
    pub(super) id: u64,
    /// The order of this version relative to invalidations: an id from the time when it was stored or validated.
    pub(super) revision: u64,
    pub(super) status: StatusCode,
    /// Without hop-by-hop fields, `Age` and `Content-Length`.
    pub(super) headers: HeaderMap,
    pub(super) freshness: Freshness,
    pub(super) vary: Vary,
    pub(super) vary_key: VaryKey,
    /// Sorted.
    pub(super) groups: Arc<[String]>,
    /// The time that the fetch took.
    pub(super) cost: Duration,
    pub(super) content: Content,
    pub(super) hit_fields: HitFields,
    pub(super) sent_forms: SentForms,
}

/// The content of a stored response.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Memory(Bytes),
    File(FileSlice),
}

/// The memory of a content.
struct Leased {
    content: Vec<u8>,
    #[expect(dead_code, reason = "dropping it returns the lease")]
    lease: Option<Lease>,
}

impl AsRef<[u8]> for Leased {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Content {
    /// Returns a copy of pieces of `len` bytes in memory. The pieces themselves may share a larger allocation. The lease is
    /// returned when the last object and the last response with this content are dropped.
    pub(super) fn copied<'a>(
        len: u64,
        pieces: impl Iterator<Item = &'a Bytes>,
        lease: Option<Lease>,
    ) -> Self {
        let mut content = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        pieces.for_each(|piece| content.extend_from_slice(piece));
        Self::Memory(Bytes::from_owner(Leased { content, lease }))
    }

    /// Returns a content in memory, with its lease.
    pub(super) fn leased(content: Vec<u8>, lease: Lease) -> Self {
        Self::Memory(Bytes::from_owner(Leased { content, lease: Some(lease) }))
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(file) => file.len(),
        }
    }

    pub(super) fn body(&self) -> Body {
        match self {
            Self::Memory(bytes) => Body::from(bytes.clone()),
            Self::File(file) if file.is_empty() => Body::empty(),
            Self::File(file) => Body::file(file.clone()),
        }
    }

    /// Returns the bytes from `first` to `last`, both included.
    pub(super) fn part(&self, first: u64, last: u64) -> Body {
        match self {
            Self::Memory(bytes) => {
                let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Body::from(bytes.slice(index(first)..index(last + 1)))
            }
            Self::File(file) => {
                let mut part = file.clone();
                part.advance(first);
                Body::file(part.split_to(last - first + 1))
            }
        }
    }
}

impl Object {
    /// Returns whether the request selects this variant.
    pub(super) fn matches(&self, request: &HeaderMap) -> bool {
        if self.vary.is_none() || self.sent_forms.has(&self.vary, request) {
            return true;
        }
        let is_selected = self.vary.key(request).is_some_and(|key| key == self.vary_key);
        if is_selected {
            self.sent_forms.add(&self.vary, request);
        }
        is_selected
    }

    /// Returns whether the response may answer a request that has waited for it. See
    /// [`Head::answers_waiting`](super::fill::Head::answers_waiting).
    pub(super) fn answers_waiting(&self, request: &HeaderMap) -> bool {
        self.freshness.is_shareable() && self.matches(request)
    }

    /// Returns whether `other` is of the same variant, and would therefore replace this object.
    pub(super) fn is_same_variant(&self, other: &Self) -> bool {
        self.vary == other.vary && self.vary_key == other.vary_key
    }

    /// Returns whether a request may select both this object and the other one, so that the newer one is used: they have
    /// different `Vary` fields.
    pub(super) fn may_overlap(&self, vary: &Vary) -> bool {
        self.vary != *vary
    }

    /// Returns whether this object is `other`: it was neither replaced nor updated.
    pub(super) fn is_unchanged(&self, other: &Self) -> bool {
        self.id == other.id && self.freshness == other.freshness
    }

    /// Returns the memory of the object, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let content = match &self.content {
            Content::Memory(bytes) => bytes.len(),
            Content::File(_) => OPEN_FILE,
        };
        // Requests add forms after the object was stored, so all of them count from its start.
        let forms = if self.vary.is_none() { 0 } else { SentForms::MAX_MEMORY };
        // Twice, for those of hits, whose text is shared.
        (OVERHEAD + forms + 2 * fields_len(&self.headers) + content) as u64
    }
}

/// Copies the values of fields into an allocation of their own. Received ones share the buffer of their connection, which
/// would stay in memory with them.
pub(super) fn compact(headers: &mut HeaderMap) {
    let mut text = Vec::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| text.extend_from_slice(value.as_bytes()));
    let mut rest = Bytes::from(text);
    for value in headers.values_mut() {
        let copy = rest.split_to(value.len());
        // Never an error, since its bytes were a value before.
        if let Ok(mut copy) = HeaderValue::from_maybe_shared(copy) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
}

/// Returns the bytes of the names and values of fields.
pub(super) fn fields_len(headers: &HeaderMap) -> usize {
    // A field takes about 72 bytes in the map in addition to its text.
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 72).sum()
}

/// Returns the content length that a response announces; `None` if it has none or it is malformed.
pub(super) fn announced_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The stored responses of one key, newest first. Usually there is one, which takes no list.
#[derive(Debug, Clone)]
pub(super) enum Variants {
    One(Arc<Object>),
    Several(Arc<[Arc<Object>]>),
}

impl Variants {
    /// Returns `None` if there are no objects.
    fn new(mut objects: Vec<Arc<Object>>) -> Option<Self> {
        if objects.len() > 1 {
            // An older one may have been read from disk after a newer one. The sort is stable.
            objects.sort_by_key(|object| Reverse(object.revision));
            return Some(Self::Several(objects.into()));
        }
        objects.pop().map(Self::One)
    }

    fn as_slice(&self) -> &[Arc<Object>] {
        match self {
            Self::One(object) => std::slice::from_ref(object),
            Self::Several(objects) => objects,
        }
    }

    /// Returns the newest variant that the request selects.
    pub(super) fn find(self, request: &HeaderMap) -> Option<Arc<Object>> {
        match self {
            Self::One(object) => object.matches(request).then_some(object),
            Self::Several(objects) => objects.iter().find(|o| o.matches(request)).cloned(),
        }
    }

    /// Returns these variants with `object`, which replaces its own variant. Beyond `max`, and beyond `max_memory` bytes, the
    /// oldest ones are dropped.
    pub(super) fn with(&self, object: &Arc<Object>, max: usize, max_memory: u64) -> Self {
        let others = self.iter().filter(|known| !known.is_same_variant(object));
        let variants = Self::new(std::iter::once(object).chain(others).cloned().collect());
        let mut left = max_memory;
        let fits = |object: &&Arc<Object>| {
            let rest = left.checked_sub(object.memory());
            left = rest.unwrap_or_default();
            rest.is_some()
        };
        let kept = variants.iter().flat_map(Self::iter).take(max).take_while(fits).cloned();
        Self::new(kept.collect()).unwrap_or_else(|| Self::One(object.clone()))
    }

    /// Returns the variants that `f` keeps or replaces; `None` if none is left.
    pub(super) fn filter_map(
        &self,
        f: impl FnMut(&Arc<Object>) -> Option<Arc<Object>>,
    ) -> Option<Self> {
        Self::new(self.iter().filter_map(f).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.as_slice().iter()
    }

    pub(super) fn memory(&self) -> u64 {
        self.iter().map(|object| object.memory()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(vary: Vary) -> Object {
        Object {
            id: 1,
            revision: 1,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            freshness: Freshness::from_words([0; 6]),
            vary,
            vary_key: VaryKey::from(Bytes::new()),
            groups: Arc::from([]),
            cost: Duration::ZERO,
            content: Content::Memory(Bytes::from_static(b"content")),
            hit_fields: HitFields::default(),
            sent_forms: SentForms::default(),
        }
    }

    #[test]
    fn memory_of_object_with_vary_includes_forms_of_later_requests() {
        let plain = object(Vary::Fields([].into())).memory();
        let varying = object(Vary::Fields([header::ACCEPT].into())).memory();
        assert_eq!(varying - plain, SentForms::MAX_MEMORY as u64);
    }
}
