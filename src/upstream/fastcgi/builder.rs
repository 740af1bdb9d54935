//! Options of a [`FastCgi`].

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{FastCgi, Shared, protocol::FastCgi1, script::ScriptCheck};
use crate::{net::Address, proto::fcgi::Limits, semantics::cgi::Scripts, upstream::pooled};

/// Builds a [`FastCgi`]. The order of options does not matter.
#[derive(Debug)]
#[must_use]
pub struct FastCgiBuilder {
    address: Address,
    scripts: Scripts,
    options: pooled::Options,
    limits: Limits,
    local_root: Option<PathBuf>,
}

impl FastCgiBuilder {
    pub(super) fn new(address: Address, scripts: Scripts) -> Self {
        Self {
            address,
            options: pooled::Options { keep_idle: 0, ..pooled::Options::default() },
            limits: Limits::default(),
            local_root: Some(scripts.root().into()),
            scripts,
        }
    }

    /// At most `n` idle connections, for each runtime. Default 0.
    ///
    /// An idle connection keeps a worker of php-fpm, which does nothing else meanwhile. With the sum over
    /// all runtimes below `pm.max_children` a request saves a connection; with as many, requests of
    /// other runtimes wait for a worker that is idle.
    pub fn keep_idle(mut self, n: usize) -> Self {
        self.options.keep_idle = n;
        self
    }

    /// How long a connection may be idle before it is closed. Default
    /// [`IDLE_TIMEOUT`](crate::upstream::IDLE_TIMEOUT).
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = timeout;
        self
    }

    /// How long connecting may take. Default [`CONNECT_TIMEOUT`](crate::upstream::CONNECT_TIMEOUT).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Bounds on what the application may send, and how slowly.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where this process finds the scripts, if not where the application does: `root` is the same folder
    /// as that of [`Scripts::new`]. A script must exist there.
    pub fn local_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.local_root = Some(root.into());
        self
    }

    /// Sends every path with a script's suffix to the application, since its files are not on this
    /// machine.
    ///
    /// It is for the application then to refuse what does not exist. With `cgi.fix_pathinfo=1`, PHP's
    /// default, `/uploads/x.jpg/y.php` runs `x.jpg`: set it to 0, or leave php-fpm's
    /// `security.limit_extensions` at its default, `.php`.
    pub fn unchecked_scripts(mut self) -> Self {
        self.local_root = None;
        self
    }

    /// The service.
    pub fn build(self) -> FastCgi {
        let protocol = FastCgi1 { limits: Arc::new(self.limits) };
        let server = pooled::Server::new(self.address, protocol, self.options);
        let check = self.local_root.map(ScriptCheck::new);
        FastCgi(Arc::new(Shared { server, scripts: self.scripts, check }))
    }
}
