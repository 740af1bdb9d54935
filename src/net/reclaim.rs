//! Returns freed memory to the system after a burst of large buffers.
//!
//! glibc keeps freed memory in its arenas, and returns only the free end of each: after a burst of slow
//! readers one small allocation behind hundreds of megabytes of freed buffers keeps them all. `malloc_trim`
//! also returns the free pages between allocations. It is called when much memory has been freed, and changes
//! no setting of the allocator.

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

/// The minimum fall of the memory in use that triggers a trim, 32 MiB. Less is soon used again.
pub(crate) const MIN_FALL: u64 = 32 << 20;

/// The delay of a trim, 1 s, so that it follows the end of a burst and not each of its responses.
const DELAY: Duration = Duration::from_secs(1);

/// The maximum of the memory in use since the last trim, in bytes.
static PEAK: AtomicU64 = AtomicU64::new(0);

/// Whether a trim is submitted and has not begun.
static IS_PENDING: AtomicBool = AtomicBool::new(false);

/// Schedules a trim on another thread after a large fall of the memory in use. Must be called whenever a buffer
/// is freed, with the bytes that all buffers use. Never panics.
pub(crate) fn after_free(in_use: u64) {
    static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
    let peak = PEAK.fetch_max(in_use, Relaxed);
    if peak.saturating_sub(in_use) >= MIN_FALL && !IS_PENDING.swap(true, Relaxed) {
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
        PEAK.store(0, Relaxed);
        IS_PENDING.store(false, Relaxed);
        trim();
    }

    fn fail(self: Box<Self>, _: &io::Error) {
        IS_PENDING.store(false, Relaxed); // the next call tries again
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "malloc_trim(3) has no safe form")]
fn trim() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: it takes a number, locks the allocator itself, and touches no memory that is in use. With an
    // allocator other than glibc's it has no effect.
    unsafe { malloc_trim(0) };
}

/// Other allocators return memory by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
