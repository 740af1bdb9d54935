//! `Limits`: bounds on sizes and times of a connection.

use std::time::Duration;

/// Bounds on one connection to an application.
///
/// ```
/// use std::time::Duration;
/// use vestibule::proto::fcgi::Limits;
///
/// let limits = Limits::new().head_timeout(Duration::from_secs(300)); // a slow report
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub(super) head_bytes: usize,
    pub(super) fields: usize,
    pub(super) name_bytes: usize,
    pub(super) stderr_bytes: u64,
    pub(super) values_bytes: usize,
    pub(super) head_timeout: Duration,
    pub(super) body_timeout: Duration,
}

impl Limits {
    /// Creates the default limits.
    pub const fn new() -> Self {
        Self {
            head_bytes: 64 << 10,
            fields: 100,
            name_bytes: 256,
            stderr_bytes: 1 << 20,
            values_bytes: 1 << 10,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
        }
    }

    /// Sets the maximum size of a response's head with its empty line, in bytes
    /// ([`Fault::Head`](super::Fault::Head)). Defaults to 64 KiB: an application is trusted more than a
    /// client, and may set many cookies.
    #[must_use]
    pub const fn max_head_bytes(mut self, n: usize) -> Self {
        self.head_bytes = n;
        self
    }

    /// Sets the maximum number of fields in a response's head ([`Fault::Head`](super::Fault::Head)). Defaults to
    /// 100.
    #[must_use]
    pub const fn max_fields(mut self, n: usize) -> Self {
        self.fields = n;
        self
    }

    /// Sets the maximum length of a field name, in bytes ([`Fault::Head`](super::Fault::Head)). Defaults to 256.
    #[must_use]
    pub const fn max_name_bytes(mut self, n: usize) -> Self {
        self.name_bytes = n;
        self
    }

    /// Sets the maximum number of bytes of STDERR that are returned for one request. Further bytes are dropped and
    /// [counted](super::Conn::dropped_stderr); the response is not affected. Defaults to 1 MiB, thousands of
    /// warnings.
    #[must_use]
    pub const fn max_stderr_bytes(mut self, n: u64) -> Self {
        self.stderr_bytes = n;
        self
    }

    /// Sets the maximum size of the result of `GET_VALUES`, in bytes
    /// ([`Fault::ValuesTooLarge`](super::Fault::ValuesTooLarge)). Defaults to 1 KiB; the three values of the
    /// specification take 50 bytes.
    #[must_use]
    pub const fn max_values_bytes(mut self, n: usize) -> Self {
        self.values_bytes = n;
        self
    }

    /// Sets the timeout from the end of a request to the end of its response's head. Defaults to 60 s, as in
    /// nginx.
    #[must_use]
    pub const fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Sets how long a response's body, or the sending of a request, may make no progress. STDERR is no
    /// progress. Defaults to 60 s, as in nginx.
    #[must_use]
    pub const fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Returns how long sending may make no progress.
    #[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only the driver writes"))]
    pub(crate) fn write_timeout(&self) -> Duration {
        self.body_timeout
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}
