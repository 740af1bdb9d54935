//! Classifies bytes, 64 at a time and in bulk. With its `x86.rs` the only file of the core with `unsafe`.
//!
//! [`Scan::block`] returns which of 64 bytes are line feeds, carriage returns and delimiters, as bit
//! masks; [`Scan::plain_len`] skips bytes without control bytes. Both have a portable implementation,
//! which is the definition, and one for AVX2, used if the processor has it; a test compares the two. All
//! strides are constant: no load depends on the result of the previous one.

#![allow(unsafe_code, reason = "SIMD, values that were already checked, and reserved capacity")]

#[cfg(target_arch = "x86_64")]
mod x86;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// The classes of the bytes of a block; bit `i` is its byte `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) lf: u64,
    pub(super) cr: u64,
    /// Bytes that are not of a token (RFC 9110 section 5.6.2).
    pub(super) delimiters: u64,
    /// Not zero if there is a control byte other than HTAB, CR and LF. Bytes before the block may set it
    /// too, so a caller must check the bytes.
    pub(super) controls: u64,
}

/// An implementation of the scan. A type, so that its callers are compiled for each one.
pub(super) trait Scan: Copy {
    /// Classifies the bytes of `input` from `at` on, at most [`BLOCK`]. `at < input.len()`.
    fn block(self, input: &[u8], at: usize) -> Masks;
    /// Returns a number of bytes from `at` on that contain no control byte; it may stop early.
    fn plain_len(self, input: &[u8], at: usize) -> usize;
}

/// Work on blocks, generic over [`Scan`]. `run` should be `#[inline(always)]`.
pub(super) trait Work {
    type Output;
    fn run<S: Scan>(self, scan: S) -> Self::Output;
}

/// Runs the work with the fastest implementation for this processor.
pub(super) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(test)]
    if tests::PORTABLE.get() {
        return work.run(Portable);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = x86::Avx2::detect() {
        return avx2.run(work);
    }
    work.run(Portable)
}

/// Bytes of a token (RFC 9110 section 5.6.2).
static TOKEN: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = matches!(b as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        b += 1;
    }
    t
};

/// Bytes of a host: an IPv4 address, or a registered name without percent signs, which web hosts do not
/// use and readers interpret differently (RFC 3986 section 3.2.2).
static HOST: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = matches!(b as u8,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        b += 1;
    }
    t
};

/// Returns the length of the host name at the front.
pub(super) fn host_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !HOST[usize::from(b)]).unwrap_or(bytes.len())
}

/// Returns the length of the token at the front.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !TOKEN[usize::from(b)]).unwrap_or(bytes.len())
}

/// Returns whether all bytes are valid in a field value (RFC 9110 section 5.5): no control byte except
/// HTAB, so no CR, LF or NUL.
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    // A word that may contain a control byte, HTAB included, is checked byte by byte.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|w| no_control(u64::from_ne_bytes(*w)) || w.iter().all(|&b| value_byte(b)))
        && rest.iter().all(|&b| value_byte(b))
}

/// Returns whether all bytes are valid in a request target: visible ASCII, no fragment, and no backslash
/// before the query, which some readers take for a slash.
pub(in crate::proto) fn is_target(bytes: &[u8]) -> bool {
    let plain = |&b: &u8| is_visible(b) && b != b'\\';
    let (words, rest) = bytes.as_chunks::<8>();
    let is_plain = words.iter().all(|w| plain_word(u64::from_ne_bytes(*w)) || w.iter().all(plain))
        && rest.iter().all(plain);
    is_plain || is_target_with_backslash(bytes)
}

/// Returns whether all bytes are valid and the first backslash follows a `?`: browsers do not escape the
/// backslashes of a query.
#[cold]
fn is_target_with_backslash(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| is_visible(b))
        && memchr::memchr2(b'\\', b'?', bytes).is_some_and(|at| bytes[at] == b'?')
}

/// Returns whether the byte is visible ASCII, except `#`, which starts a fragment.
fn is_visible(b: u8) -> bool {
    matches!(b, 0x21..=0x7e) && b != b'#'
}

/// Returns the bytes without the optional white space around them (RFC 9110 section 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Returns a field value of bytes for which [`is_field_value`] holds, without a second check.
pub(super) fn value(bytes: Bytes) -> HeaderValue {
    debug_assert!(is_field_value(&bytes), "only checked values");
    // SAFETY: every caller has the bytes from lines in which no control byte but HTAB was found, which
    // is what `HeaderValue` requires.
    unsafe { HeaderValue::from_maybe_shared_unchecked(bytes) }
}

