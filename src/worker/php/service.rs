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
/// **Scripts.** The path of a request names a script below the folder, as
/// [`Scripts`](crate::semantics::cgi::Scripts) has it; a path that names none is for the front controller, if
/// there is one, and otherwise answered with 404. Only a `.php` file is run, and only one that lies below the
/// folder when symbolic links are resolved. An upload with another suffix is never run, not even by
/// `/uploads/x.jpg/y.php`; keep uploads outside of the folder, or give them names of your own, so that none has this
/// suffix.
///
/// **Permits.** There is one for each process and one for each place in the queue, reserved in `poll_ready` as
/// those of [`Threads`](super::super::Threads) are. php-fpm is sent no more requests than it has
/// processes. One that waits longer than the queue timeout is answered with [`Kind::Overloaded`], and one whose
/// [`Deadline`] passes before with [`Kind::Timeout`]; neither is run, nor is one whose caller has left.
///
/// **Bodies.** The length of a request's body must be known: put a
/// [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front, which keeps slow clients from PHP too. A
/// response is passed on as PHP sends it.
///
/// **Errors.** A script that takes longer than the request timeout is answered with [`Kind::Timeout`], and php-fpm
/// kills its process. One whose process ends is answered with [`Kind::BadGateway`]. What PHP writes to its error
/// log goes to ours, with the target `vestibule::fastcgi` and the fields of the request.
///
/// **Supervision.** php-fpm has the supervisor of worker processes: if it ends it is started again, with growing
/// pauses, and requests wait for it in the queue. Its processes end with this one.
///
/// **Reload.** [`reload`](Self::reload) starts a second php-fpm. When it takes requests, they go to it, and the
/// first one is asked to end once it has answered all of its own, at most after the request timeout. No
/// request is lost, and a symbolic link to the folder is resolved anew, so that a request never sees files of two releases.
#[derive(Clone)]
pub struct Php {
    shared: Arc<Shared>,
    handle: PoolHandle,
    reservation: PermitSlot,
}

/// A reservation that clones do not share.
#[derive(Default)]
struct PermitSlot(Reservation);

impl Clone for PermitSlot {
    fn clone(&self) -> Self {
        Self::default()
    }
}

struct Shared {
    generations: Arc<Generations>,
    /// One for each request that waits or is run.
    permits: Arc<Semaphore>,
    /// One for each process of PHP.
    children: Arc<Semaphore>,
    admitted: usize,
    processes: usize,
    times: Times,
    limits: Arc<Limits>,
    served: AtomicU64,
    /// Has php-fpm's configuration.
    _config: TempDir,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) queue: Duration,
    pub(super) request: Duration,
    /// For all of PHP to start.
    pub(super) start: Duration,
}

/// Figures of a PHP application at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PhpStats {
    /// Whether PHP takes requests.
    pub is_ready: bool,
    /// Requests that are run.
    pub busy: usize,
    /// Requests that wait for a process.
    pub queued: usize,
    /// Requests that PHP has begun to answer, since the start.
    pub served: u64,
    /// How often php-fpm has ended without being asked to, since the start.
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

    /// Returns the figures at this moment.
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

    /// Returns a gate that is open while there is a permit, for
    /// [`Serve::gate`](crate::serve::Serve::gate).
    pub fn gate(&self) -> Gate {
        Gate::new(self.shared.permits.clone())
    }

    /// Replaces PHP by a new instance, which is ready before the old one is ended: see [`Php`]. For that time
    /// there are twice as many processes. A reload goes on if the future is dropped.
    ///
    /// # Errors
    /// [`Kind::Internal`] with [`ReloadFailed`](super::super::ReloadFailed); the old instance works on.
    pub async fn reload(&self) -> Result<(), Error> {
        let reloaded = reload(&self.handle, self.shared.times.start).await;
        reloaded.map_err(|failed| Error::new(Kind::Internal, failed))
    }

    /// Closes the application for all handles: calls are answered with [`Kind::Overloaded`], and PHP is ended
    /// when it has answered what it has begun.
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

    /// Queues the request. A handle that is not ready takes a permit if one is free; otherwise the answer is
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

/// One request. It has what is needed while the request waits: a reference to that could not be sent.
struct Exchange<'a> {
    shared: &'a Shared,
    /// When it must have been sent.
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
        // Before it waits: what PHP is not asked for needs none of its processes.
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

    /// Connects to an instance that takes connections.
    async fn connect(&self) -> Result<(Stream, Arc<Generation>, InUse), BoxError> {
        let mut except = None;
        loop {
            let enter = self.shared.generations.enter(except.as_ref());
            let (generation, in_use) = self.wait(enter).await?;
            match Stream::connect(&generation.address).await {
                Ok(stream) => return Ok((stream, generation, in_use)),
                // It has ended by itself, and its successor is on its way.
                Err(_) => except = Some(generation),
            }
        }
    }

    /// Waits until the queue timeout or the request's deadline.
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
