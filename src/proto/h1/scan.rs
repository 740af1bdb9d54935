//! Bytes by their class, 64 at a time, and in bulk: the one file of the core that holds SIMD and
//! `unsafe`.
//!
//! [`block`] says of 64 bytes which of them are line feeds, carriage returns and delimiters, as bit
//! masks; [`plain_len`] passes over bytes that are nothing special. Both have a portable form, which
//! is the definition, and one for AVX2, used where the processor has it; a test holds them against
//! each other. All strides are constant: no load waits for the result of the one before it.

#![allow(unsafe_code, reason = "SIMD, values that were looked at already, and room that is there")]

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

/// Bytes that a [`block`] looks at.
pub(super) const BLOCK: usize = 64;

/// What stands where in a block; bit `i` is its byte `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) lf: u64,
    pub(super) cr: u64,
    /// Bytes that are not of a token (RFC 9110 section 5.6.2).
    pub(super) delimiters: u64,
    /// Not zero if there is a control byte other than HTAB, CR and LF. It may also say so of bytes
    /// before the block: it is a reason to look more closely.
    pub(super) controls: u64,
}

/// How blocks are looked at; a type, so that what is built on it is compiled for each.
pub(super) trait Scan: Copy {
    /// The bytes of `input` from `at` on, at most [`BLOCK`]. `at < input.len()`.
    fn block(self, input: &[u8], at: usize) -> Masks;
    /// How many bytes from `at` on are surely no control bytes; it may stop early.
    fn plain_len(self, input: &[u8], at: usize) -> usize;
}

/// Work on blocks, for whatever [`Scan`] there is. `run` should be `#[inline(always)]`.
pub(super) trait Work {
    type Output;
    fn run<S: Scan>(self, scan: S) -> Self::Output;
}

/// Does the work with the best that this processor has.
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

/// Bytes of a host: a registered name without percent signs, which no host of the web has and
/// which readers take differently (RFC 3986 section 3.2.2), or an IPv4 address.
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

/// How many bytes at the front belong to a host's name.
pub(super) fn host_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !HOST[usize::from(b)]).unwrap_or(bytes.len())
}

/// How many bytes at the front belong to a token.
pub(super) fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().position(|&b| !TOKEN[usize::from(b)]).unwrap_or(bytes.len())
}

/// May all these bytes stand in a field value (RFC 9110 section 5.5)? Controls may not, but for
/// HTAB; so no CR, LF or NUL passes.
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    // A word with a suspect, a HTAB included, is looked at byte by byte.
    let (words, rest) = bytes.as_chunks::<8>();
    words.iter().all(|w| no_control(u64::from_ne_bytes(*w)) || w.iter().all(|&b| value_byte(b)))
        && rest.iter().all(|&b| value_byte(b))
}

/// May all these bytes stand in a request target? Visible ASCII only, no fragment, and no backslash
/// before the query, since there are readers that take it for a slash.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    let plain = |&b: &u8| is_visible(b) && b != b'\\';
    let (words, rest) = bytes.as_chunks::<8>();
    let is_plain = words.iter().all(|w| plain_word(u64::from_ne_bytes(*w)) || w.iter().all(plain))
        && rest.iter().all(plain);
    is_plain || is_target_with_backslash(bytes)
}

/// Browsers send the backslashes of a query as they are.
#[cold]
fn is_target_with_backslash(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| is_visible(b))
        && memchr::memchr2(b'\\', b'?', bytes).is_some_and(|at| bytes[at] == b'?')
}

/// Visible ASCII but `#`, with which a fragment would begin.
fn is_visible(b: u8) -> bool {
    matches!(b, 0x21..=0x7e) && b != b'#'
}

/// The bytes without the optional white space around them (RFC 9110 section 5.6.3).
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// A field's value from bytes for which [`is_field_value`] holds, without looking at them again.
pub(super) fn value(bytes: Bytes) -> HeaderValue {
    debug_assert!(is_field_value(&bytes), "only values that were looked at");
    // SAFETY: every caller has the bytes from lines in which no control byte but HTAB was found,
    // which is what `HeaderValue` asks of its bytes.
    unsafe { HeaderValue::from_maybe_shared_unchecked(bytes) }
}

/// Appends `name: value` and CRLF, with one look at the room there is for all of it.
#[inline(always)]
pub(super) fn append_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    // Two slices together are no longer than the address space.
    let len = (name.len() + value.len()).checked_add(4).expect("a field fits into memory");
    out.reserve(len);
    let line = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: there is room for both and four bytes more, of which each part takes its own; neither
    // is a part of the buffer, which is borrowed for writing. All that is then counted as length was
    // written.
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

