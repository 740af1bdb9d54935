//! What an application may grow, and for how long it may take.

use std::time::Duration;

/// Bounds on one connection to an application. The order of options does not matter.
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
    /// The defaults.
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

    /// Bytes of a response's head, its empty line included. Default 64 KiB: the application is ours,
    /// and the cookies that it sets may be many. Beyond: [`Fault::Head`](super::Fault::Head).
    #[must_use]
    pub const fn max_head_bytes(mut self, n: usize) -> Self {
        self.head_bytes = n;
        self
    }

    /// Fields in a response's head. Default 100. Beyond: [`Fault::Head`](super::Fault::Head).
    #[must_use]
    pub const fn max_fields(mut self, n: usize) -> Self {
        self.fields = n;
        self
    }

    /// Bytes of a field's name. Default 256. Beyond: [`Fault::Head`](super::Fault::Head).
    #[must_use]
    pub const fn max_name_bytes(mut self, n: usize) -> Self {
        self.name_bytes = n;
        self
    }

    /// Bytes of STDERR that are handed on for one request. Default 1 MiB: thousands of warnings. Beyond,
    /// they are dropped and [counted](super::Conn::dropped_stderr), and the response goes on.
    #[must_use]
    pub const fn max_stderr_bytes(mut self, n: u64) -> Self {
        self.stderr_bytes = n;
        self
    }

    /// Bytes of the result of `GET_VALUES`. Default 1 KiB; the three values that there are take 50.
    /// Beyond: [`Fault::ValuesTooLarge`](super::Fault::ValuesTooLarge).
    #[must_use]
    pub const fn max_values_bytes(mut self, n: usize) -> Self {
        self.values_bytes = n;
        self
    }

    /// From the end of a request to the end of its response's head. Default 60 s, as nginx has it.
    #[must_use]
    pub const fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// How long a response's body may make no progress, and sending. STDERR is no progress. Default
    /// 60 s, as nginx has it.
    #[must_use]
    pub const fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// How long sending may make no progress.
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
