//! The scan with AVX2.

use std::{
    arch::x86_64::*,
    sync::atomic::{AtomicU8, Ordering},
};

use super::{BLOCK, Masks, Scan, Work};

/// The implementation for AVX2. A value exists only on a processor that has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// The cached result of [`Avx2::detect`]: one load instead of one for each feature.
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

    /// Runs the work, compiled with these features; the functions that it calls are inlined.
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,bmi1,bmi2")]
        fn with_features<W: Work>(avx2: Avx2, work: W) -> W::Output {
            work.run(avx2)
        }
        // SAFETY: `detect` found the features.
        unsafe { with_features(self, work) }
    }
}

/// Bit `h` of entry `l` is set if `h << 4 | l` is a token byte.
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
            // The last 64 bytes of the input, without those before the block.
            let m = masks(half(load(input, last)), half(load(input, last + 32)), 32);
            let before = BLOCK - left;
            Masks {
                lf: m.lf >> before,
                cr: m.cr >> before,
                delimiters: m.delimiters >> before,
                ..m
            }
        } else if left >= 32 {
            // Two loads that may overlap: both set the same bits for the same bytes.
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

// The functions below work on values, not on memory, except for the loads. Only methods of `Avx2` call
// them, and a value of it exists only if the processor has the instructions.

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

/// Sets all bits of the bytes that are equal.
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

/// Returns the high bits of the bytes.
#[inline(always)]
fn bits(bytes: __m256i) -> u64 {
    // SAFETY: see above.
    u64::from(unsafe { _mm256_movemask_epi8(bytes) } as u32)
}

/// Returns zero for each byte that is below 0x20 or equal to 0x7f.
#[inline(always)]
fn control(bytes: __m256i) -> __m256i {
    // SAFETY: see above.
    let (above, not_del) = unsafe {
        let above = _mm256_subs_epu8(bytes, _mm256_set1_epi8(0x1f));
        (above, _mm256_xor_si256(bytes, _mm256_set1_epi8(0x7f)))
    };
    min(above, not_del)
}

/// A byte that sets no bit in any mask.
const FILLER: u8 = b'a';

/// Loads 16 bytes of `input` from `at` and 16 from `then`.
#[inline(always)]
fn load_twice(input: &[u8], at: usize, then: usize) -> __m256i {
    let (lower, upper) = (&input[at..at + 16], &input[then..then + 16]);
    // SAFETY: each slice has 16 bytes, and the loads may be unaligned. AVX: see above.
    unsafe {
        _mm256_set_m128i(
            _mm_loadu_si128(upper.as_ptr().cast()),
            _mm_loadu_si128(lower.as_ptr().cast()),
        )
    }
}

/// Loads 32 bytes of `input` from `at` on; panics if there are fewer.
#[inline(always)]
fn load(input: &[u8], at: usize) -> __m256i {
    let bytes: &[u8] = &input[at..at + 32];
    // SAFETY: the slice has 32 bytes, and the load may be unaligned. AVX: see above.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Combines the masks of two halves, the second of which starts at bit `at_b`.
#[inline(always)]
fn masks(a: Masks, b: Masks, at_b: usize) -> Masks {
    Masks {
        lf: a.lf | b.lf << at_b,
        cr: a.cr | b.cr << at_b,
        delimiters: a.delimiters | b.delimiters << at_b,
        controls: a.controls | b.controls,
    }
}

/// Returns the masks of 32 bytes.
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

/// Sets all bits of the control bytes except LF, CR and HTAB.
#[inline(always)]
fn control_bytes(bytes: __m256i, lf: __m256i, cr: __m256i) -> __m256i {
    let known = or(or(lf, cr), is(bytes, b'\t'));
    // SAFETY: see above.
    unsafe { _mm256_andnot_si256(known, equal(control(bytes), zero())) }
}

/// Returns nonzero for each token byte: its lower half selects the entry of [`NIBBLES`], its upper half
/// the bit. Bytes above 0x7f select no bit.
#[inline(always)]
fn token(bytes: __m256i) -> __m256i {
    const N: [i8; 16] = NIBBLES;
    // SAFETY: see above.
    unsafe {
        let rows = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            N[0], N[1], N[2], N[3], N[4], N[5], N[6], N[7], N[8], N[9], N[10], N[11], N[12], N[13],
            N[14], N[15],
        ));
        let bits = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0,
        ));
        let upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(0x0f));
        _mm256_and_si256(_mm256_shuffle_epi8(rows, bytes), _mm256_shuffle_epi8(bits, upper))
    }
}
