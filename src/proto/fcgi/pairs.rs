//! Name-value pairs (FastCGI 1.0 section 3.4): two lengths of one or four bytes, then the bytes.

use bytes::{BufMut, BytesMut};

use super::Misuse;

/// The maximum length that takes one byte.
const MAX_SHORT: usize = 0x7f;

/// The flag of a length that takes four bytes: its highest bit.
const LONG_FLAG: u32 = 1 << 31;

/// Returns the encoded length of a pair with a name and a value of these lengths.
pub(super) fn pair_len(name: usize, value: usize) -> Result<usize, Misuse> {
    let prefix = |len: usize| match u32::try_from(len) {
        Ok(len) if len < LONG_FLAG => Ok(if len as usize <= MAX_SHORT { 1 } else { 4 }),
        _ => Err(Misuse::PairTooLong),
    };
    let prefixes = prefix(name)? + prefix(value)?;
    name.checked_add(value).and_then(|n| n.checked_add(prefixes)).ok_or(Misuse::PairTooLong)
}

/// Appends the lengths of a pair. [`pair_len`] must have accepted them.
pub(super) fn put_lengths(name: usize, value: usize, out: &mut BytesMut) {
    for len in [name, value] {
        if len <= MAX_SHORT {
            out.put_u8(len as u8);
        } else {
            out.put_u32(len as u32 | LONG_FLAG);
        }
    }
}

/// A name and its value.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Returns the first pair of `bytes` and the rest; `None` if the pair is incomplete.
pub(super) fn split_first(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (name, rest) = split_length(bytes)?;
    let (value, rest) = split_length(rest)?;
    let (name, rest) = rest.split_at_checked(name)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some(((name, value), rest))
}

/// Splits off a length in its short or long form. The long form of a short length is accepted: the specification
/// does not exclude it.
fn split_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [short @ 0..=0x7f, rest @ ..] => Some((usize::from(*short), rest)),
        [a, b, c, d, rest @ ..] => {
            let len = u32::from_be_bytes([*a, *b, *c, *d]) & !LONG_FLAG;
            Some((usize::try_from(len).ok()?, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_one_byte_up_to_127_and_four_above() {
        for (len, prefix) in [(0, 1), (1, 1), (127, 1), (128, 4), (65_536, 4), (1 << 20, 4)] {
            let value = vec![b'v'; len];
            let mut bytes = BytesMut::new();
            put_lengths(1, len, &mut bytes);
            assert_eq!(bytes.len(), 1 + prefix);
            bytes.extend_from_slice(b"n");
            bytes.extend_from_slice(&value);
            assert_eq!(pair_len(1, len), Ok(bytes.len()));
            bytes.extend_from_slice(b"rest");
            assert_eq!(split_first(&bytes), Some(((&b"n"[..], &value[..]), &b"rest"[..])));
            for cut in 0..bytes.len() - 4 {
                assert_eq!(split_first(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn length_of_32_bits_is_misuse() {
        assert_eq!(pair_len(1 << 31, 0), Err(Misuse::PairTooLong));
        assert_eq!(pair_len(0, usize::MAX), Err(Misuse::PairTooLong));
        assert!(pair_len((1 << 31) - 1, 0).is_ok());
    }
}
