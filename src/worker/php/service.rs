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

use tempfile::TempDir;
use tokio::sync::Semaphore;
use tower_service::Service;

use super::{exchange::Exchange, generation::Generations};
use crate::{
    Body, Request, Response,
    body::HttpBody,
    error::{BoxError, Error},
    net::Gate,
    peer::Deadline,
    policy::restart::after,
    proto::fcgi::Limits,
    worker::{
        handle::PoolHandle,
        pool::Pool,
        queue::{failed, reservation::Reservation},
    },
};

/// The handle of a PHP application: a `tower::Service`, cheap to clone.
///
/// **Scripts.** The path of a request names a script below the folder (see
/// [`Scripts`](crate::semantics::cgi::Scripts)). Other paths are handled by the front controller, `/index.php`
/// unless set otherwise, or answered with 404 if there is none. Only files with the suffix `.php` are run, and only if they are below the folder after symbolic
/// links are resolved. An upload with another suffix is never run, not even as `/uploads/x.jpg/y.php`. Store uploads
/// outside of the folder, or under generated names, so that none has this suffix.
///
/// **Permits.** There is a permit for each process and each slot of the queue, reserved in `poll_ready` like those of
/// [`Threads`](super::super::Threads). php-fpm never gets more requests than it has processes. A request that waits
/// longer than the queue timeout fails with [`Kind::Overloaded`](crate::error::Kind::Overloaded), and one whose [`Deadline`] passes in the queue with
/// [`Kind::Timeout`](crate::error::Kind::Timeout). Neither is run, and neither is a request whose future was dropped.
///
/// **Connections.** php-fpm and php-cgi have one process for each connection, so an idle connection is an idle process.
/// Requests use it before a new one is opened, until it has been idle for 1 s, and only while its process waits for a
/// request, not while a script goes on after its response (`fastcgi_finish_request`). That saves about a quarter of the
/// CPU of a small script. A request has been handed over when it is written to a connection whose process lives; one
/// whose process has ended, or ends without beginning it as after [`recycle_after`](super::PhpBuilder::recycle_after)
/// requests, is sent to another. With [`spare`](super::PhpBuilder::spare) each request has its own connection.
///
/// **Bodies.** The length of a request's body must be known. A
/// [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front determines it, and keeps slow clients away from
/// PHP. A response is streamed as PHP sends it.
///
/// **Errors.** A request that exceeds the request timeout fails with [`Kind::Timeout`](crate::error::Kind::Timeout), and php-fpm kills its process.
/// A request whose process ends before it responds is sent once more if its method is idempotent (RFC 9110 section
/// 9.2.2) and its body can be [replayed](Body::replay); otherwise it fails with [`Kind::BadGateway`](crate::error::Kind::BadGateway). PHP's error log
/// is written to the log of this process, with the target `vestibule::fastcgi` and the fields of the request.
///
/// **Supervision.** php-fpm is supervised like a worker process: if it ends, it is restarted, with growing pauses, and
/// requests wait for it in the queue. Its processes end when this process ends. When the last handle is dropped, it is
/// stopped after the requests that were called before.
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

pub(super) struct Shared {
    pub(super) generations: Arc<Generations>,
    /// One permit for each queued or running request.
    permits: Arc<Semaphore>,
    /// One permit for each process of PHP.
    pub(super) children: Arc<Semaphore>,
    admitted: usize,
    processes: usize,
    times: Times,
    pub(super) limits: Arc<Limits>,
    pub(super) served: AtomicU64,
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

    /// Returns the number of instances that are not stopped.
    #[cfg(test)]
    pub(crate) fn instances(&self) -> usize {
        self.shared.generations.instances()
    }

    /// Replaces PHP by a new instance, which is ready before the old one is stopped: see [`Php`]. During a reload
    /// there are twice as many processes. It continues if the future is dropped.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::error::Kind::Internal) with [`ReloadFailed`](super::super::ReloadFailed). The old instance continues to serve
    /// requests.
    pub async fn reload(&self) -> Result<(), Error> {
        self.handle.reload(self.shared.times.start).await
    }

    /// Closes the application for all handles: further calls return [`Kind::Overloaded`](crate::error::Kind::Overloaded), and PHP is stopped after its
    /// running requests.
    pub fn close(&self) {
        self.shared.permits.close();
        self.shared.children.close();
        self.handle.close();
    }

    /// [Closes](Self::close) the application and waits until all processes have ended, at most for `within`.
    ///
    /// # Errors
    /// [`Kind::Timeout`](crate::error::Kind::Timeout) with [`StillRunning`](super::super::StillRunning) when that time has passed.
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
    /// [`Kind::Overloaded`](crate::error::Kind::Overloaded).
    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        // The handle, so that PHP is not stopped before the request has its response.
        let (shared, handle) = (self.shared.clone(), self.handle.clone());
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
            if handle.pool().lock().supervisor.has_failed() {
                return Err(failed().into());
            }
            exchange.run(request, permit.permit).await
        }))
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
