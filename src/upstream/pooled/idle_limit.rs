//! `IdleLimit`: limits the idle connections to all servers together.

use std::{
    fmt,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Instant,
};

/// Default limit of idle connections to all servers together: 8,192, the number of connections that a server accepts
/// by default, so that each client may use its own connection.
pub const TOTAL_IDLE: usize = 8192;

/// Number of pools that are compared for the connection that has been idle longest.
const CHOICES: usize = 4;

static SHARED: LazyLock<IdleLimit> = LazyLock::new(|| IdleLimit::new(TOTAL_IDLE));

/// A limit of idle connections that several servers share. Cheap to clone: clones are the same limit.
///
/// Below the limit, a server has as many idle connections as were in use at the same time within the idle timeout:
/// the connection that was used last is reused first, so that the others become old and are closed. At the limit,
/// connections that have been idle for long are closed first, of any server: of four pools in rotation, the one with
/// the oldest connection closes it. [`set_max`](Self::set_max) changes the limit while servers use it.
///
/// ```
/// use vestibule::upstream::{IdleLimit, PoolConfig, Upstream};
///
/// let limit = IdleLimit::new(1000);
/// let pool = PoolConfig::new().idle_limit(limit.clone());
/// let [api, site] = [["10.0.0.1:80"], ["10.0.0.2:80"]]
///     .map(|servers| Upstream::builder(servers).pool(pool.clone()).build());
/// assert_eq!(limit.idle(), 0);
/// # drop((api?, site?));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct IdleLimit(Arc<Shared>);

struct Shared {
    max: AtomicUsize,
    idle: AtomicUsize,
    pools: Mutex<Pools>,
}

#[derive(Default)]
struct Pools {
    list: Vec<Weak<dyn Evict>>,
    /// The index of the next pool to compare.
    next: usize,
}

/// A pool whose idle connections count towards the limit.
pub(super) trait Evict: Send + Sync {
    /// Returns the time since which its oldest connection has been idle.
    fn oldest(&self) -> Option<Instant>;

    /// Closes that connection. Returns whether there was one.
    fn evict_oldest(&self) -> bool;
}

impl IdleLimit {
    /// Creates a limit of `max` connections. With 0, none is kept.
    pub fn new(max: usize) -> Self {
        let (max, idle, pools) = (max.into(), AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Shared { max, idle, pools }))
    }

    /// Returns the limit of the process, [`TOTAL_IDLE`], which all servers without another limit share.
    pub fn of_process() -> Self {
        SHARED.clone()
    }

    /// Returns the current number of idle connections.
    pub fn idle(&self) -> usize {
        self.0.idle.load(Relaxed)
    }

    /// Returns the maximum number of idle connections.
    pub fn max(&self) -> usize {
        self.0.max.load(Relaxed)
    }

    /// Changes the maximum number of idle connections. Those beyond a lower one are closed at once: of each server in turn,
    /// the one that has been idle longest.
    ///
    /// ```
    /// use vestibule::upstream::IdleLimit;
    ///
    /// let limit = IdleLimit::new(1000);
    /// limit.set_max(100);
    /// assert_eq!(limit.max(), 100);
    /// ```
    pub fn set_max(&self, max: usize) {
        // Sequentially consistent, like `count_one`: either that sees the new maximum, or its connection is seen below.
        self.0.max.store(max, SeqCst);
        let pools: Vec<_> = self.pools().list.iter().filter_map(Weak::upgrade).collect();
        let is_over = || self.0.idle.load(SeqCst) > self.max();
        while is_over() {
            let mut has_closed = false;
            for pool in &pools {
                has_closed |= is_over() && pool.evict_oldest();
            }
            if !has_closed {
                return; // other threads use or close them
            }
        }
    }

    /// Adds a pool, which is removed when it is dropped.
    pub(super) fn add_pool(&self, pool: Weak<dyn Evict>) {
        let list = &mut self.pools().list;
        if list.len() == list.capacity() {
            list.retain(|pool| pool.strong_count() > 0);
        }
        list.push(pool);
    }

    /// Counts one more idle connection. Returns whether the limit is exceeded: then call [`evict`](Self::evict).
    pub(super) fn count_one(&self) -> bool {
        self.0.idle.fetch_add(1, SeqCst) >= self.0.max.load(SeqCst)
    }

    /// Counts `n` idle connections less.
    pub(super) fn discount(&self, n: usize) {
        if n > 0 {
            self.0.idle.fetch_sub(n, Relaxed);
        }
    }

    /// Closes a connection that has been idle for long.
    #[cold]
    pub(super) fn evict(&self, own: &dyn Evict) {
        let mut oldest: Option<(Instant, Arc<dyn Evict>)> = None;
        for _ in 0..CHOICES {
            let Some(pool) = self.next_pool() else { break };
            let Some(since) = pool.oldest() else { continue };
            if oldest.as_ref().is_none_or(|(other, _)| since < *other) {
                oldest = Some((since, pool));
            }
        }
        let own_since = own.oldest();
        if let Some((since, pool)) = oldest
            && own_since.is_none_or(|own| since < own)
            && pool.evict_oldest()
        {
            return;
        }
        own.evict_oldest();
    }

    fn next_pool(&self) -> Option<Arc<dyn Evict>> {
        let Pools { list, next } = &mut *self.pools();
        while !list.is_empty() {
            if *next >= list.len() {
                *next = 0;
            }
            match list[*next].upgrade() {
                Some(pool) => {
                    *next += 1;
                    return Some(pool);
                }
                None => drop(list.swap_remove(*next)),
            }
        }
        None
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, Pools> {
        // Nothing panics while the lock is held.
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for IdleLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleLimit")
            .field("max", &self.max())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}
