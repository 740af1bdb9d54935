//! `PoolConfig`: the options of the connections to a server.

use std::time::Duration;

use super::idle_limit::IdleLimit;
use crate::net::KeepAlive;

/// Default timeout of an idle connection: 60 s, less than the timeouts of servers (nginx: 75 s), so that a request is
/// rarely sent on a connection that the server is closing.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Default idle time after which a connection is not used for a request that could not be sent again: 5 s.
pub const NON_IDEMPOTENT_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Default maximum age of a reused connection: 1 h, after which a changed name is resolved again.
pub const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Default timeout of connecting: 5 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Default maximum number of requests that wait for a connection to one server: 1,024.
pub const MAX_QUEUED: usize = 1024;

/// Default time that a request may wait for a connection: 5 s.
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
///
/// Two limits can be changed while a server is in use: that of its concurrent requests, and so of the connections that they
/// use over HTTP/1.1, by [`EndpointHandle::set_limits`](super::super::EndpointHandle::set_limits); and that of idle
/// connections, by [`IdleLimit::set_max`]. For other options, replace the endpoint by one with the same key. The requests of
/// the old one continue:
///
/// ```
/// use vestibule::upstream::{Endpoint, PoolConfig, Remote, ServerAddress, Upstream};
///
/// let api = Upstream::new(["127.0.0.1:3000"])?;
/// let (server, pool): (ServerAddress, _) = ("127.0.0.1:3000".parse()?, PoolConfig::new().max_connections(8));
/// let remote = Remote::builder(server).pool(pool).build();
/// let old = api.balance().insert(Endpoint::from(remote));
/// assert!(old.is_some());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PoolConfig {
    pub(super) keep_idle: usize,
    pub(super) idle_limit: IdleLimit,
    pub(in crate::upstream) idle_timeout: Duration,
    pub(super) non_idempotent_idle_timeout: Duration,
    pub(in crate::upstream) max_age: Duration,
    pub(in crate::upstream) max_requests: u64,
    pub(in crate::upstream) max_connections: Option<usize>,
    pub(in crate::upstream) max_queued: usize,
    pub(in crate::upstream) queue_timeout: Duration,
    pub(in crate::upstream) connect_timeout: Duration,
    pub(in crate::upstream) keep_alive: KeepAlive,
}

