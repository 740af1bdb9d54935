//! Options of a [`FastCgi`].

use std::{path::PathBuf, sync::Arc};

use super::{FastCgi, Shared, protocol::FastCgi1};
use crate::{
    conn::fcgi::scripts::ScriptResolver,
    net::Address,
    proto::fcgi::Limits,
    semantics::cgi::Scripts,
    upstream::{
        connector::Connector,
        pooled::{self, PoolConfig},
    },
};

/// Builds a [`FastCgi`]. The order of options does not matter.
#[derive(Debug)]
#[must_use]
pub struct FastCgiBuilder {
    address: Address,
    scripts: Scripts,
    pool: PoolConfig,
    limits: Limits,
    local_root: Option<PathBuf>,
}

impl FastCgiBuilder {
    pub(super) fn new(address: Address, scripts: Scripts) -> Self {
        Self {
            address,
            pool: PoolConfig::new().keep_idle(0),
            limits: Limits::default(),
            local_root: Some(scripts.root().into()),
            scripts,
        }
    }

    /// Sets the options of the connections. Default: [`PoolConfig::new`], without idle connections.
    pub fn pool(mut self, pool: PoolConfig) -> Self {
        self.pool = pool;
        self
    }

    /// Sets the limits on responses.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the path of the scripts for this process, if it differs from the application's: `root` is the same folder
    /// as that of [`Scripts::new`]. A script must exist there.
    pub fn local_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.local_root = Some(root.into());
        self
    }

    /// Sends every path with a script's suffix to the application without checking that the file exists, for
    /// applications whose files are not on this machine.
    ///
    /// The application must then refuse scripts that do not exist. With `cgi.fix_pathinfo=1`, PHP's default,
    /// `/uploads/x.jpg/y.php` runs `x.jpg`: set it to 0, or leave php-fpm's `security.limit_extensions` at its
    /// default, `.php`.
    pub fn unchecked_scripts(mut self) -> Self {
        self.local_root = None;
        self
    }

    /// Builds the service.
    pub fn build(self) -> FastCgi {
        let protocol = FastCgi1 { limits: Arc::new(self.limits) };
        let server = pooled::Server::new(
            self.address.clone(),
            Connector::plain(self.address, self.pool.keep_alive),
            protocol,
            self.pool,
        );
        let resolver = ScriptResolver::new(self.scripts, self.local_root);
        FastCgi(Arc::new(Shared { server, resolver }))
    }
}