/// Copies bytes; up to 32, as names and values mostly are, without a call: by their first and last
/// few, which overlap.
///
/// # Safety
/// There is room for them at `to`, and it is nowhere in `from`.
#[inline(always)]
unsafe fn copy(from: &[u8], to: *mut u8) {
    /// The first and the last `N`, of at least `N` and at most twice as many.
    #[inline(always)]
    unsafe fn ends<const N: usize>(from: &[u8], to: *mut u8) {
        if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            // SAFETY: the caller has room for all of `from`, whose ends these are.
            unsafe {
                to.cast::<[u8; N]>().write_unaligned(*first);
                to.add(from.len() - N).cast::<[u8; N]>().write_unaligned(*last);
            }
        }
    }
    // SAFETY: as this function's.
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

/// No byte of the word is below 0x20 or equal to 0x7f. It may say no to a word that is fine (a
/// borrow runs into the next byte), never yes to one that is not.
fn no_control(word: u64) -> bool {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    below_space | equal(word, 0x7f) == 0
}

/// All bytes of the word are within 0x21..=0x7e and none is `#` or a backslash; it may say no
/// wrongly, as above.
fn plain_word(word: u64) -> bool {
    let below = word.wrapping_sub(ONES * 0x21) & !word & HIGH;
    let excluded = equal(word, 0x7f) | equal(word, b'#') | equal(word, b'\\');
    below | (word & HIGH) | excluded == 0
}

/// The high bit of each byte that equals `byte`; above such a byte others may be set wrongly.
fn equal(word: u64, byte: u8) -> u64 {
    let zero_where = word ^ (ONES * u64::from(byte));
    zero_where.wrapping_sub(ONES) & !zero_where & HIGH
}

