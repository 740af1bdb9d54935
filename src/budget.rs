//! A limit on the memory and disk of all buffers together: [`Budget`].
//!
//! ```
//! use vestibule::Budget;
//!
//! let budget = Budget::builder().soft_limit(1000).hard_limit(2000).build();
//! let mut lease = budget.memory_lease();
//! assert!(lease.try_set(1500).is_ok());
//! assert!(lease.try_set(2500).is_err());
//! assert_eq!(budget.usage().memory, 1500);
//! drop(lease);
//! assert_eq!(budget.usage().memory, 0);
//! ```
//!
//! # Metrics
//!
//! With the feature `metrics` these are recorded by the crate of that name. They are sums over all budgets
//! of the process and have no labels.
//!
//! | name | type | unit | what |
//! |---|---|---|---|
//! | `vestibule_budget_memory_bytes` | gauge | bytes | memory in use |
//! | `vestibule_budget_disk_bytes` | gauge | bytes | disk in use |
//! | `vestibule_budget_refused_total` | counter | requests | refused because memory or disk was exhausted |
//! | `vestibule_budget_spilled_total` | counter | bodies | written to disk |

#[cfg_attr(not(feature = "metrics"), path = "budget/no_gauges.rs")]
mod gauges;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;

use crate::sync::AtomicU64;

/// The default memory above which buffers go to disk, 256 MiB.
pub const SOFT_LIMIT: u64 = 256 << 20;

/// The default memory at which new requests are refused, 512 MiB. The memory between the two limits is for
/// batches that are being written to disk. Above it, a body in progress has one piece in memory.
pub const HARD_LIMIT: u64 = 512 << 20;

/// The default limit on disk space, 4 GiB.
pub const MAX_DISK: u64 = 4 << 30;

/// A limit on the memory and disk of all buffers together. A handle that is cheap to clone. Servers and
/// buffers without a budget of their own share that of the process.
///
/// Each buffer has its own limits; the budget bounds the sum over all buffers. With memory above the *soft*
/// limit buffers spill to disk at once; at the *hard* limit new requests are refused with 503. Buffered heads
/// and bodies are counted, the application's memory is not.
///
/// ```
/// use vestibule::Budget;
///
/// let budget = Budget::builder().soft_limit(64 << 20).hard_limit(128 << 20).build();
/// let mut lease = budget.memory_lease();
/// lease.try_set(1000).unwrap();
/// assert_eq!(budget.usage().memory, 1000);
/// drop(lease);
/// assert_eq!(budget.usage().memory, 0);
/// ```
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    memory: Pool,
    soft: u64,
    disk: Pool,
    spill_dir: PathBuf,
    refused: AtomicU64,
    spilled: AtomicU64,
}

/// A resource with a limit, of which leases take shares.
struct Pool {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

/// Options of a [`Budget`]; created by [`Budget::builder`].
#[derive(Debug)]
#[must_use = "a budget is made by build()"]
pub struct BudgetBuilder {
    soft: u64,
    hard: u64,
    disk: u64,
    spill_dir: PathBuf,
}

impl BudgetBuilder {
    /// Sets the bytes of memory above which buffers go to disk. Defaults to [`SOFT_LIMIT`].
    pub fn soft_limit(mut self, bytes: u64) -> Self {
        self.soft = bytes;
        self
    }

    /// Sets the bytes of memory at which new requests are refused. Defaults to [`HARD_LIMIT`].
    pub fn hard_limit(mut self, bytes: u64) -> Self {
        self.hard = bytes;
        self
    }

    /// Sets the limit on disk space in bytes, which is never exceeded. Defaults to [`MAX_DISK`].
    pub fn max_disk(mut self, bytes: u64) -> Self {
        self.disk = bytes;
        self
    }

    /// Sets the directory of temporary files, which are unnamed. Defaults to `$TMPDIR`, or `/var/tmp`, since
    /// `/tmp` is in memory on many systems.
    pub fn spill_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.spill_dir = path.into();
        self
    }

    /// Creates the budget.
    pub fn build(self) -> Budget {
        let Self { soft, hard, disk, spill_dir } = self;
        Budget(Arc::new(Inner {
            memory: Pool::new(hard),
            soft: soft.min(hard),
            disk: Pool::new(disk),
            spill_dir,
            refused: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
        }))
    }
}

/// A snapshot of the usage of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of memory in use.
    pub memory: u64,
    /// The maximum of `memory` so far.
    pub memory_peak: u64,
    /// Bytes of disk in use.
    pub disk: u64,
    /// The maximum of `disk` so far.
    pub disk_peak: u64,
    /// Requests that were refused because memory or disk was exhausted.
    pub refused: u64,
    /// Bodies that were written to disk.
    pub spilled: u64,
}

