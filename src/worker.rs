//! The application tier: workers that run the application.
//!
//! [`threads`] runs it on threads of this process. Each has an instance of its own, made by a
//! factory on that thread, so the application need not be `Send`; it may block, be slow, or
//! panic, and the rest of the process does not notice. The handle is a cheap clone, and a
//! `Service` like any other.
//!
//! ```
//! use std::{cell::Cell, rc::Rc};
//! use tower::{ServiceBuilder, ServiceExt};
//! use vestibule::{Body, Request, Response, layer::RequestBufferLayer, worker};
//!
//! let threads = worker::threads(2, || {
//!     // Made once on each thread; `Rc` is not `Send`, and need not be.
//!     let hits = Rc::new(Cell::new(0));
//!     worker::blocking(move |_request| {
//!         hits.set(hits.get() + 1);
//!         Response::new(format!("request {} of this thread", hits.get()))
//!     })
//! })
//! .start()?;
//! // A worker is handed whole requests, so no slow client keeps it waiting.
//! let app = ServiceBuilder::new().layer(RequestBufferLayer::new()).service(threads);
//!
//! # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! let response = rt.block_on(app.oneshot(Request::new(Body::empty()))).unwrap();
//! assert_eq!(response.body().as_bytes().unwrap(), "request 1 of this thread");
//! # Ok::<_, vestibule::Error>(())
//! ```

mod blocking;
mod builder;
mod error;
mod executor;
mod future;
mod pool;
mod queue;
mod stats;
mod supervisor;
mod threads;

#[cfg(test)]
mod tests;

pub use blocking::{BlockingFuture, BlockingService, IntoResponse, blocking};
pub use builder::{
    Builder, QUEUE_PER_WORKER, QUEUE_TIMEOUT, REQUEST_TIMEOUT, threads, try_threads,
};
pub use error::{
    Closed, DeadlineExceeded, FactoryPanicked, NoWorkers, QueueTimeout, RequestTimeout,
    StillRunning, WorkerPanicked,
};
pub use future::ResponseFuture;
pub use stats::Stats;
pub use threads::Threads;
