//! `Processes`: the handle of a pool of worker processes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    thread::JoinHandle,
    time::Duration,
};

use http::{HeaderValue, header::HOST, uri::Scheme};
use tower_service::Service;

use super::{future::ResponseFuture, handle::PoolHandle, pool::Pool, stats::Stats};
use crate::{
    Body, Request, Response,
    body::HttpBody,
    conn::tunnels::{Switch, TunnelOptions, TunnelStats, Tunnels},
    error::{BoxError, Error, Kind},
    net::Gate,
    peer::Peer,
    semantics::{
        forwarded::{AuthorizedRequest, ForwardedFields},
        gateway,
    },
};

/// The handle of a pool of worker processes: a `tower::Service`, cheap to clone.
///
/// Permits, the queue, deadlines and shutdown are those of [`Threads`](super::Threads). A worker receives one request
/// at a time, with its complete body if there is a [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front.
///
/// **Requests.** Requests are forwarded as by a gateway: without hop-by-hop fields and `Expect`, and with
/// `X-Forwarded-For`, `-Proto` and `-Host` of the request's [`Peer`]. The connection is reused if the worker keeps it
/// open. Upgrades are not forwarded, unless [`tunnels`](super::ProcessesBuilder::tunnels) allows them.
///
/// **Timeout.** A request that takes longer than the request timeout fails with [`Kind::Timeout`], and its worker is
/// stopped with `SIGTERM`, and after the [stop timeout](super::ProcessesBuilder::stop_timeout) with `SIGKILL` for its
/// process group. It is replaced at once. A request whose
/// [`Deadline`](crate::peer::Deadline) passes earlier fails with [`Kind::Timeout`] too; its worker continues until
/// the request timeout, and gets no other request in that time. A late response is read and dropped, and its
/// connection is closed.
///
/// **Crashes.** A request that was not sent when its worker ended, or that a Python worker had not read, is sent to
/// another worker. One that may have been received is sent once more if its method is idempotent (RFC 9110 section
/// 9.2.2) and its body can be [replayed](Body::replay); otherwise it fails with [`Kind::BadGateway`], and so does one
/// whose response is not HTTP. A worker that ends is restarted. The first restart is immediate. While no request is
/// completed in between, further ones are delayed by 100 ms to 10 s, and by a minute after nine consecutive exits. While
/// all workers are in this last state, requests fail at once with [`Kind::Overloaded`] and
/// [`WorkersFailed`](super::WorkersFailed).
///
/// **Replacement.** A worker that has reached a limit (`recycle_...`) and all workers in a
/// [`reload`](Self::reload) continue until their replacements are ready; then they finish their request and exit. No
/// request is refused or lost.
///
/// **Bodies.** A response in one piece is passed on as a whole. Any other body is passed on while the worker sends
/// it. When the client disconnects, the connection to the worker is closed; a worker that does not notice delays the
/// next request. Before the response has begun, it is closed only if the worker runs several requests at a time
/// ([`concurrency`](super::ProcessesBuilder::concurrency)): another one could not take the next request earlier.
///
/// **Processes.** Each worker leads a process group. It is killed when this process ends in any way; a small shell
/// process then kills the groups of workers that have child processes. Output is written to the log line by line, at
/// level `INFO` with the target `vestibule::worker::output` and the fields `worker`, `pid` and `stream`. `request_id`
/// is the id of the request that the worker runs when the line is read. With a program that buffers its output, the
/// line may be about an earlier request. Lines of a process that runs several requests at a time have no `request_id`.
///
/// ```no_run
/// use vestibule::{serve, worker::{self, Command}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app = Command::new("gunicorn").arg("mysite.wsgi");
/// let django = worker::process(app).workers(4).start()?;
/// serve("127.0.0.1:8080", django).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Processes {
    handle: PoolHandle,
    fields: ForwardedFields,
    tunnels: Arc<Tunnels>,
    start_timeout: Duration,
}

impl Processes {
    pub(super) fn new(
        pool: Arc<Pool>,
        supervisor: JoinHandle<()>,
        fields: ForwardedFields,
        tunnels: TunnelOptions,
        start_timeout: Duration,
    ) -> Self {
        let (handle, tunnels) = (PoolHandle::new(pool, supervisor), Tunnels::new(tunnels));
        Self { handle, fields, tunnels, start_timeout }
    }

