//! `PoolConfig`: the options of the connections to a server.

use std::time::Duration;

/// Idle connections to one server that a runtime keeps, unless set otherwise: as many as it has in use
/// under heavy load. Fewer would be closed and made again all the time; what is more than the load
/// needs is closed after [`IDLE_TIMEOUT`].
pub const KEEP_IDLE: usize = 512;

/// How long a connection may be idle, unless set otherwise: less than servers' own limits (nginx:
/// 75 s), so that a request seldom meets a connection that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long connecting may take, unless set otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of the connections to one server: of a [`Remote`](super::super::Remote), a
/// [`FastCgi`](super::super::FastCgi), or each server of an [`Upstream`](super::super::Upstream).
///
/// ```
/// use std::time::Duration;
/// use vestibule::upstream::{PoolConfig, Upstream};
///
/// let pool = PoolConfig::new().keep_idle(32).connect_timeout(Duration::from_secs(1));
/// let api = Upstream::builder(["127.0.0.1:3000"]).pool(pool).build()?;
/// # drop(api);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PoolConfig {
    pub(in crate::upstream) keep_idle: usize,
    pub(in crate::upstream) idle_timeout: Duration,
    pub(in crate::upstream) connect_timeout: Duration,
}

impl PoolConfig {
    /// Creates the default options.
    pub fn new() -> Self {
        Self { keep_idle: KEEP_IDLE, idle_timeout: IDLE_TIMEOUT, connect_timeout: CONNECT_TIMEOUT }
    }

    /// Keeps at most `n` idle connections, for each runtime. Defaults to [`KEEP_IDLE`], and to 0 for a
    /// [`FastCgi`](super::super::FastCgi).
    ///
    /// An idle connection keeps a worker of php-fpm, which does nothing else meanwhile. With the sum over
    /// all runtimes below `pm.max_children` a request saves a connection; with as many, requests of
    /// other runtimes wait for a worker that is idle.
    #[must_use]
    pub fn keep_idle(mut self, n: usize) -> Self {
        self.keep_idle = n;
        self
    }

    /// Closes a connection that has been idle for `timeout`. Defaults to [`IDLE_TIMEOUT`].
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how long connecting may take. Defaults to [`CONNECT_TIMEOUT`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self::new()
    }
}
