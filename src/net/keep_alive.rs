//! `KeepAlive`: how the kernel finds out that the peer of a TCP connection has vanished.

use std::{os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Default time without a packet from the peer before the first probe: 15 s.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(15);

/// Default time between two probes: 5 s.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Default number of probes without an answer after which a connection fails: 3.
pub const KEEP_ALIVE_PROBES: u32 = 3;

/// The largest times and number of probes that Linux accepts (tcp(7)).
const MAX_SECS: u64 = i16::MAX as u64;
const MAX_PROBES: u32 = i8::MAX as u32;
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// The time after which Linux stops to repeat data that is not acknowledged, without a user timeout: `tcp_retries2` is 15
/// (tcp(7)).
const RETRANSMISSION_LIMIT: Duration = Duration::from_secs(924);

/// TCP keep-alive (RFC 9293 section 3.8.4): the kernel sends probes on a connection on which nothing arrives, and fails it
/// if they are not answered.
///
/// A host that loses its power or its network sends no packet that says so. Without probes, a connection to it stays
/// open until something is sent on it, and a request that awaits its response waits until its own timeout. By
/// default such a connection fails after 30 s: [`KEEP_ALIVE_IDLE`], and [`KEEP_ALIVE_PROBES`] times
/// [`KEEP_ALIVE_INTERVAL`]. The process of the server is not involved: a slow response does not fail a connection.
///
/// While sent data is not acknowledged, the kernel repeats the data and sends no probes. That ends after about 15
/// minutes, or after the [`user_timeout`](Self::user_timeout).
///
/// It has no effect on Unix sockets. Linux takes whole seconds from 1 to 32,767, and 1 to 127 probes: other values are
/// rounded up, or to the nearest of these.
///
/// ```
/// use std::time::Duration;
/// use vestibule::{net::KeepAlive, upstream::PoolConfig};
///
/// // A vanished server is recognized after 5 + 2 * 2 seconds.
/// let keep_alive = KeepAlive::new()
///     .idle(Duration::from_secs(5))
///     .interval(Duration::from_secs(2))
///     .probes(2);
/// let pool = PoolConfig::new().keep_alive(keep_alive);
/// # drop(pool);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    idle: Duration,
    interval: Duration,
    probes: u32,
    user_timeout: Option<Duration>,
}

