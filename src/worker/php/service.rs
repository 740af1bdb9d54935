//! `Php`: the handle of a PHP application.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use http::header::EXPECT;
use tempfile::TempDir;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use tower_service::Service;

use super::generation::{Generation, Generations, InUse};
use crate::{
    Body, Request, Response,
    body::HttpBody,
    conn::{
        SingleUse,
        fcgi::{Connection, scripts::not_found},
    },
    error::{BoxError, Error, Kind},
    net::{Gate, Stream},
    peer::Deadline,
    policy::restart::after,
    proto::fcgi::Limits,
    semantics::hop,
    worker::{
        error::{DeadlineExceeded, QueueTimeout},
        handle::PoolHandle,
        pool::Pool,
        process::reload,
        queue::{closed, failed, reservation::Reservation},
    },
};

/// The handle of a PHP application: a [`Service`], cheap to clone.
///
/// **Scripts.** The path of a request names a script below the folder (see
/// [`Scripts`](crate::semantics::cgi::Scripts)). Other paths are handled by the front controller, or answered with 404
/// if there is none. Only files with the suffix `.php` are run, and only if they are below the folder after symbolic
/// links are resolved. An upload with another suffix is never run, not even as `/uploads/x.jpg/y.php`. Store uploads
/// outside of the folder, or under generated names, so that none has this suffix.
///
/// **Permits.** There is a permit for each process and each slot of the queue, reserved in `poll_ready` like those of
/// [`Threads`](super::super::Threads). php-fpm never gets more requests than it has processes. A request that waits
/// longer than the queue timeout fails with [`Kind::Overloaded`], and one whose [`Deadline`] passes in the queue with
/// [`Kind::Timeout`]. Neither is run, and neither is a request whose future was dropped.
///
/// **Bodies.** The length of a request's body must be known. A
/// [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front determines it, and keeps slow clients away from
/// PHP. A response is streamed as PHP sends it.
///
/// **Errors.** A request that exceeds the request timeout fails with [`Kind::Timeout`], and php-fpm kills its process.
/// A request whose process ends fails with [`Kind::BadGateway`]. PHP's error log is written to the log of this process,
/// with the target `vestibule::fastcgi` and the fields of the request.
///
/// **Supervision.** php-fpm is supervised like a worker process: if it ends, it is restarted, with growing pauses, and
/// requests wait for it in the queue. Its processes end when this process ends.
///
/// **Reload.** [`reload`](Self::reload) starts a second php-fpm. When that accepts requests, all new requests go to it,
/// and the first one is stopped after its last response, at the latest after the request timeout. No request is lost.
/// Symbolic links to the folder are resolved again, so that a request never uses files of two releases.
#[derive(Clone)]
pub struct Php {
    shared: Arc<Shared>,
    handle: PoolHandle,
    reservation: PermitSlot,
}

/// A reservation that is not copied by `Clone`.
#[derive(Default)]
struct PermitSlot(Reservation);

impl Clone for PermitSlot {
    fn clone(&self) -> Self {
        Self::default()
    }
}

struct Shared {
    generations: Arc<Generations>,
    /// One permit for each queued or running request.
    permits: Arc<Semaphore>,
    /// One permit for each process of PHP.
    children: Arc<Semaphore>,
    admitted: usize,
    processes: usize,
    times: Times,
    limits: Arc<Limits>,
    served: AtomicU64,
    /// The folder of php-fpm's configuration.
    _config: TempDir,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) queue: Duration,
    pub(super) request: Duration,
    /// The start timeout of PHP.
    pub(super) start: Duration,
}

/// The figures of a PHP application at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PhpStats {
    /// Whether PHP accepts requests.
    pub is_ready: bool,
    /// Running requests.
    pub busy: usize,
    /// Requests that wait for a process.
    pub queued: usize,
    /// Requests to which PHP has sent the head of a response, since the start.
    pub served: u64,
    /// The number of times that php-fpm exited without being stopped, since the start.
    pub unexpected_exits: u64,
    /// The generation: 0, and a higher one after each reload.
    pub generation: u64,
}

impl Php {
    pub(super) fn new(
        pool: Arc<Pool>,
        supervisor: JoinHandle<()>,
        generations: Arc<Generations>,
        config: TempDir,
        (processes, queue): (usize, usize),
        times: Times,
    ) -> Self {
        let admitted = processes.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        let limits = Limits::new().head_timeout(times.request).body_timeout(times.request);
        let shared = Shared {
            generations,
            permits: Arc::new(Semaphore::new(admitted)),
            children: Arc::new(Semaphore::new(processes)),
            admitted,
            processes,
            times,
            limits: Arc::new(limits),
            served: AtomicU64::new(0),
            _config: config,
        };
        let handle = PoolHandle::new(pool, supervisor);
        Self { shared: Arc::new(shared), handle, reservation: PermitSlot::default() }
    }

    /// Returns the current figures.
    pub fn stats(&self) -> PhpStats {
        let (shared, stats) = (&self.shared, self.handle.stats());
        let busy = shared.processes.saturating_sub(shared.children.available_permits());
        let admitted = shared.admitted.saturating_sub(shared.permits.available_permits());
        PhpStats {
            is_ready: stats.workers > 0,
            busy,
            queued: admitted.saturating_sub(busy),
            served: shared.served.load(Ordering::Relaxed),
            unexpected_exits: stats.unexpected_exits,
            generation: stats.generation,
        }
    }

