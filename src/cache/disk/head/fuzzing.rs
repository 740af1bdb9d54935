//! For the fuzz targets.

use super::{MAGIC, PREFIX, checksum, decode, encode};

/// Returns a head with this content and the right length and checksum.
pub(in crate::cache) fn with_checksum(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(PREFIX + content.len()).expect("inputs are short");
    [&MAGIC[..], &len.to_le_bytes(), &checksum(content).to_le_bytes(), content].concat()
}

/// Returns whether bytes are a head.
///
/// # Panics
/// If the head is not read again as it was written.
pub(in crate::cache) fn is_stable(bytes: &[u8]) -> bool {
    let Some((key, object, len)) = decode(bytes) else { return false };
    let written = encode(&key, &object, len).expect("it is no larger than what was read");
    let (read_key, read, read_len) = decode(&written).expect("it was written by this version");
    assert_eq!((&read_key, read_len), (&key, len));
    assert_eq!((read.id, read.revision, read.status), (object.id, object.revision, object.status));
    assert_eq!((read.freshness, read.cost), (object.freshness, object.cost));
    assert_eq!((&read.headers, &read.groups), (&object.headers, &object.groups));
    assert!(read.is_same_variant(&object));
    assert_eq!(encode(&read_key, &read, read_len), Some(written));
    true
}
