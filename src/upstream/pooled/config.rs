//! `PoolConfig`: the options of the connections to a server.

use std::time::Duration;

use super::idle_limit::IdleLimit;

/// The default timeout of an idle connection, 60 s: less than the timeouts of servers (nginx: 75 s), so that a
/// request is rarely sent on a connection that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection is reused, unless set otherwise: within an hour a changed name is resolved again.
pub const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// The default timeout of connecting, 5 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many requests may wait for a connection to one server, unless set otherwise.
pub const MAX_QUEUED: usize = 1024;

/// How long a request may wait for a connection, unless set otherwise.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of the connections to one server: of a [`Remote`](super::super::Remote), a
/// [`FastCgi`](super::super::FastCgi), or each server of an [`Upstream`](super::super::Upstream).
///
/// ```
/// use std::time::Duration;
/// use vestibule::upstream::{PoolConfig, Upstream};
///
/// let pool = PoolConfig::new().max_connections(32).connect_timeout(Duration::from_secs(1));
/// let api = Upstream::builder(["127.0.0.1:3000"]).pool(pool).build()?;
/// # drop(api);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PoolConfig {
    pub(super) keep_idle: usize,
    pub(super) idle_limit: IdleLimit,
    pub(in crate::upstream) idle_timeout: Duration,
    pub(super) max_age: Duration,
    pub(super) max_requests: u64,
    pub(super) max_connections: Option<usize>,
    pub(super) max_queued: usize,
    pub(super) queue_timeout: Duration,
    pub(in crate::upstream) connect_timeout: Duration,
}

impl PoolConfig {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            keep_idle: usize::MAX,
            idle_limit: IdleLimit::of_process(),
            idle_timeout: IDLE_TIMEOUT,
            max_age: MAX_AGE,
            max_requests: u64::MAX,
            max_connections: None,
            max_queued: MAX_QUEUED,
            queue_timeout: QUEUE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Keeps at most `n` idle connections to a server, for each runtime. Defaults to no bound but the
    /// [`idle_limit`](Self::idle_limit), and to 0 for a [`FastCgi`](super::super::FastCgi).
    ///
    /// Without a bound, as many are kept as were in use at once within the idle timeout.
    ///
    /// An idle connection occupies a worker of php-fpm. If the sum over all runtimes is below `pm.max_children`,
    /// requests save the time of connecting; otherwise requests of other runtimes wait for workers that are idle.
    #[must_use]
    pub fn keep_idle(mut self, n: usize) -> Self {
        self.keep_idle = n;
        self
    }

    /// Sets the bound on idle connections to all servers that share it. Defaults to
    /// [`IdleLimit::of_process`].
    #[must_use]
    pub fn idle_limit(mut self, limit: IdleLimit) -> Self {
        self.idle_limit = limit;
        self
    }

    /// Closes a connection that has been idle for `timeout`. Defaults to [`IDLE_TIMEOUT`].
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Begins no exchange on a connection that is older than `age`. Defaults to [`MAX_AGE`].
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Closes a connection after `n` requests, at least one. Defaults to no bound. A server that closes after
    /// as many itself does so while a request is on its way.
    #[must_use]
    pub fn max_requests(mut self, n: u64) -> Self {
        self.max_requests = n.max(1);
        self
    }

    /// Opens at most `n` connections to a server, at least one, idle ones and those of all runtimes included.
    /// Defaults to no bound.
    ///
    /// A request for which none is left waits, in order of arrival: see [`max_queued`](Self::max_queued)
    /// and [`queue_timeout`](Self::queue_timeout). Otherwise it fails with
    /// [`AttemptErrorKind::Busy`](super::super::AttemptErrorKind::Busy) and
    /// [`PoolExhausted`](super::super::PoolExhausted): a retry sends it to another server, and without
    /// one it is answered with 503. To make a connection in one runtime, an idle one of another is closed.
    #[must_use]
    pub fn max_connections(mut self, n: usize) -> Self {
        self.max_connections = Some(n.max(1));
        self
    }

    /// Lets at most `n` requests wait for a connection to a server. Defaults to [`MAX_QUEUED`].
    #[must_use]
    pub fn max_queued(mut self, n: usize) -> Self {
        self.max_queued = n;
        self
    }

    /// Sets how long a request may wait for a connection. Defaults to [`QUEUE_TIMEOUT`].
    #[must_use]
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
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
