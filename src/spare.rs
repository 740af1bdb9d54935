//! Memory of requests that have been answered, for those to come: their maps cost five allocations.
//!
//! A thread has one of each, lent by [`make_room`] and [`extensions`] and given back by [`spend`].
//! Nothing of the old request is left in them but who sent it, and that is overwritten.

use std::cell::Cell;

use http::{Extensions, HeaderMap, header::MaxSizeReached, request};

use crate::peer::Peer;

/// A map with room for more fields than this is not kept: 64 of them take 7 KiB, and few clients
/// send half as many.
const FIELDS: usize = 64;

thread_local! {
    static HEADERS: Cell<Option<HeaderMap>> = const { Cell::new(None) };
    /// They hold a [`Peer`], and nothing else.
    static EXTENSIONS: Cell<Option<Extensions>> = const { Cell::new(None) };
}

/// Gives a map that is as new room for so many fields.
pub(crate) fn make_room(map: &mut HeaderMap, fields: usize) -> Result<(), MaxSizeReached> {
    // Where the thread ends it may be gone.
    if let Ok(Some(spare)) = HEADERS.try_with(Cell::take) {
        put(spare, map);
    }
    map.try_reserve(fields)
}

/// Puts a map in the place of one that is as new. Such a one owns nothing, and to drop it would take
/// sixty instructions.
#[inline]
pub(crate) fn put(map: HeaderMap, new: &mut HeaderMap) {
    debug_assert_eq!(new.capacity(), 0, "it owns nothing");
    std::mem::forget(std::mem::replace(new, map));
}

/// What a request of `peer`'s comes with.
pub(crate) fn extensions(peer: &Peer) -> Extensions {
    let spare = EXTENSIONS.try_with(Cell::take);
    let mut extensions = spare.ok().flatten().unwrap_or_default();
    match extensions.get_mut::<Peer>() {
        Some(old) => old.clone_from(peer),
        None => drop(extensions.insert(peer.clone())),
    }
    extensions
}

/// Nobody needs this head any more.
pub(crate) fn spend(request::Parts { mut headers, extensions, .. }: request::Parts) {
    if headers.capacity() <= FIELDS {
        headers.clear();
        let _ = HEADERS.try_with(|place| place.set(Some(headers)));
    }
    // What layers have added is theirs, and ends with the request.
    if extensions.len() == 1 && extensions.get::<Peer>().is_some() {
        let _ = EXTENSIONS.try_with(|place| place.set(Some(extensions)));
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request, header};

    use super::*;

    /// The head of a request of `peer`'s with so many fields.
    fn head(peer: &Peer, fields: usize) -> request::Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        make_room(&mut parts.headers, fields).unwrap();
        parts.extensions = extensions(peer);
        for _ in 0..fields {
            parts.headers.append(header::COOKIE, HeaderValue::from_static("secret"));
        }
        parts
    }

    #[test]
    fn a_head_has_nothing_of_the_one_whose_memory_it_has() {
        let [alice, bob] = ["192.0.2.1:1", "192.0.2.2:2"]
            .map(|client| Peer::tcp(client.parse().unwrap(), "192.0.2.9:80".parse().unwrap()));
        spend(head(&alice, 9));
        let room = HEADERS.take().map(|map| (map.capacity(), HEADERS.set(Some(map))).0).unwrap();
        assert!(room >= 9);
        let next = head(&bob, 0);
        assert_eq!((next.headers.capacity(), next.headers.len()), (room, 0));
        assert!(next.headers.get(header::COOKIE).is_none());
        assert_eq!((next.extensions.len(), next.extensions.get()), (1, Some(&bob)));
        assert!(HEADERS.take().is_none() && EXTENSIONS.take().is_none(), "they are lent once");
    }

    #[test]
    fn a_lent_map_has_the_room_that_was_asked_for() {
        let peer = Peer::memory();
        for fields in [0, 1, 3, 20, 48] {
            spend(head(&peer, 2));
            assert!(head(&peer, fields).headers.capacity() >= fields);
        }
        make_room(&mut HeaderMap::new(), 100_000).unwrap_err();
    }

    #[test]
    fn large_maps_and_what_layers_have_added_are_not_kept() {
        let mut head = head(&Peer::memory(), FIELDS + 1);
        head.extensions.insert("a layer's");
        spend(head);
        assert!(HEADERS.take().is_none() && EXTENSIONS.take().is_none());

        let (mut bare, ()) = Request::new(()).into_parts();
        bare.extensions.insert("no peer");
        spend(bare);
        assert!(EXTENSIONS.take().is_none());
    }
}
