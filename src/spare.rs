//! Memory of heads that have been sent or answered, for heads to come: their maps cost five
//! allocations.
//!
//! Each thread has stacks of them: [`make_room`] and [`extensions`] take from them, [`spend`] and
//! [`spend_headers`] give back. Nothing of the old head is left in them except its client, which is
//! overwritten.

use std::cell::RefCell;

use http::{Extensions, HeaderMap, header::MaxSizeReached, request};

use crate::peer::Peer;

/// A map with room for more fields than this is not kept: 64 of them take 7 KiB, and few clients
/// send half as many.
const FIELDS: usize = 64;

/// So many of each are kept by a thread: a proxy has as many requests under way before the first of
/// them is answered. 64 usual maps take 80 KiB.
const KEPT: usize = 64;

thread_local! {
    static HEADERS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
    /// They hold a [`Peer`], and nothing else.
    static EXTENSIONS: RefCell<Vec<Extensions>> = const { RefCell::new(Vec::new()) };
}

/// Keeps `item`, unless there are enough.
fn keep<T>(item: T, stack: &RefCell<Vec<T>>) {
    let mut stack = stack.borrow_mut();
    if stack.len() < KEPT {
        stack.push(item);
    }
}

/// Gives an empty map room for so many fields.
pub(crate) fn make_room(map: &mut HeaderMap, fields: usize) -> Result<(), MaxSizeReached> {
    // At the end of the thread the stack may be gone.
    if let Ok(Some(spare)) = HEADERS.try_with(|stack| stack.borrow_mut().pop()) {
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
    let spare = EXTENSIONS.try_with(|stack| stack.borrow_mut().pop());
    let mut extensions = spare.ok().flatten().unwrap_or_default();
    match extensions.get_mut::<Peer>() {
        Some(old) => old.clone_from(peer),
        None => drop(extensions.insert(peer.clone())),
    }
    extensions
}

/// Keeps the memory of a request that has been answered.
pub(crate) fn spend(request::Parts { headers, extensions, .. }: request::Parts) {
    spend_headers(headers);
    // With others in it, it would be emptied of them and lose its room.
    if extensions.len() == 1 && extensions.get::<Peer>().is_some() {
        let _ = EXTENSIONS.try_with(|stack| keep(extensions, stack));
    }
}

/// Keeps the memory of fields that have been sent.
pub(crate) fn spend_headers(mut headers: HeaderMap) {
    if (1..=FIELDS).contains(&headers.capacity()) {
        headers.clear();
        let _ = HEADERS.try_with(|stack| keep(headers, stack));
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
        let room = HEADERS.with_borrow(|maps| maps[0].capacity());
        assert!(room >= 9);
        let next = head(&bob, 0);
        assert_eq!((next.headers.capacity(), next.headers.len()), (room, 0));
        assert!(next.headers.get(header::COOKIE).is_none());
        assert_eq!((next.extensions.len(), next.extensions.get()), (1, Some(&bob)));
        assert!(HEADERS.take().is_empty() && EXTENSIONS.take().is_empty(), "they are lent once");
    }

    #[test]
    fn no_more_than_enough_are_kept() {
        let heads: Vec<_> = (0..=KEPT).map(|_| head(&Peer::memory(), 2)).collect();
        heads.into_iter().for_each(spend);
        assert_eq!((HEADERS.take().len(), EXTENSIONS.take().len()), (KEPT, KEPT));
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
        assert!(HEADERS.take().is_empty() && EXTENSIONS.take().is_empty());

        let (mut bare, ()) = Request::new(()).into_parts();
        bare.extensions.insert("no peer");
        spend(bare);
        assert!(EXTENSIONS.take().is_empty());
    }
}
