//! The application tier: a pool of workers that run the application.
//!
//! [`threads`] runs it on threads of this process. Each thread builds an instance of the application
//! with a factory, so the application need not be `Send`. It may block, be slow or panic without
//! effect on the rest of the process. [`Threads`] is the handle: a `Service`, cheap to clone.
//!
//! ```
//! use std::{cell::Cell, rc::Rc};
//! use tower::{ServiceBuilder, ServiceExt};
//! use vestibule::{Body, Request, Response, layer::RequestBufferLayer, worker};
//!
//! let threads = worker::threads(2, || {
//!     // Built once on each thread; an `Rc` is not `Send`.
//!     let hits = Rc::new(Cell::new(0));
//!     worker::blocking(move |_request| {
//!         hits.set(hits.get() + 1);
//!         Response::new(format!("request {} of this thread", hits.get()))
//!     })
//! })
//! .start()?;
//! // Workers receive complete requests, and never wait for a slow client.
//! let app = ServiceBuilder::new().layer(RequestBufferLayer::new()).service(threads);
//!
//! # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! let response = rt.block_on(app.oneshot(Request::new(Body::empty()))).unwrap();
//! assert_eq!(response.body().as_bytes().unwrap(), "request 1 of this thread");
//! # Ok::<_, vestibule::Error>(())
//! ```
//!
//! [`process`](process()) runs it in child processes, in any language: any program that serves HTTP/1.1 on a Unix
//! socket. [`Processes`] is the handle, with the same contract.
//!
//! ```no_run
//! use vestibule::worker::{self, Command};
//!
//! let gunicorn = Command::new("gunicorn").arg("mysite.wsgi");
//! let django = worker::process(gunicorn).workers(4).recycle_after(10_000, 1_000).start()?;
//! # Ok::<_, vestibule::Error>(())
//! ```
//!
//! [`wsgi`] and [`asgi`] run Python applications in child processes. They need a Python interpreter and no other
//! server.
//!
//! ```no_run
//! use vestibule::worker;
//!
//! let django = worker::wsgi("mysite.wsgi:application").directory("/srv/mysite").workers(4).start()?;
//! # Ok::<_, vestibule::Error>(())
//! ```
//!
//! [`daemon`](daemon()) runs other programs under the same supervisor, for example a Celery worker, and [`php`](php())
//! a PHP application.
//!
//! # Errors
//!
//! The source of an [`Error`](crate::Error) of a pool is one of these, or the application's own error.
//!
//! | source | kind | the request |
//! |---|---|---|
//! | [`QueueTimeout`] | `Overloaded` | got no permit or no worker within the queue timeout, and was not run |
//! | [`DeadlineExceeded`] | `Timeout` | waited in the queue beyond its deadline, and was not run |
//! | [`Closed`] | `Overloaded` | arrived at a closed pool, or was queued when a shutdown timed out |
//! | [`RequestTimeout`] | `Timeout` | exceeded the request timeout or its deadline |
//! | [`DrainTimeout`] | `Timeout` | exceeded the drain timeout after its worker was replaced |
//! | [`WorkerPanicked`] | `Internal` | caused a panic of the application |
//! | [`WorkersFailed`] | `Overloaded` | arrived while no worker could be started, and was not run |
//! | [`Cause`](crate::conn::h1::client::Cause) | `BadGateway` | was sent to a worker process that ended, or whose response is not HTTP |
//! | [`GateError`] | `BadGateway` | was sent to a worker of [`wsgi`] that ended or violated the protocol |
//! | [`io::Error`](std::io::Error) | `Overloaded` | needs a connection or a pipe to a worker process, and this process has no free descriptor; was not run |
//! | [`io::Error`](std::io::Error) | `BadGateway` | was answered with a file by a worker of [`wsgi`], and this process has no free descriptor for it |
//! | [`ApplicationError`] | `Internal` | made a Python application raise an exception, or return an invalid response |
//!
//! ```
//! use std::{error::Error as _, time::Duration};
//! use tower::ServiceExt;
//! use vestibule::{Body, Error, Request, Response, worker};
//!
//! let app = || worker::blocking(|_request| -> Response<&str> { panic!("no such table") });
//! let threads = worker::threads(1, app).start()?;
//! # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! let error = rt.block_on(threads.oneshot(Request::new(Body::empty()))).unwrap_err();
//! let source = Error::find(&*error).and_then(|e| e.source()).unwrap();
//! let panicked = source.downcast_ref::<worker::WorkerPanicked>().unwrap();
//! assert_eq!(panicked.message, "no such table");
//! # Ok::<_, Error>(())
//! ```
//!
//! # Structure
//!
//! ```text
//! handle --push--> Queue <--next-- worker <--start, abort, abandon, stop-- Executor
//!                    |                |                                     ^
//!                    |                +--ready, done, exit--+               | actions
//!                    |                                      v               |
//!                    +--expired requests--> supervisor (policy::restart::Supervisor)
//! ```
//!
//! The queue and the supervisor's state are behind the one lock of the pool. The queue knows workers
//! by their id, the supervisor uses neither clock nor threads, and an executor is all that another
//! kind of worker has to implement.

mod blocking;
mod builder;
#[cfg(feature = "process")]
mod daemon;
mod error;
mod executor;
mod future;
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need more"))]
mod handle;
#[cfg(feature = "process")]
mod php;
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need more"))]
mod pool;
#[cfg(feature = "process")]
mod process;
#[cfg(feature = "process")]
mod processes;
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need more"))]
mod queue;
mod settings;
mod stats;
mod supervisor;
mod threads;

#[cfg(test)]
mod tests;

#[cfg(feature = "process")]
pub use crate::net::process::{
    Command, ExitStatus, FileAccess, LandlockUnsupported, ResourceLimit, StopSignal,
};
pub use blocking::{BlockingFuture, BlockingService, IntoResponse, blocking};
pub use builder::{ThreadsBuilder, threads, try_threads};
#[cfg(feature = "process")]
pub use daemon::{Daemon, DaemonBuilder, DaemonStats, daemon};
pub use error::{
    Closed, DeadlineExceeded, DrainTimeout, FactoryPanicked, NoWorkers, QueueTimeout, ReloadFailed,
    RequestTimeout, StillRunning, WorkerPanicked, WorkersFailed,
};
pub use future::ResponseFuture;
#[cfg(feature = "process")]
pub use php::{NoPhp, Php, PhpBuilder, PhpFuture, PhpStats, UserRequired, php};
#[cfg(feature = "process")]
pub use process::{
    ApplicationError, ExitedEarly, GateError, HEALTH_TIMEOUT, Http, NotReady, ProcessesBuilder,
    Protocol, Python, START_TIMEOUT, STOP_TIMEOUT, WorkerProcess, asgi, process, wsgi,
};
#[cfg(feature = "process")]
pub use processes::{Processes, ProcessesFuture};
pub use settings::{IDLE_TIMEOUT, QUEUE_PER_WORKER, QUEUE_TIMEOUT, REQUEST_TIMEOUT};
pub use stats::Stats;
pub use threads::Threads;
