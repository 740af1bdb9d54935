//! Helpers for tests of limits: requests from an address, and random numbers.

use crate::{Request, peer::Peer};

/// A request of a client at `ip`.
pub(super) fn from_ip(ip: &str) -> Request {
    let mut request = Request::default();
    let here = ([192, 0, 2, 9], 80).into();
    request
        .extensions_mut()
        .insert(Peer::tcp((ip.parse::<std::net::IpAddr>().unwrap(), 5000).into(), here));
    request
}

/// A xorshift generator: the same numbers for the same seed, which must not be 0.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}
