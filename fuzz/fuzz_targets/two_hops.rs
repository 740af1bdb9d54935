//! Invariant: whatever a client or a server sends, what our proxy's cores pass on is, to a strict
//! reader that shares nothing with ours, the same number of messages with the same methods,
//! targets, statuses and bodies, whole or not at all, and nothing is left over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule_fuzz::two_hops;

fuzz_target!(|data: &[u8]| {
    two_hops(data, data.len());
    two_hops(data, 1 + data.len() % 7);
});
