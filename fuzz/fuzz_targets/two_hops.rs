//! Invariant: for any bytes of a client or a server, a strict and independent reference reads from the
//! output of a proxy made of the cores the same number of messages with the same methods, targets, statuses
//! and bodies, complete or not at all, and no bytes are left over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule_fuzz::two_hops;

fuzz_target!(|data: &[u8]| {
    two_hops(data, data.len());
    two_hops(data, 1 + data.len() % 7);
});
