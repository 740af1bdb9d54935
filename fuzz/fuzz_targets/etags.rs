//! Invariant: a tag that is read and written again is the same; a list gives the tags that a reference which
//! reads single characters finds, up to the bound; the strong comparison implies the weak one, and both are
//! symmetric.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::semantics::etag::{self, ETag, MAX_TAGS};

fuzz_target!(|data: &[u8]| {
    if let Ok(tag) = ETag::parse(data) {
        let value = tag.to_value();
        let again = ETag::parse(value.as_bytes()).expect("what was written is a tag");
        assert_eq!((tag.is_weak(), tag.opaque()), (again.is_weak(), again.opaque()));
        assert_eq!(tag.strong_eq(again), !tag.is_weak());
        assert!(!etag::is_any(data));
    }
    let tags: Vec<ETag<'_>> = etag::list(data).collect();
    let read: Vec<_> = tags.iter().map(|tag| (tag.is_weak(), tag.opaque().to_vec())).collect();
    assert_eq!(read, model(data));
    for a in &tags {
        for b in &tags {
            assert_eq!(a.strong_eq(*b), b.strong_eq(*a));
            assert_eq!(a.weak_eq(*b), a.opaque() == b.opaque());
            assert!(!a.strong_eq(*b) || (a.weak_eq(*b) && !a.is_weak() && !b.is_weak()));
        }
    }
    let written: Vec<Vec<u8>> = tags.iter().map(|tag| tag.to_value().as_bytes().to_vec()).collect();
    let list = written.join(&b", "[..]);
    let again = etag::list(&list).map(|tag| (tag.is_weak(), tag.opaque().to_vec()));
    assert_eq!(again.collect::<Vec<_>>(), read, "as a list of our own");
});

/// Returns the tags of a list up to the first element that is not a tag.
fn model(list: &[u8]) -> Vec<(bool, Vec<u8>)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while found.len() < MAX_TAGS {
        while matches!(list.get(at), Some(b' ' | b'\t' | b',')) {
            at += 1;
        }
        let weak = list[at..].starts_with(b"W/");
        at += if weak { 2 } else { 0 };
        if list.get(at) != Some(&b'"') {
            break;
        }
        at += 1;
        let mut opaque = Vec::new();
        loop {
            match list.get(at) {
                Some(b'"') => break,
                Some(0x21 | 0x23..=0x7e | 0x80..) => opaque.push(list[at]),
                _ => return found,
            }
            at += 1;
        }
        at += 1;
        found.push((weak, opaque));
    }
    found
}
