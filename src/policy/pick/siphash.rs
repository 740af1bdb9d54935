//! SipHash-2-4: a keyed hash of short inputs, which cannot be predicted without the key.
//!
//! Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012. Its 128-bit variant signs cookies.

/// A key: 16 bytes as two little-endian numbers.
#[derive(Clone, Copy)]
pub(super) struct SipKey(u64, u64);

struct State {
    v: [u64; 4],
}

impl SipKey {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| word(&key[at..]));
        Self(low, high)
    }

    /// Returns the key of public hashes, for example of positions on a ring. It is fixed, so that all gateways agree.
    pub(super) const fn fixed() -> Self {
        Self(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908)
    }

    /// Returns the 64-bit hash.
    pub(super) fn hash64(self, bytes: &[u8]) -> u64 {
        let mut state = State::new(self);
        state.absorb(bytes);
        state.finish(0xff)
    }

    /// Returns the 128-bit hash.
    pub(super) fn hash128(self, bytes: &[u8]) -> [u8; 16] {
        let mut state = State::new(self);
        state.v[1] ^= 0xee;
        state.absorb(bytes);
        let low = state.finish(0xee);
        state.v[1] ^= 0xdd;
        let high = state.rounds(4);
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&low.to_le_bytes());
        hash[8..].copy_from_slice(&high.to_le_bytes());
        hash
    }
}

impl State {
    fn new(SipKey(low, high): SipKey) -> Self {
        // "somepseudorandomlygeneratedbytes"
        let v = [
            low ^ 0x736f_6d65_7073_6575,
            high ^ 0x646f_7261_6e64_6f6d,
            low ^ 0x6c79_6765_6e65_7261,
            high ^ 0x7465_6462_7974_6573,
        ];
        Self { v }
    }

    fn absorb(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let rest = words.remainder();
        for bytes in words {
            self.absorb_word(word(bytes));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        last[7] = (bytes.len() & 0xff) as u8; // the length, modulo 256
        self.absorb_word(u64::from_le_bytes(last));
    }

    fn absorb_word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.rounds(2);
        self.v[0] ^= word;
    }

    fn finish(&mut self, tweak: u64) -> u64 {
        self.v[2] ^= tweak;
        self.rounds(4)
    }

    fn rounds(&mut self, n: usize) -> u64 {
        let [mut a, mut b, mut c, mut d] = self.v;
        for _ in 0..n {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.v = [a, b, c, d];
        a ^ b ^ c ^ d
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes[..8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of the reference implementation: key 00 .. 0f, input 00 .. n-1.
    #[test]
    fn hashes_are_those_of_the_reference() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let input: [u8; 15] = std::array::from_fn(|i| i as u8);
        let key = SipKey::new(&key);
        assert_eq!(key.hash64(&input), 0xa129_ca61_49be_45e5, "the paper's example");
        assert_eq!(key.hash64(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(SipKey::fixed().hash64(&input), key.hash64(&input));
        let empty = [
            0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55,
            0x02, 0x93,
        ];
        assert_eq!(key.hash128(&[]), empty);
        let one = [
            0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22,
            0xfc, 0x45,
        ];
        assert_eq!(key.hash128(&[0]), one);
    }
}
