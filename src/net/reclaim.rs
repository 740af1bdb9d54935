//! Gives memory that a burst of large buffers has left back to the system.
//!
//! glibc keeps what is freed in its arenas, and returns only the free end of each: after a burst of slow
//! readers one small allocation behind hundreds of megabytes of freed buffers keeps them all. `malloc_trim`
//! returns the free pages between allocations too. It is called when much has been freed, and changes no
//! setting of the allocator.

use std::{
    io,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::blocking_pool::{BlockingPool, Job};

/// The least fall of the memory in use that is followed by a trim: 32 MiB. Less is soon used again.
const LEAST_FALL: u64 = 32 << 20;

/// How long a trim waits, 1 s, so that it follows the end of a burst, and not each response of it.
const DELAY: Duration = Duration::from_secs(1);

/// The most memory in use that was seen since the last trim.
static HIGH: AtomicU64 = AtomicU64::new(0);

/// A trim is submitted and has not begun.
static IS_PENDING: AtomicBool = AtomicBool::new(false);

/// To be called whenever a buffer is freed, with the bytes that all buffers use. After a large fall it has
/// another thread return free memory to the system. Never panics.
pub(crate) fn after_free(in_use: u64) {
    static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
    let high = HIGH.fetch_max(in_use, Relaxed);
    if high.saturating_sub(in_use) >= LEAST_FALL && !IS_PENDING.swap(true, Relaxed) {
        POOL.run(Box::new(Trim));
    }
}

struct Trim;

impl Job for Trim {
    fn is_wanted(&mut self) -> bool {
        true
    }

    fn run(self: Box<Self>) {
        thread::sleep(DELAY);
        HIGH.store(0, Relaxed);
        IS_PENDING.store(false, Relaxed);
        trim();
    }

    fn fail(self: Box<Self>, _: &io::Error) {
        IS_PENDING.store(false, Relaxed); // the next one tries again
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "malloc_trim(3) has no safe form")]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: it takes a number, locks the allocator itself, and touches no memory that is in use. With another
    // allocator than glibc's it finds nothing to do.
    unsafe { malloc_trim(0) };
}

/// Other allocators return memory by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