    /// Returns a gate that is open while a permit is free, for [`Serve::gate`](crate::serve::Serve::gate).
    pub fn gate(&self) -> Gate {
        Gate::new(self.shared.permits.clone()).total(self.shared.admitted)
    }

    /// Replaces PHP by a new instance, which is ready before the old one is stopped: see [`Php`]. During a reload
    /// there are twice as many processes. It continues if the future is dropped.
    ///
    /// # Errors
    /// [`Kind::Internal`] with [`ReloadFailed`](super::super::ReloadFailed). The old instance continues to serve
    /// requests.
    pub async fn reload(&self) -> Result<(), Error> {
        let reloaded = reload(&self.handle, self.shared.times.start).await;
        reloaded.map_err(|failed| Error::new(Kind::Internal, failed))
    }

    /// Closes the application for all handles: further calls return [`Kind::Overloaded`], and PHP is stopped after its
    /// running requests.
    pub fn close(&self) {
        self.shared.permits.close();
        self.shared.children.close();
        self.handle.close();
    }

    /// [Closes](Self::close) the application and waits until all processes have ended, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`] with [`StillRunning`](super::super::StillRunning) when that time has passed.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.close();
        self.handle.shutdown(within).await
    }
}

impl<B: HttpBody> Service<Request<B>> for Php {
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let shared = &self.shared;
        self.reservation.0.poll(&shared.permits, shared.times.queue, cx).map(Ok)
    }

    /// Queues the request. A handle that is not ready takes a permit if one is free; otherwise the result is
    /// [`Kind::Overloaded`].
    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (shared, pool) = (self.shared.clone(), self.handle.pool().clone());
        let permit = self.reservation.0.take(&shared.permits, shared.times.queue);
        let request = request.map(Body::new);
        ResponseFuture(Box::pin(async move {
            let permit = permit?;
            let exchange = Exchange {
                shared: &shared,
                until: after(Instant::now(), permit.remaining),
                deadline: request.extensions().get::<Deadline>().map(|deadline| deadline.0),
                path: request.uri().path().to_owned(),
            };
            if pool.lock().supervisor.has_failed() {
                return Err(failed().into());
            }
            exchange.run(request, permit.permit).await
        }))
    }
}

/// One request while it waits. It copies what it needs, since a reference to the request is not `Send`.
struct Exchange<'a> {
    shared: &'a Shared,
    /// The end of its queue timeout.
    until: Instant,
    deadline: Option<Instant>,
    path: String,
}

impl Exchange<'_> {
    async fn run(
        self,
        mut request: Request,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, BoxError> {
        hop::strip(request.headers_mut());
        request.headers_mut().remove(EXPECT);
        // Before the request waits: one that PHP does not run needs no process.
        let mut found = None;
        if let Some(current) = self.shared.generations.current() {
            let Some(script) = current.resolver.find(&self.path).await? else {
                return Ok(not_found());
            };
            found = Some((current, script));
        }
        let child = self.wait(self.shared.children.clone().acquire_owned()).await?;
        let child = child.map_err(|_| closed())?;
        let (stream, generation, in_use) = self.connect().await?;
        let script = match found.filter(|(of, _)| Arc::ptr_eq(of, &generation)) {
            Some((_, script)) => script,
            None => match generation.resolver.find(&self.path).await? {
                Some(script) => script,
                None => return Ok(not_found()),
            },
        };
        let params = generation.resolver.params(&script, &request)?;
        let connection = Connection::new(stream, self.shared.limits.clone());
        let response = connection.exchange(request, params, SingleUse).await;
        let response = response.map_err(|error| error.cause.into_error())?;
        self.shared.served.fetch_add(1, Ordering::Relaxed);
        Ok(response.map(|body| body.with_guard((permit, child, in_use))))
    }

    /// Connects to the current instance, or to its successor if that fails.
    async fn connect(&self) -> Result<(Stream, Arc<Generation>, InUse), BoxError> {
        let mut except = None;
        loop {
            let enter = self.shared.generations.enter(except.as_ref());
            let (generation, in_use) = self.wait(enter).await?;
            match Stream::connect(&generation.address).await {
                Ok(stream) => return Ok((stream, generation, in_use)),
                // It has ended unexpectedly, and is being restarted.
                Err(_) => except = Some(generation),
            }
        }
    }

    /// Waits for `event` until the queue timeout or the request's deadline.
    async fn wait<T>(&self, event: impl Future<Output = T>) -> Result<T, Error> {
        let until = self.deadline.map_or(self.until, |deadline| deadline.min(self.until));
        match timeout_at(until.into(), event).await {
            Ok(value) => Ok(value),
            Err(_) if self.deadline == Some(until) => {
                Err(Error::new(Kind::Timeout, DeadlineExceeded))
            }
            Err(_) => Err(Error::new(Kind::Overloaded, QueueTimeout)),
        }
    }
}

/// The future of [`Php`].
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Php {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Php").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
