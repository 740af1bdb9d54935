//! The format of head files: the fields and times of an object, with a checksum.

#[cfg(any(fuzzing, test))]
mod fuzzing;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

#[cfg(any(fuzzing, test))]
pub(in crate::cache) use self::fuzzing::{is_stable, with_checksum};
use super::{
    super::{
        hit_fields::HitFields,
        key::Key,
        object::{Content, Object},
        sent_forms::SentForms,
    },
    codec::{Input, Output, checksum},
};
use crate::semantics::cache::{Freshness, Vary, VaryKey};

/// The first bytes of a head: the name and the version of the format.
const MAGIC: &[u8; 8] = b"vstbl\x00\x00\x02";

/// The length of the prefix of a head: magic, length and checksum.
const PREFIX: usize = 8 + 4 + 8;

/// The maximum length of a head, 256 KiB. An object with a longer one is stored in memory only.
pub(super) const MAX_HEAD: usize = 256 << 10;

/// Encodes the head of an object with a content of `len` bytes. Returns `None` if it is longer than [`MAX_HEAD`].
pub(super) fn encode(key: &Key, object: &Object, len: u64) -> Option<Vec<u8>> {
    let Vary::Fields(vary) = &object.vary else { return None };
    let mut out = Output(vec![0; PREFIX]);
    out.number(object.id);
    out.number(object.revision);
    out.number(len);
    out.text(key.as_str().as_bytes());
    out.number(object.status.as_u16().into());
    object.freshness.to_words().into_iter().for_each(|word| out.number(word));
    out.number(u64::try_from(object.cost.as_nanos()).unwrap_or(u64::MAX));
    out.number(vary.len() as u64);
    vary.iter().for_each(|name| out.text(name.as_str().as_bytes()));
    out.text(object.vary_key.as_bytes());
    out.number(object.groups.len() as u64);
    object.groups.iter().for_each(|group| out.text(group.as_bytes()));
    out.number(object.headers.len() as u64);
    for (name, value) in &object.headers {
        out.text(name.as_str().as_bytes());
        out.text(value.as_bytes());
    }
    let mut out = out.0;
    let len = u32::try_from(out.len()).ok().filter(|_| out.len() <= MAX_HEAD)?;
    let sum = checksum(&out[PREFIX..]);
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&len.to_le_bytes());
    out[12..PREFIX].copy_from_slice(&sum.to_le_bytes());
    Some(out)
}

/// Decodes a head: the key, the object with an empty content, and the length of the content. Returns `None` if it is
/// malformed.
pub(super) fn decode(bytes: &[u8]) -> Option<(Key, Object, u64)> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX)?;
    let len = u32::from_le_bytes(prefix[8..12].try_into().ok()?);
    let sum = u64::from_le_bytes(prefix[12..].try_into().ok()?);
    if prefix[..8] != *MAGIC || len as usize != bytes.len() || sum != checksum(rest) {
        return None;
    }
    let mut input = Input(rest);
    let (id, revision, content_len) = (input.number()?, input.number()?, input.number()?);
    let key = Key::restore(std::str::from_utf8(input.text()?).ok()?);
    let status = StatusCode::from_u16(u16::try_from(input.number()?).ok()?).ok()?;
    let mut words = [0; 6];
    for word in &mut words {
        *word = input.number()?;
    }
    let cost = Duration::from_nanos(input.number()?);
    let vary = input.list(|input| HeaderName::from_bytes(input.text()?).ok())?;
    let vary_key = VaryKey::from(Bytes::copy_from_slice(input.text()?));
    let groups = input.list(|input| String::from_utf8(input.text()?.to_vec()).ok())?;
    let fields = input.list(|input| {
        let name = HeaderName::from_bytes(input.text()?).ok()?;
        Some((name, HeaderValue::from_bytes(input.text()?).ok()?))
    })?;
    let mut headers = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        headers.append(name, value);
    }
    let object = Object {
        id,
        revision,
        status,
        headers,
        freshness: Freshness::from_words(words),
        vary: Vary::Fields(vary.into()),
        vary_key,
        // All objects without groups share one list.
        groups: if groups.is_empty() { Arc::default() } else { groups.into() },
        cost,
        content: Content::Memory(Bytes::new()),
        hit_fields: HitFields::default(),
        sent_forms: SentForms::default(),
    };
    input.is_empty().then_some((key, object, content_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> (Key, Object) {
        let key = Key::new("https", "a.example", "/b", Some("c=d")).unwrap();
        let mut headers = HeaderMap::new();
        headers.append("x", "1".parse().unwrap());
        headers.append("x", "2".parse().unwrap());
        headers.append("y", HeaderValue::from_bytes(b"\xff").unwrap());
        let mut varying = HeaderMap::new();
        varying.insert("vary", "accept-encoding, x".parse().unwrap());
        let vary = Vary::of(&varying);
        let object = Object {
            id: 7,
            revision: 8,
            status: StatusCode::NOT_FOUND,
            vary_key: vary.key(&headers).unwrap(),
            headers,
            freshness: Freshness::from_words([1, 2, 3, 4, 5, 6]),
            vary,
            groups: Arc::from(["g".to_owned(), "h".to_owned()]),
            cost: Duration::from_millis(9),
            content: Content::Memory(Bytes::from_static(b"content")),
            hit_fields: HitFields::default(),
            sent_forms: SentForms::default(),
        };
        (key, object)
    }

    #[test]
    fn head_is_read_as_it_was_written() {
        let (key, object) = object();
        let (read_key, read, len) = decode(&encode(&key, &object, 7).unwrap()).unwrap();
        assert_eq!(read.revision, object.revision);
        assert_eq!((read_key, len, read.id, read.status), (key, 7, 7, object.status));
        assert_eq!(
            (&read.headers, read.freshness, &read.groups),
            (&object.headers, object.freshness, &object.groups)
        );
        assert!(read.is_same_variant(&object) && read.cost == object.cost);
    }

    #[test]
    fn damaged_head_is_refused() {
        let (key, object) = object();
        let head = encode(&key, &object, 7).unwrap();
        for end in 0..head.len() {
            assert!(decode(&head[..end]).is_none(), "torn at {end}");
        }
        for at in 0..head.len() {
            for bit in 0..8 {
                let mut head = head.clone();
                head[at] ^= 1 << bit;
                assert!(decode(&head).is_none(), "bit {bit} of byte {at}");
            }
        }
        let mut longer = head.clone();
        longer.push(0);
        assert!(decode(&longer).is_none());
    }

    #[test]
    fn head_is_bounded() {
        let (key, mut object) = object();
        object.headers.insert("x", HeaderValue::from_bytes(&vec![b'x'; MAX_HEAD]).unwrap());
        assert!(encode(&key, &object, 7).is_none());
    }
}
