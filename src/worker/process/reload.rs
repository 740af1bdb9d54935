//! `reload`: replaces the workers of a pool by a new generation.

use std::time::Duration;

use super::ReloadFailed;
use crate::{policy::restart::Reloaded, worker::handle::PoolHandle};

/// Replaces all workers of a pool by a new generation, which must be ready within `timeout`.
///
/// # Errors
/// The reason for which the old generation continues, or the pool is closed.
pub(in crate::worker) async fn reload(
    handle: &PoolHandle,
    timeout: Duration,
) -> Result<(), ReloadFailed> {
    let ended = match handle.pool().reload(timeout) {
        Some(ended) => ended.await.unwrap_or(Reloaded::Closed),
        None => Reloaded::Closed,
    };
    match ended {
        Reloaded::Ready => Ok(()),
        Reloaded::Exited => Err(ReloadFailed::Exited),
        Reloaded::TimedOut => Err(ReloadFailed::TimedOut),
        Reloaded::Closed => Err(ReloadFailed::Refused),
    }
}
