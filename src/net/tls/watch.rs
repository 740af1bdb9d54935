//! Reloads certificates when their files change.

use std::{io, os::unix::fs::MetadataExt, path::PathBuf, sync::LazyLock, time::Duration};

use super::Server;
use crate::net::blocking_pool::BlockingPool;

/// Recommended interval of [`Server::watch`]: 10 s.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(10);

impl Server {
    /// Checks all files every `interval` and [reloads](Self::reload) when one has changed since it was last loaded. The
    /// future never ends: spawn it, and drop the task to stop it.
    ///
    /// A failed reload is logged, and repeated by each check until it succeeds: a renewal that has replaced the
    /// certificate but not yet its key is completed by the next check. It works with symbolic links that are replaced
    /// (certbot, Kubernetes) and with network file systems.
    pub async fn watch(self, interval: Duration) {
        // A separate pool, so that a file system that does not answer delays nothing else.
        static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
        loop {
            let tls = self.clone();
            let check = POOL.call(move || {
                if tls.have_files_changed() {
                    log_reload(tls.reload());
                }
            });
            let _ = check.await; // without a thread for it, the next check finds the change
            tokio::time::sleep(interval).await;
        }
    }
}

fn log_reload(result: io::Result<()>) {
    match result {
        Ok(()) => tracing::info!(target: "vestibule::tls", "the certificates were reloaded"),
        Err(error) => {
            tracing::error!(target: "vestibule::tls", %error, "cannot reload the certificates; the old ones remain in use");
        }
    }
}

/// Metadata that changes when a file is replaced or written. `None` if it cannot be read.
pub(super) type Stamp = Option<(u64, u64, u64, i64, i64)>;

pub(super) fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let m = std::fs::metadata(path).ok()?;
        Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}