    /// Returns the current figures of the pool.
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// Returns the figures of its [tunnels](super::ProcessesBuilder::tunnels).
    pub fn tunnel_stats(&self) -> TunnelStats {
        self.tunnels.stats()
    }

    /// Returns a gate that is open while a permit is free. With [`Serve::gate`](crate::serve::Serve::gate), clients
    /// wait in the kernel while workers and queue are full. It does not keep the pool alive.
    pub fn gate(&self) -> Gate {
        self.handle.gate()
    }

    /// Replaces all workers by new ones of the same command. Symbolic links in its working directory are resolved
    /// again. All new workers are ready before the first old one is stopped, so there are twice as many processes
    /// during a reload. Workers of the generation before may still finish their requests; while those of two generations do,
    /// the next reload waits for them.
    ///
    /// A reload continues if the future is dropped.
    ///
    /// # Errors
    /// [`Kind::Internal`] with [`ReloadFailed`](super::ReloadFailed): a new worker has ended before it was ready, or
    /// not all were ready within the [start timeout](super::ProcessesBuilder::start_timeout) after their start. The new
    /// workers are stopped, and the old ones continue to serve requests.
    pub async fn reload(&self) -> Result<(), Error> {
        self.handle.reload(self.start_timeout).await
    }

    /// Returns the number of requests that were sent ahead to busy workers.
    #[cfg(test)]
    pub(super) fn ahead(&self) -> usize {
        self.handle.pool().lock().queue.ahead()
    }

    /// Closes the pool for all handles: further calls return [`Kind::Overloaded`]. Queued requests are still run, then
    /// the processes are stopped.
    pub fn close(&self) {
        self.handle.close();
    }

    /// [Closes](Self::close) the pool and waits until all processes have ended, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`] with [`StillRunning`](super::StillRunning) when that time has passed. Requests that are still
    /// queued fail with [`Kind::Overloaded`] and are not run. Running requests continue, and their processes are
    /// stopped after them.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.handle.shutdown(within).await
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl<B: HttpBody> Service<Request<B>> for Processes {
    type Response = Response;
    type Error = BoxError;
    type Future = ProcessesFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.handle.poll_reserve(cx));
        Poll::Ready(Ok(()))
    }

    /// Queues the request. A handle that is not ready takes a permit if one is free; otherwise the result is
    /// [`Kind::Overloaded`].
    fn call(&mut self, request: Request<B>) -> ProcessesFuture {
        let mut request = request.map(Body::new);
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_else(|| {
            // Without a peer, the server has set the scheme of the target. With one, the client may have set it.
            let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
            Peer::memory().forwarded_proto(scheme)
        });
        let switch = match self.tunnels.switch(&request) {
            Ok(switch) => switch,
            Err(error) => {
                let response = ResponseFuture::refused(Error::new(Kind::Overloaded, error));
                return ProcessesFuture { response, switch: None };
            }
        };
        let has_host = request.uri().authority().is_some() || request.headers().contains_key(HOST);
        let mut headers = std::mem::take(request.headers_mut());
        gateway::prepare_request(&mut headers, &self.fields, &peer);
        AuthorizedRequest::restore_fields(request.extensions(), &mut headers);
        if !has_host {
            headers.insert(HOST, HeaderValue::from_static("localhost"));
        }
        *request.headers_mut() = headers;
        if let Some(switch) = &switch {
            switch.set_upgrade(&mut request);
        }
        let assigned = self.handle.pool().runtimes.add_current();
        let is_near = |id| assigned.is_some_and(|workers| workers.contains(id));
        ProcessesFuture { response: self.handle.submit_near(request, is_near), switch }
    }
}

/// The future of [`Processes`]. Its cancellation is that of [`ResponseFuture`].
///
/// # Panics
/// When it is polled after it was ready with the error of a refused request.
pub struct ProcessesFuture {
    response: ResponseFuture,
    /// Boxed, since few requests ask for it.
    switch: Option<Box<Switch>>,
}

impl Future for ProcessesFuture {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut result = ready!(Pin::new(&mut self.response).poll(cx));
        if let (Ok(response), Some(switch)) = (&mut result, self.switch.take()) {
            switch.complete(response);
        }
        Poll::Ready(result)
    }
}

impl fmt::Debug for ProcessesFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.response.fmt(f)
    }
}