/// The memory or disk of a budget is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget for buffers is exhausted")]
pub struct BudgetExhausted;

impl Budget {
    /// Returns whether `other` is a handle of the same budget.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns a builder with the default limits.
    pub fn builder() -> BudgetBuilder {
        let spill_dir = env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        BudgetBuilder { soft: SOFT_LIMIT, hard: HARD_LIMIT, disk: MAX_DISK, spill_dir }
    }

    /// Returns a lease of 0 bytes of memory.
    pub fn memory_lease(&self) -> Lease {
        Lease { budget: self.clone(), resource: Resource::Memory, bytes: 0 }
    }

    /// Returns a lease of 0 bytes of disk.
    pub fn disk_lease(&self) -> Lease {
        Lease { budget: self.clone(), resource: Resource::Disk, bytes: 0 }
    }

    /// Returns whether memory is above the soft limit, so that buffers should go to disk.
    pub fn is_above_soft_limit(&self) -> bool {
        self.0.memory.used.load(Ordering::Relaxed) >= self.0.soft
    }

    /// Returns whether memory is at the hard limit, so that new requests should be refused.
    pub fn is_exhausted(&self) -> bool {
        self.0.memory.used.load(Ordering::Relaxed) >= self.0.memory.limit
    }

    /// Returns the current usage.
    pub fn usage(&self) -> Usage {
        let Inner { memory, disk, refused, spilled, .. } = &*self.0;
        Usage {
            memory: memory.used.load(Ordering::Relaxed),
            memory_peak: memory.peak.load(Ordering::Relaxed),
            disk: disk.used.load(Ordering::Relaxed),
            disk_peak: disk.peak.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            spilled: spilled.load(Ordering::Relaxed),
        }
    }

    /// Returns the directory of temporary files.
    pub fn spill_dir(&self) -> &Path {
        &self.0.spill_dir
    }

    /// Counts a refused request in [`Usage::refused`] and the metrics.
    pub fn count_refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        gauges::count_refused();
    }

    /// Counts a body that went to disk in [`Usage::spilled`] and the metrics.
    pub fn count_spilled(&self) {
        self.0.spilled.fetch_add(1, Ordering::Relaxed);
        gauges::count_spilled();
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("soft_limit", &self.0.soft)
            .field("hard_limit", &self.0.memory.limit)
            .field("disk_limit", &self.0.disk.limit)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Pool {
    fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// Takes `more`, if the sum stays within `limit`.
    fn try_take(&self, more: u64, limit: u64) -> Result<(), BudgetExhausted> {
        let add = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        self.peak.fetch_max(before.map_err(|_| BudgetExhausted)? + more, Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Memory,
    Disk,
}

/// A share of the memory or disk of a [`Budget`], released when dropped.
pub struct Lease {
    budget: Budget,
    resource: Resource,
    bytes: u64,
}

impl Lease {
    /// Returns the leased bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the lease to `bytes`.
    ///
    /// # Errors
    /// [`BudgetExhausted`] if it would exceed the limit; the lease is unchanged then.
    pub fn try_set(&mut self, bytes: u64) -> Result<(), BudgetExhausted> {
        self.change(bytes, self.pool().limit)
    }

    /// Changes the lease to `bytes` regardless of the limit, for bytes that exist already and cannot be
    /// refused.
    pub fn set(&mut self, bytes: u64) {
        self.change(bytes, u64::MAX).expect("the sum of all leases is less than 2^64");
    }

    /// Moves the leased bytes to a new lease and leaves 0.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let bytes = std::mem::take(&mut self.bytes);
        Self { budget: self.budget.clone(), resource: self.resource, bytes }
    }

    fn change(&mut self, bytes: u64, limit: u64) -> Result<(), BudgetExhausted> {
        match bytes.checked_sub(self.bytes) {
            Some(0) => return Ok(()),
            Some(more) => self.pool().try_take(more, limit)?,
            None => {
                self.pool().used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            }
        }
        gauges::change(self.resource, self.bytes, bytes);
        self.bytes = bytes;
        Ok(())
    }

    fn pool(&self) -> &Pool {
        match self.resource {
            Resource::Memory => &self.budget.0.memory,
            Resource::Disk => &self.budget.0.disk,
        }
    }

    /// Attaches the lease to `bytes`: it is released when their last clone is dropped.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        struct Held(Bytes, #[expect(dead_code, reason = "given back with the bytes")] Lease);
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if self.bytes == 0 { bytes } else { Bytes::from_owner(Held(bytes, self)) }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("resource", &self.resource)
            .field("bytes", &self.bytes)
            .finish()
    }
}

#[cfg(test)]
mod tests;
