//! Requests that continue after their client has disconnected, counted and limited.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};
use tracing::field::display;

use crate::{
    Body, Response,
    conn::{RequestInfo, log_request},
    error::{BoxError, Chain},
    net::{Drain, DrainWatch},
};

/// The future of a request.
pub(super) type Work = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

/// The detached requests of a layer.
#[derive(Debug)]
pub(super) struct Detached {
    pub(super) drain: Drain,
    pub(super) max: usize,
    pub(super) time_limit: Duration,
}

impl Detached {
    pub(super) fn new(max: usize, time_limit: Duration) -> Self {
        Self { drain: Drain::new(), max, time_limit }
    }

    /// Spawns `work` for `request` on this runtime, if there is one and the limit allows. Otherwise drops it.
    pub(super) fn spawn(
        &self,
        request: RequestInfo,
        work: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) {
        let watch = self.drain.watch();
        let Ok(runtime) = Handle::try_current().map_err(drop) else { return };
        if self.drain.len() > self.max {
            let message = "too many detached requests: this one is cancelled";
            log_request!(warn, "vestibule::request", &request, max = self.max, "{message}");
            return;
        }
        let work = timeout(self.time_limit, work);
        runtime.spawn(async move {
            // The watch is dropped last: when a drain ends, everything is released.
            let (mut watch, mut work) = (watch, Box::pin(work));
            let ended = poll_fn(|cx| {
                if is_aborted(&mut watch, cx) {
                    return Poll::Ready(None);
                }
                work.as_mut().poll(cx).map(Some)
            });
            let (message, error) = match ended.await {
                Some(Ok(Ok(()))) => (None, None),
                Some(Ok(Err(error))) => (Some("a detached request failed"), Some(error)),
                Some(Err(_elapsed)) => (Some("a detached request exceeded its time limit"), None),
                None => (Some("a detached request was aborted by the shutdown"), None),
            };
            if let Some(message) = message {
                let error = error.as_deref().map(|error| display(Chain(error)));
                log_request!(warn, "vestibule::request", &request, error, "{message}");
            }
            drop(work);
            drop(watch);
        });
    }
}

fn is_aborted(watch: &mut DrainWatch, cx: &std::task::Context<'_>) -> bool {
    watch.poll_draining(cx) && watch.is_aborted()
}

/// Reads a body to its end.
pub(super) async fn read_to_end(mut body: Body) -> Result<(), BoxError> {
    while let Some(segment) = poll_fn(|cx| body.poll_segment(cx)).await {
        segment?;
        // A body that is always ready would starve other tasks.
        tokio::task::consume_budget().await;
    }
    Ok(())
}
