//! `Executor`: how a worker runs: as a thread, or as a child process.

pub(super) mod exchange;
#[cfg(feature = "process")]
pub(super) mod process;
pub(super) mod thread;

use std::io;

use crate::policy::restart::WorkerId;

/// Starts workers and stops those that the supervisor gives up.
///
/// A worker calls the [`Pool`](super::pool::Pool): `on_ready` when it has built its application, or
/// `on_failed`; then `next` for each request and `done` at its end, until one of them tells it to exit;
/// `on_exit` as its last act.
///
/// Dropping an executor waits for what its workers leave behind; they have all exited by then.
pub(super) trait Executor: Send + 'static {
    /// Starts worker `id`.
    ///
    /// # Errors
    /// It cannot be started; then it calls nothing.
    fn start(&mut self, id: WorkerId) -> io::Result<()>;

    /// Interrupts the request of worker `id`, whose caller was answered with a timeout. The default is
    /// for executors that cannot, or whose workers watch the time themselves.
    fn abort(&mut self, id: WorkerId) {
        let _ = id;
    }

    /// Stops worker `id`, which did not end its request in time and has lost its slot. The default is
    /// for executors that cannot: it exits when its request ends.
    fn abandon(&mut self, id: WorkerId) {
        let _ = id;
    }

    /// Ends worker `id`, which has no request and may still build its application. The default is for
    /// executors that cannot: it exits when it asks for its next request.
    fn stop(&mut self, id: WorkerId) {
        let _ = id;
    }

    /// Ends worker `id`, which is not ready in time; it reports that by `on_failed`. The default is for
    /// executors whose workers have no such time.
    fn time_out(&mut self, id: WorkerId) {
        let _ = id;
    }
}
