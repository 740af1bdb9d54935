//! Reloads certificates when their files change.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::Server;
use crate::net::blocking_pool::BlockingPool;

/// How often [`Server::watch`] should look at the files, 10 s.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(10);

impl Server {
    /// Looks at all files every `interval` and [reloads](Self::reload) when one has changed. Never ends; spawn
    /// it, and drop the task to stop it.
    ///
    /// A failed reload is logged, and tried again when a file changes: a renewal that has replaced the
    /// certificate but not yet its key is completed by the next look. It works with symbolic links that are
    /// replaced (certbot, Kubernetes) and with file systems of the network.
    pub async fn watch(self, interval: Duration) {
        // Of its own, so that a file system that does not answer holds up nothing else.
        static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);
        let files: Arc<[PathBuf]> = self.files().into();
        let mut last = None;
        loop {
            let (tls, files, before) = (self.clone(), files.clone(), last.clone());
            let look = POOL.call(move || {
                let now = stamps(&files);
                if before.is_some_and(|before| before != now) {
                    log_reload(tls.reload());
                }
                now
            });
            if let Ok(Ok(now)) = look.await {
                last = Some(now);
            }
            tokio::time::sleep(interval).await;
        }
    }
}

fn log_reload(result: io::Result<()>) {
    match result {
        Ok(()) => tracing::info!(target: "vestibule::tls", "the certificates were reloaded"),
        Err(error) => {
            tracing::error!(target: "vestibule::tls", %error, "the certificates stay: cannot reload them");
        }
    }
}

/// What changes when a file is replaced or written. `None` for one that cannot be looked at.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let m = std::fs::metadata(path).ok()?;
        Some((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}