impl PoolConfig {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            keep_idle: usize::MAX,
            idle_limit: IdleLimit::of_process(),
            idle_timeout: IDLE_TIMEOUT,
            non_idempotent_idle_timeout: NON_IDEMPOTENT_IDLE_TIMEOUT,
            max_age: MAX_AGE,
            max_requests: u64::MAX,
            max_connections: None,
            max_queued: MAX_QUEUED,
            queue_timeout: QUEUE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: KeepAlive::new(),
        }
    }

    /// Sets the maximum number of idle connections to a server, for each runtime. Defaults to no maximum except the
    /// [`idle_limit`](Self::idle_limit), and to 0 for a [`FastCgi`](super::super::FastCgi).
    ///
    /// Without a maximum, as many are kept as were in use at the same time within the idle timeout.
    ///
    /// An idle connection occupies a worker of php-fpm. While the sum over all runtimes is below `pm.max_children`,
    /// requests save the time of connecting; otherwise requests of other runtimes wait for workers that are idle.
    #[must_use]
    pub fn keep_idle(mut self, n: usize) -> Self {
        self.keep_idle = n;
        self
    }

    /// Sets the common limit of idle connections to all servers that use it. Defaults to [`IdleLimit::of_process`].
    #[must_use]
    pub fn idle_limit(mut self, limit: IdleLimit) -> Self {
        self.idle_limit = limit;
        self
    }

    /// Sets the time after which an idle connection is closed. Defaults to [`IDLE_TIMEOUT`].
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets the idle time after which a connection over TCP is not used for a request that could not be sent again: one
    /// that is not idempotent, such as POST, or whose body is a stream. The connection is replaced by a new one.
    /// Defaults to [`NON_IDEMPOTENT_IDLE_TIMEOUT`].
    ///
    /// A server may be gone without a packet that says so, for example after a network failure in which it was
    /// restarted. A request on such a connection fails, and only an idempotent one may be sent again, if its body is
    /// kept: not even a reset before the first acknowledgement shows that the server did not read the request, since a
    /// server that closes at once acknowledges nothing, and acknowledgements can be lost.
    ///
    /// The risk remains for a connection that has been idle for less: if its server has been restarted, a request that is
    /// not idempotent is answered with 502, or with 504 while the network is down. With [`Duration::ZERO`] each such
    /// request gets a new connection.
    ///
    /// It has no effect over HTTP/2.
    #[must_use]
    pub fn non_idempotent_idle_timeout(mut self, timeout: Duration) -> Self {
        self.non_idempotent_idle_timeout = timeout;
        self
    }

    /// Sets the age after which a connection is not reused. Defaults to [`MAX_AGE`].
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Sets the maximum number of requests on a connection, at least 1. Defaults to no maximum. Use it for a server
    /// that closes connections after a number of requests, which may happen while a request is being sent.
    #[must_use]
    pub fn max_requests(mut self, n: u64) -> Self {
        self.max_requests = n.max(1);
        self
    }

    /// Sets the maximum number of connections to a server, at least 1, including idle ones and those of all runtimes.
    /// Defaults to no maximum.
    ///
    /// Requests without a connection wait, in the order of arrival: see [`max_queued`](Self::max_queued) and
    /// [`queue_timeout`](Self::queue_timeout). After that they fail with
    /// [`AttemptErrorKind::Busy`](super::super::AttemptErrorKind::Busy) and
    /// [`PoolExhausted`](super::super::PoolExhausted): a retry sends the request to another server, and otherwise it
    /// is answered with 503. To open a connection in one runtime, an idle one of another may be closed.
    ///
    /// Over HTTP/2 the bound is for each runtime, whose requests share its connections, and a request waits only if
    /// the server allows no more requests on them. The order of arrival does not hold there: a new request may take a
    /// freed stream before one that waits. A connection beyond its [`max_age`](Self::max_age) or
    /// [`max_requests`](Self::max_requests) does not count while its last requests end, which may take hours.
    #[must_use]
    pub fn max_connections(mut self, n: usize) -> Self {
        self.max_connections = Some(n.max(1));
        self
    }

    /// Sets the maximum number of requests that wait for a connection to a server because
    /// [`max_connections`](Self::max_connections) are open. Defaults to [`MAX_QUEUED`].
    ///
    /// Over HTTP/2 the bound is for each runtime. A request that waits until the connection of another one is open, and the
    /// server's first SETTINGS have come, is not bounded by it: one connection serves many of them then.
    #[must_use]
    pub fn max_queued(mut self, n: usize) -> Self {
        self.max_queued = n;
        self
    }

    /// Sets how long a request may wait for a connection. Defaults to [`QUEUE_TIMEOUT`].
    ///
    /// Over HTTP/2 that includes the time in which other requests open connections. A connection that is being opened at
    /// the timeout is awaited, up to the [`connect_timeout`](Self::connect_timeout), so that the request fails with its
    /// error if the server does not answer.
    #[must_use]
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// Sets the timeout of connecting. Defaults to [`CONNECT_TIMEOUT`].
    ///
    /// Over HTTP/2 it is also that of the wait for the SETTINGS of a connection that another request has opened.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the options of TCP keep-alive. Defaults to [`KeepAlive::new`]: a connection to a server whose host has vanished
    /// fails after 30 s, whether it is idle or awaits a response.
    ///
    /// That does not hold while the server has not acknowledged sent data, for which TCP sends no probes. Over HTTP/2 the
    /// [`user_timeout`](KeepAlive::user_timeout), 30 s, fails the connection. Over HTTP/1.1 there is none by default: the
    /// timeouts of the request end it, or else the kernel after about 15 minutes.
    #[must_use]
    pub fn keep_alive(mut self, options: KeepAlive) -> Self {
        self.keep_alive = options;
        self
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self::new()
    }
}