/// Appends `name: value` and CRLF, with a single check of the capacity.
#[inline(always)]
pub(super) fn append_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    // Two slices together are no longer than the address space.
    let len = (name.len() + value.len()).checked_add(4).expect("a field fits into memory");
    out.reserve(len);
    let line = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: `len` bytes are reserved: both slices and four more bytes. The slices do not overlap the
    // buffer, which is borrowed mutably. All `len` bytes are written before `set_len`.
    unsafe {
        copy(name, line);
        let colon = line.add(name.len());
        colon.cast::<[u8; 2]>().write_unaligned(*b": ");
        let text = colon.add(2);
        copy(value, text);
        text.add(value.len()).cast::<[u8; 2]>().write_unaligned(*b"\r\n");
        out.set_len(out.len() + len);
    }
}

/// Copies bytes. Up to 32, the usual size of names and values, it copies their first and last few, which
/// may overlap, without a call of `memcpy`.
///
/// # Safety
/// `to` must be valid for writes of `from.len()` bytes that do not overlap `from`.
#[inline(always)]
unsafe fn copy(from: &[u8], to: *mut u8) {
    /// Copies the first and the last `N` bytes, of at least `N` and at most twice as many.
    #[inline(always)]
    unsafe fn ends<const N: usize>(from: &[u8], to: *mut u8) {
        if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            // SAFETY: `to` is valid for all of `from`, and both writes are within its length.
            unsafe {
                to.cast::<[u8; N]>().write_unaligned(*first);
                to.add(from.len() - N).cast::<[u8; N]>().write_unaligned(*last);
            }
        }
    }
    // SAFETY: the contract of this function.
    unsafe {
        match from.len() {
            16..=32 => ends::<16>(from, to),
            8..16 => ends::<8>(from, to),
            4..8 => ends::<4>(from, to),
            len => to.copy_from_nonoverlapping(from.as_ptr(), len),
        }
    }
}

fn value_byte(b: u8) -> bool {
    (b >= 0x20 && b != 0x7f) || b == b'\t'
}

const ONES: u64 = u64::MAX / 0xff;
const HIGH: u64 = ONES * 0x80;

/// Returns whether no byte of the word is below 0x20 or equal to 0x7f. May return `false` for a valid word
/// (a borrow affects the next byte), never `true` for an invalid one.
fn no_control(word: u64) -> bool {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    below_space | equal(word, 0x7f) == 0
}

/// Returns whether all bytes of the word are within 0x21..=0x7e and none is `#` or a backslash. May return
/// `false` for a valid word, as above.
fn plain_word(word: u64) -> bool {
    let below = word.wrapping_sub(ONES * 0x21) & !word & HIGH;
    let excluded = equal(word, 0x7f) | equal(word, b'#') | equal(word, b'\\');
    below | (word & HIGH) | excluded == 0
}

/// Returns the high bit of each byte that equals `byte`; bytes above a match may be set wrongly.
fn equal(word: u64, byte: u8) -> u64 {
    let zero_where = word ^ (ONES * u64::from(byte));
    zero_where.wrapping_sub(ONES) & !zero_where & HIGH
}

/// The implementation for every processor, and the definition of the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Scan for Portable {
    #[inline(always)]
    fn block(self, input: &[u8], at: usize) -> Masks {
        let mut masks = Masks { lf: 0, cr: 0, delimiters: 0, controls: 0 };
        for (i, &b) in input[at..].iter().take(BLOCK).enumerate() {
            masks.lf |= u64::from(b == b'\n') << i;
            masks.cr |= u64::from(b == b'\r') << i;
            masks.delimiters |= u64::from(!TOKEN[usize::from(b)]) << i;
            masks.controls |= u64::from(!value_byte(b) && b != b'\r' && b != b'\n');
        }
        masks
    }

    #[inline(always)]
    fn plain_len(self, input: &[u8], at: usize) -> usize {
        let (words, _) = input[at..].as_chunks::<8>();
        8 * words.iter().take_while(|w| no_control(u64::from_ne_bytes(**w))).count()
    }
}

#[cfg(test)]
pub(super) use tests::portable;

#[cfg(test)]
mod tests;