impl KeepAlive {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            idle: KEEP_ALIVE_IDLE,
            interval: KEEP_ALIVE_INTERVAL,
            probes: KEEP_ALIVE_PROBES,
            user_timeout: None,
        }
    }

    /// Sets the time without a packet from the peer before the first probe (`TCP_KEEPIDLE`), in whole seconds, at least 1.
    /// Defaults to [`KEEP_ALIVE_IDLE`].
    #[must_use]
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = time;
        self
    }

    /// Sets the time between two probes (`TCP_KEEPINTVL`), in whole seconds, at least 1. Defaults to
    /// [`KEEP_ALIVE_INTERVAL`].
    #[must_use]
    pub fn interval(mut self, time: Duration) -> Self {
        self.interval = time;
        self
    }

    /// Sets the number of probes without an answer after which the connection fails (`TCP_KEEPCNT`). 0 sends no probes.
    /// Defaults to [`KEEP_ALIVE_PROBES`].
    #[must_use]
    pub fn probes(mut self, n: u32) -> Self {
        self.probes = n;
        self
    }

    /// Sets the time after which a connection fails whose peer does not acknowledge sent data (`TCP_USER_TIMEOUT`, RFC
    /// 9293 section 3.9.1). The resolution is 1 ms, and at least that. Defaults to none, except for the connections of
    /// HTTP/2 to a server: requests share them, so that their own timeouts do not end the connection. There it is the time
    /// after which probes fail a connection, 30 s, if that is less than about 15 minutes: a longer one would only delay the
    /// end.
    ///
    /// In Linux it also fails a connection whose peer is there but does not read, if data waits to be sent for so long: an
    /// application may have a reason to read nothing of an upload for a while. And it replaces the number of probes: an idle
    /// connection fails when nothing has arrived for this time and at least one probe was not answered. Without probes, an
    /// idle connection never fails by it (tcp(7)).
    #[must_use]
    pub fn user_timeout(mut self, timeout: Duration) -> Self {
        self.user_timeout = Some(timeout);
        self
    }

    /// Returns these options for a connection that has no other bound on unacknowledged data.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for connections to servers"))]
    pub(crate) fn with_default_user_timeout(mut self) -> Self {
        if self.user_timeout.is_none() && self.probes > 0 {
            let probing = whole_seconds(self.interval) * self.probes.min(MAX_PROBES);
            let timeout = whole_seconds(self.idle) + probing;
            self.user_timeout = Some(timeout).filter(|timeout| *timeout < RETRANSMISSION_LIMIT);
        }
        self
    }

    /// Sets the options of a TCP socket, also those that are off.
    pub(super) fn apply(&self, socket: &impl AsFd) {
        let socket = SockRef::from(socket);
        // Best effort: a connection without them is usable. Linux refuses none of these values.
        let _ = if self.probes > 0 {
            let options = TcpKeepalive::new()
                .with_time(whole_seconds(self.idle))
                .with_interval(whole_seconds(self.interval))
                .with_retries(self.probes.min(MAX_PROBES));
            socket.set_tcp_keepalive(&options)
        } else {
            socket.set_keepalive(false)
        };
        let timeout = self.user_timeout;
        let timeout = timeout.map(|t| t.clamp(Duration::from_millis(1), MAX_USER_TIMEOUT));
        let _ = socket.set_tcp_user_timeout(timeout);
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

/// Rounds up to seconds that Linux accepts.
fn whole_seconds(time: Duration) -> Duration {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    Duration::from_secs(seconds.clamp(1, MAX_SECS))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    type Applied = (Option<(Duration, Duration, u32)>, Option<Duration>);

    fn stream() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    /// Applies options to a new socket.
    fn applied(options: KeepAlive) -> Applied {
        apply(options, &stream())
    }

    /// Applies options to a socket. Returns its idle time, interval and probes, if it has keep-alive, and its user timeout.
    fn apply(options: KeepAlive, stream: &TcpStream) -> Applied {
        options.apply(stream);
        let socket = SockRef::from(stream);
        let probing = socket.keepalive().unwrap().then(|| {
            let interval = socket.tcp_keepalive_interval().unwrap();
            let probes = socket.tcp_keepalive_retries().unwrap();
            (socket.tcp_keepalive_time().unwrap(), interval, probes)
        });
        (probing, socket.tcp_user_timeout().unwrap())
    }

    #[test]
    fn options_are_those_of_the_socket() {
        let default = KeepAlive::new();
        assert_eq!(applied(default), (Some((15 * SEC, 5 * SEC, 3)), None));
        let own = default.idle(7 * SEC).interval(2 * SEC).probes(4).user_timeout(9 * SEC);
        assert_eq!(applied(own), (Some((7 * SEC, 2 * SEC, 4)), Some(9 * SEC)));
        assert_eq!(applied(default.probes(0)), (None, None));
        assert_eq!(applied(default.probes(0).user_timeout(SEC)), (None, Some(SEC)));
    }

    #[test]
    fn options_of_a_socket_can_be_set_to_off() {
        let (stream, on) = (stream(), KeepAlive::new().user_timeout(SEC));
        assert_eq!(apply(on, &stream), (Some((15 * SEC, 5 * SEC, 3)), Some(SEC)));
        assert_eq!(apply(KeepAlive::new().probes(0), &stream), (None, None));
    }

    #[test]
    fn values_that_linux_refuses_are_rounded() {
        let least = KeepAlive::new().idle(Duration::ZERO).interval(SEC / 2).probes(1);
        let (probing, user_timeout) = applied(least.user_timeout(Duration::ZERO));
        assert_eq!(probing, Some((SEC, SEC, 1)));
        assert_eq!(user_timeout, Some(Duration::from_millis(1)));
        let most = KeepAlive::new().idle(Duration::MAX).interval(Duration::MAX).probes(u32::MAX);
        let (probing, user_timeout) = applied(most.user_timeout(Duration::MAX));
        assert_eq!(probing, Some((32_767 * SEC, 32_767 * SEC, 127)));
        assert_eq!(user_timeout, Some(MAX_USER_TIMEOUT));
        assert_eq!(whole_seconds(SEC * 3 / 2), 2 * SEC);
    }

    #[test]
    fn default_user_timeout_is_the_time_of_all_probes() {
        let default = KeepAlive::new();
        assert_eq!(default.with_default_user_timeout().user_timeout, Some(30 * SEC));
        let own = default.user_timeout(SEC);
        assert_eq!(own.with_default_user_timeout(), own);
        let off = default.probes(0);
        assert_eq!(off.with_default_user_timeout(), off);
        // As the kernel rounds them.
        let least = default.idle(Duration::ZERO).interval(Duration::ZERO).probes(1);
        assert_eq!(least.with_default_user_timeout().user_timeout, Some(2 * SEC));
        // A longer one than the kernel's own limit would only delay the end.
        let long = default.idle(908 * SEC);
        assert_eq!(long.with_default_user_timeout().user_timeout, Some(923 * SEC));
        for longer in [default.idle(909 * SEC), default.interval(Duration::MAX).probes(u32::MAX)] {
            assert_eq!(longer.with_default_user_timeout(), longer);
        }
    }
}
