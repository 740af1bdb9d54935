//! `Budget`: the memory and the disk that all buffers of a front may take together.
//!
//! # Metrics
//!
//! With the feature `metrics` these are told to the recorder of the crate of that name. They are sums
//! over all budgets of the process and have no labels.
//!
//! | name | type | unit | what |
//! |---|---|---|---|
//! | `vestibule_budget_memory_bytes` | gauge | bytes | memory that is taken now |
//! | `vestibule_budget_disk_bytes` | gauge | bytes | disk that is taken now |
//! | `vestibule_budget_refused_total` | counter | requests | refused for want of memory or disk |
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

/// Above so much memory buffers go to disk, unless set otherwise: 256 MiB.
pub const SOFT_LIMIT: u64 = 256 << 20;

/// At so much memory nothing new begins, unless set otherwise: 512 MiB. Between the two there is room
/// for what is on its way to the disk. Above it, a body that is under way has one piece in memory.
pub const HARD_LIMIT: u64 = 512 << 20;

/// So much disk may be taken, unless set otherwise: 4 GiB.
pub const MAX_DISK: u64 = 4 << 30;

/// What the buffers of a process may take together: one handle for all of them, cheap to clone.
/// Servers and buffers that are given none share one, the process's own.
///
/// Each buffer has bounds of its own; this is the bound on their number times their size. Memory
/// above the *soft* bound makes buffers spill to disk at once; at the *hard* bound the newest request
/// is refused with 503. What is counted is bodies and heads that wait for somebody, not what the
/// application makes.
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
    memory: Store,
    soft: u64,
    disk: Store,
    spill_dir: PathBuf,
    refused: AtomicU64,
    spilled: AtomicU64,
}

/// A quantity that is handed out and comes back.
struct Store {
    most: u64,
    used: AtomicU64,
    peak: AtomicU64,
}

/// Settings for a [`Budget`]; made by [`Budget::builder`].
#[derive(Debug)]
#[must_use = "it makes a budget with build()"]
pub struct BudgetBuilder {
    soft: u64,
    hard: u64,
    disk: u64,
    spill_dir: PathBuf,
}

impl BudgetBuilder {
    /// Bytes of memory above which buffers go to disk. Default [`SOFT_LIMIT`].
    pub fn soft_limit(mut self, bytes: u64) -> Self {
        self.soft = bytes;
        self
    }

    /// Bytes of memory at which nothing new begins. Default [`HARD_LIMIT`].
    pub fn hard_limit(mut self, bytes: u64) -> Self {
        self.hard = bytes;
        self
    }

    /// Bytes of disk that are never passed. Default [`MAX_DISK`].
    pub fn max_disk(mut self, bytes: u64) -> Self {
        self.disk = bytes;
        self
    }

    /// The folder for temporary files, which never have a name in it. Default: `$TMPDIR`, or
    /// `/var/tmp`, since `/tmp` is memory on many systems.
    pub fn spill_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.spill_dir = path.into();
        self
    }

    /// The budget.
    pub fn build(self) -> Budget {
        let Self { soft, hard, disk, spill_dir } = self;
        Budget(Arc::new(Inner {
            memory: Store::new(hard),
            soft: soft.min(hard),
            disk: Store::new(disk),
            spill_dir,
            refused: AtomicU64::new(0),
            spilled: AtomicU64::new(0),
        }))
    }
}

/// How a budget stands, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of memory that are taken now.
    pub memory: u64,
    /// The most that were ever taken.
    pub memory_peak: u64,
    /// Bytes of disk that are taken now.
    pub disk: u64,
    /// The most that were ever taken.
    pub disk_peak: u64,
    /// Requests that were refused for want of memory or disk.
    pub refused: u64,
    /// Bodies that went to disk.
    pub spilled: u64,
}

/// The budget has no room for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget for buffers is spent")]
pub struct BudgetExhausted;

impl Budget {
    /// Whether `other` is a handle of the same budget.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A budget with the default bounds, to be changed.
    pub fn builder() -> BudgetBuilder {
        let spill_dir = env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        BudgetBuilder { soft: SOFT_LIMIT, hard: HARD_LIMIT, disk: MAX_DISK, spill_dir }
    }

    /// A share of the memory; nothing at first.
    pub fn memory_lease(&self) -> Lease {
        Lease { budget: self.clone(), of: Of::Memory, bytes: 0 }
    }

    /// A share of the disk; nothing at first.
    pub fn disk_lease(&self) -> Lease {
        Lease { budget: self.clone(), of: Of::Disk, bytes: 0 }
    }

    /// Is memory above the soft bound? Then what can go to disk should.
    pub fn is_above_soft_limit(&self) -> bool {
        self.0.memory.used.load(Ordering::Relaxed) >= self.0.soft
    }

    /// Is all memory taken? Then nothing new should begin.
    pub fn is_exhausted(&self) -> bool {
        self.0.memory.used.load(Ordering::Relaxed) >= self.0.memory.most
    }

    /// How it stands.
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

    /// Where temporary files are made.
    pub fn spill_dir(&self) -> &Path {
        &self.0.spill_dir
    }

    /// A request was refused, for the figures.
    pub fn count_refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        gauges::refused();
    }

    /// A body went to disk, for the figures.
    pub fn count_spilled(&self) {
        self.0.spilled.fetch_add(1, Ordering::Relaxed);
        gauges::spilled();
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Store {
    fn new(most: u64) -> Self {
        Self { most, used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// Takes `more`, if all together stays within `most`.
    fn take(&self, more: u64, most: u64) -> Result<(), BudgetExhausted> {
        let within = |used: u64| used.checked_add(more).filter(|sum| *sum <= most);
        let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        self.peak.fetch_max(before.map_err(|_| BudgetExhausted)? + more, Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Memory,
    Disk,
}

/// A share of a [`Budget`], given back when it is dropped.
pub struct Lease {
    budget: Budget,
    of: Of,
    bytes: u64,
}

impl Lease {
    /// How much it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it so much.
    ///
    /// # Errors
    /// [`BudgetExhausted`] if it would grow beyond the bound; it is then as it was.
    pub fn try_set(&mut self, bytes: u64) -> Result<(), BudgetExhausted> {
        self.change(bytes, self.store().most)
    }

    /// Makes it so much, whatever the bound: for what is there already, and cannot be refused.
    pub fn set(&mut self, bytes: u64) {
        self.change(bytes, u64::MAX).expect("all together is less than 2^64");
    }

    /// This share, which is nothing then.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let bytes = std::mem::take(&mut self.bytes);
        Self { budget: self.budget.clone(), of: self.of, bytes }
    }

    fn change(&mut self, bytes: u64, most: u64) -> Result<(), BudgetExhausted> {
        match bytes.checked_sub(self.bytes) {
            Some(0) => return Ok(()),
            Some(more) => self.store().take(more, most)?,
            None => {
                self.store().used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            }
        }
        gauges::changed(self.of, self.bytes, bytes);
        self.bytes = bytes;
        Ok(())
    }

    fn store(&self) -> &Store {
        match self.of {
            Of::Memory => &self.budget.0.memory,
            Of::Disk => &self.budget.0.disk,
        }
    }

    /// The same bytes, which take this share for as long as any clone of them lives.
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
        f.debug_struct("Lease").field("of", &self.of).field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests;
