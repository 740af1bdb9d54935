//! `Output`: logs the output of a process line by line.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};
use tracing::field::display;

use super::super::super::pool::Pool;
use crate::{net::process::read_lines, policy::restart::WorkerId};

/// Timeout for the rest of the output after the end of a process: 200 ms. A descendant outside of its group may
/// hold the pipe open.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// The tasks that read the pipes of a process.
pub(super) struct Output {
    tasks: [JoinHandle<()>; 2],
    last_line: Arc<Mutex<String>>,
}

impl Output {
    /// Reads the standard output and error of a process in the current runtime. `worker` is `None` for a process
    /// that is not a worker. With a pool, lines have the id of the request that the worker runs.
    pub(super) fn start(
        worker: Option<&(WorkerId, Option<Arc<Pool>>)>,
        pid: u32,
        [stdout, stderr]: [OwnedFd; 2],
    ) -> Self {
        let last_line = Arc::new(Mutex::new(String::new()));
        let read = |pipe: OwnedFd, stream: &'static str| {
            let (last, worker) = (last_line.clone(), worker.cloned());
            tokio::spawn(async move {
                let id = worker.as_ref().map(|(id, _)| display(*id));
                let print = |line: &str| {
                    line.clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
                    // The runtime handles the line before an answer that was written after it.
                    let pool = worker.as_ref().and_then(|(id, pool)| Some((*id, pool.as_ref()?)));
                    let job = pool.and_then(|(id, pool)| pool.in_flight(id));
                    let request_id = job.and_then(|job| job.request().id()).map(display);
                    tracing::info!(target: "vestibule::worker::output", worker = id, pid, stream, request_id, "{line}");
                };
                if let Err(error) = read_lines(pipe, print).await {
                    tracing::warn!(worker = id, pid, stream, %error, "cannot read the output of a worker process");
                }
            })
        };
        Self { tasks: [read(stdout, "stdout"), read(stderr, "stderr")], last_line }
    }

    /// Reads the rest after the end of the process. Returns the last line, which is empty if there was none.
    pub(super) async fn end(self) -> String {
        for mut task in self.tasks {
            if timeout(LAST_OUTPUT, &mut task).await.is_err() {
                task.abort();
            }
        }
        self.last_line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