/// For every processor, and the definition of what the others do.
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

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::*,
        sync::atomic::{AtomicU8, Ordering},
    };

    use super::{BLOCK, Masks, Scan, Work};

    /// For processors with AVX2: whoever has one of these runs on such a processor.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Avx2(());

    /// What [`Avx2::detect`] found: one load instead of one for each feature.
    static SUPPORT: AtomicU8 = AtomicU8::new(0);
    const UNSUPPORTED: u8 = 1;
    const SUPPORTED: u8 = 2;

    impl Avx2 {
        #[inline]
        pub(super) fn detect() -> Option<Self> {
            match SUPPORT.load(Ordering::Relaxed) {
                SUPPORTED => Some(Self(())),
                UNSUPPORTED => None,
                _ => Self::detect_uncached(),
            }
        }

        #[cold]
        fn detect_uncached() -> Option<Self> {
            let found = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2");
            SUPPORT.store(if found { SUPPORTED } else { UNSUPPORTED }, Ordering::Relaxed);
            found.then_some(Self(()))
        }

        /// Compiles the work with these features; what it calls is inlined here.
        pub(super) fn run<W: Work>(self, work: W) -> W::Output {
            #[target_feature(enable = "avx2,bmi1,bmi2")]
            fn with_features<W: Work>(avx2: Avx2, work: W) -> W::Output {
                work.run(avx2)
            }
            // SAFETY: `detect` found the features.
            unsafe { with_features(self, work) }
        }
    }

    /// Bit `h` of entry `l` is set if the byte `h << 4 | l` is of a token.
    const NIBBLES: [i8; 16] = {
        let mut t = [0; 16];
        let mut b = 0;
        while b < 128 {
            if super::TOKEN[b] {
                t[b & 15] |= (1u8 << (b >> 4)) as i8;
            }
            b += 1;
        }
        t
    };

    impl Scan for Avx2 {
        #[inline(always)]
        fn block(self, input: &[u8], at: usize) -> Masks {
            let left = input.len() - at;
            if left >= BLOCK {
                return masks(half(load(input, at)), half(load(input, at + 32)), 32);
            }
            let masks = if let Some(last) = input.len().checked_sub(BLOCK) {
                // The last 64 bytes, without those that are before the block.
                let m = masks(half(load(input, last)), half(load(input, last + 32)), 32);
                let before = BLOCK - left;
                Masks {
                    lf: m.lf >> before,
                    cr: m.cr >> before,
                    delimiters: m.delimiters >> before,
                    ..m
                }
            } else if left >= 32 {
                // Two loads that overlap: a bit that both set is the same bit.
                masks(half(load(input, at)), half(load(input, input.len() - 32)), left - 32)
            } else if left >= 16 {
                let both = half(load_twice(input, at, input.len() - 16));
                let part = |bits: u64| bits & 0xffff | bits >> 16 << (left - 16);
                Masks {
                    lf: part(both.lf),
                    cr: part(both.cr),
                    delimiters: part(both.delimiters),
                    ..both
                }
            } else {
                let mut copy = [FILLER; 32];
                copy[..left].copy_from_slice(&input[at..]);
                half(load(&copy, 0))
            };
            Masks { delimiters: masks.delimiters & ((1 << left) - 1), ..masks }
        }

        #[inline(always)]
        fn plain_len(self, input: &[u8], at: usize) -> usize {
            let mut len = 0;
            while input.len() - at - len >= 128 {
                let from = at + len;
                let zero_if_control = min(
                    min(control(load(input, from)), control(load(input, from + 32))),
                    min(control(load(input, from + 64)), control(load(input, from + 96))),
                );
                if bits(equal(zero_if_control, zero())) != 0 {
                    break;
                }
                len += 128;
            }
            len
        }
    }

    // All of these work on values alone, not on memory, and there is no `Avx2` but where the
    // processor has the instructions; only its methods come here.

    #[inline(always)]
    fn zero() -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn min(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_min_epu8(a, b) }
    }

    #[inline(always)]
    fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(a, b) }
    }

    /// All bits of the bytes that are equal.
    #[inline(always)]
    fn equal(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_cmpeq_epi8(a, b) }
    }

    #[inline(always)]
    fn is(bytes: __m256i, byte: u8) -> __m256i {
        // SAFETY: see above.
        equal(bytes, unsafe { _mm256_set1_epi8(byte as i8) })
    }

    /// The high bits.
    #[inline(always)]
    fn bits(bytes: __m256i) -> u64 {
        // SAFETY: see above.
        u64::from(unsafe { _mm256_movemask_epi8(bytes) } as u32)
    }

    /// Zero where a byte is below 0x20 or equal to 0x7f.
    #[inline(always)]
    fn control(bytes: __m256i) -> __m256i {
        // SAFETY: see above.
        let (above, not_del) = unsafe {
            let above = _mm256_subs_epu8(bytes, _mm256_set1_epi8(0x1f));
            (above, _mm256_xor_si256(bytes, _mm256_set1_epi8(0x7f)))
        };
        min(above, not_del)
    }

    /// A byte of which no mask says anything.
    const FILLER: u8 = b'a';

    /// 16 bytes of `input` from each of these places on.
    #[inline(always)]
    fn load_twice(input: &[u8], at: usize, then: usize) -> __m256i {
        let (lower, upper) = (&input[at..at + 16], &input[then..then + 16]);
        // SAFETY: the slices have 16 bytes each, and unaligned loads ask for no more.
        unsafe {
            _mm256_set_m128i(
                _mm_loadu_si128(upper.as_ptr().cast()),
                _mm_loadu_si128(lower.as_ptr().cast()),
            )
        }
    }

    /// 32 bytes of `input` from `at` on; panics if there are not so many.
    #[inline(always)]
    fn load(input: &[u8], at: usize) -> __m256i {
        let bytes: &[u8] = &input[at..at + 32];
        // SAFETY: the slice has 32 bytes, and an unaligned load asks for no more. AVX: see above.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    /// The masks of two halves, of which the second begins at a place.
    #[inline(always)]
    fn masks(a: Masks, b: Masks, at_b: usize) -> Masks {
        Masks {
            lf: a.lf | b.lf << at_b,
            cr: a.cr | b.cr << at_b,
            delimiters: a.delimiters | b.delimiters << at_b,
            controls: a.controls | b.controls,
        }
    }

    /// The masks of 32 bytes.
    #[inline(always)]
    fn half(bytes: __m256i) -> Masks {
        let (lf, cr) = (is(bytes, b'\n'), is(bytes, b'\r'));
        Masks {
            lf: bits(lf),
            cr: bits(cr),
            delimiters: bits(equal(token(bytes), zero())),
            controls: bits(control_bytes(bytes, lf, cr)),
        }
    }

    /// Control bytes that are neither these LF and CR nor HTAB.
    #[inline(always)]
    fn control_bytes(bytes: __m256i, lf: __m256i, cr: __m256i) -> __m256i {
        let known = or(or(lf, cr), is(bytes, b'\t'));
        // SAFETY: see above.
        unsafe { _mm256_andnot_si256(known, equal(control(bytes), zero())) }
    }

    /// Not zero where a byte is of a token: its lower half picks the row of [`NIBBLES`], its upper
    /// half the bit. Bytes above 0x7f pick nothing.
    #[inline(always)]
    fn token(bytes: __m256i) -> __m256i {
        const N: [i8; 16] = NIBBLES;
        // SAFETY: see above.
        unsafe {
            let rows = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                N[0], N[1], N[2], N[3], N[4], N[5], N[6], N[7], N[8], N[9], N[10], N[11], N[12],
                N[13], N[14], N[15],
            ));
            let bits = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0,
            ));
            let upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(0x0f));
            _mm256_and_si256(_mm256_shuffle_epi8(rows, bytes), _mm256_shuffle_epi8(bits, upper))
        }
    }
}

#[cfg(test)]
pub(super) use tests::portable;

#[cfg(test)]
mod tests;
