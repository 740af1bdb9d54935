//! Padding of random length for contents that are encoded with gzip.

use std::hash::{BuildHasher, RandomState};

use bytes::BytesMut;

/// The length of the header that the encoder writes, without optional fields (RFC 1952 section 2.3).
const HEADER: usize = 10;

/// The flag FCOMMENT: a comment follows the header.
const COMMENT: u8 = 1 << 4;

/// Returns a random length from 1 to `max`, which clients cannot predict.
pub(super) fn random_len(max: u16) -> u16 {
    let random = RandomState::new().hash_one(max);
    1 + u16::try_from(random % u64::from(max.max(1))).expect("less than its divisor")
}

/// Adds a comment of `len` characters to the header at the beginning of `out`, if it is a gzip header.
pub(super) fn add_comment(out: &mut BytesMut, len: u16) {
    let [0x1f, 0x8b, 8, 0, ..] = out[..] else { return };
    if let Some((header, rest)) = out.split_at_checked(HEADER) {
        let mut padded = BytesMut::with_capacity(out.len() + usize::from(len) + 1);
        padded.extend_from_slice(header);
        padded[3] |= COMMENT;
        padded.resize(HEADER + usize::from(len), b' ');
        padded.extend_from_slice(&[0]);
        padded.extend_from_slice(rest);
        *out = padded;
    }
}
