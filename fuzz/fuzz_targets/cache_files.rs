//! Invariant: no bytes in the files of a cache directory, a head or the journal of invalidations, panic; and what is accepted
//! has the same meaning when it is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::cache::fuzzing::read_files;

fuzz_target!(|data: &[u8]| {
    read_files(data);
});
