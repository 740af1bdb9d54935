//! `Executor`: runs workers as threads or as child processes.

pub(super) mod exchange;
#[cfg(feature = "process")]
pub(super) mod process;
pub(super) mod thread;

use std::io;

use crate::policy::restart::WorkerId;

/// Starts and stops workers, as the supervisor decides.
///
/// A worker calls the [`Pool`](super::pool::Pool): `on_ready` when it has built its application, or
/// `on_failed`; then `next` for each request and `done` at its end, until one of them requests its exit;
/// and `on_exit` last.
///
/// Dropping an executor, after all workers have exited, waits for their remaining resources.
pub(super) trait Executor: Send + 'static {
    /// Starts worker `id`.
    ///
    /// # Errors
    /// It cannot be started, and calls nothing.
    fn start(&mut self, id: WorkerId) -> io::Result<()>;

    /// Interrupts the request of worker `id`, whose caller got a timeout. The default does nothing, for
    /// executors that cannot, or whose workers check the time themselves.
    fn abort(&mut self, id: WorkerId) {
        let _ = id;
    }

    /// Stops worker `id`, which did not end its request in time and has been replaced. The default does nothing,
    /// for executors that cannot: the worker exits when its request ends.
    fn abandon(&mut self, id: WorkerId) {
        let _ = id;
    }

    /// Stops worker `id`, which has no request and may still be building its application. The default does
    /// nothing, for executors that cannot: the worker exits when it calls `next`.
    fn stop(&mut self, id: WorkerId) {
        let _ = id;
    }

    /// Releases what only workers of a past generation need, since a reload has ended. The default does nothing.
    fn on_reloaded(&mut self) {}

    /// Stops worker `id`, which did not become ready in time and reports that by `on_failed`. The default does
    /// nothing, for executors without such a timeout.
    fn time_out(&mut self, id: WorkerId) {
        let _ = id;
    }
}
