//! The front tier and the application tier of a web site, assembled in your own process from
//! composable [`tower`] layers: what NGINX and Gunicorn do together, as a library.
//!
//! ```no_run
//! use std::time::Duration;
//! use tower::ServiceBuilder;
//! use vestibule::{Response, Router, files, layer, serve, upstream::Upstream, worker};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     tracing_subscriber::fmt::init(); // shows the address and a line for each request
//!     // What Gunicorn does: workers, each with its own instance of the application.
//!     let app = worker::threads(8, || worker::blocking(|_request| Response::new("hello"))).start()?;
//!     let api = Upstream::new(["10.0.0.1:3000", "10.0.0.2:3000"])?;
//!
//!     let site = Router::new()
//!         .nest("/static", files::dir("public")) // "/static/a.css" is the file public/a.css
//!         .prefix("/api", api) // the path stays: servers are sent "/api/.."
//!         .fallback(app);
//!
//!     // What NGINX does: buffer slow clients, time out, and answer errors.
//!     let front = ServiceBuilder::new()
//!         .layer(layer::RescueLayer::new())
//!         .layer(layer::ResponseBufferLayer::new())
//!         .layer(layer::RequestBufferLayer::new())
//!         .layer(layer::RequestDeadlineLayer::new(Duration::from_secs(30)))
//!         .service(site);
//!
//!     Ok(serve("0.0.0.0:8080", front).shutdown(serve::shutdown_signal()).await?)
//! }
//! ```
//!
//! # Life of a request
//!
//! - [`net`]: the connection is accepted, if one more is allowed.
//! - [`conn::h1::server`]: its bytes are read and handed to [`proto::h1`], which finds a head, or
//!   a fault with its status. Nothing is reserved for the client so far.
//! - The head is complete: the service's readiness is awaited, the body is not yet read.
//! - [`layer`]: the rescue table, the limits: refuse early.
//! - [`Router`]: by host and path, on the one [normal form](semantics::target) of the path.
//! - [`files`], or [buffers](layer::buffer), a deadline and [`worker`]s, or an [`upstream`] server.
//! - The response goes back up the same way; the response buffer frees the worker before the
//!   client has read. Head and small body leave in one write, a file by `sendfile`.
//!
//! # Three levels
//!
//! Each is complete in itself and built only from the one below; enter at any.
//!
//! | level | modules | a user who enters here |
//! |---|---|---|
//! | facade | [`serve()`], [`Router`] | has a gateway in twenty lines |
//! | services | [`layer`], [`files`], [`upstream`], [`worker`], [`conn`] | builds a custom gateway |
//! | cores | [`proto`], [`semantics`], [`policy`] | uses or fuzzes the HTTP parser alone |
//!
//! The cores have no sockets, no tasks and no clocks; with `default-features = false` they are all
//! there is, and no runtime is compiled.
//!
//! # The order of layers
//!
//! From the client's side inwards:
//!
//! 1. [`TrustedProxyLayer`](layer::TrustedProxyLayer), if there is a proxy in front: what stands inside of
//!    it sees the client, and not that proxy. So does the access log, which the server writes.
//! 2. [`RescueLayer`](layer::RescueLayer): makes every error below it a response. What stands outside of
//!    it sees responses only.
//! 3. [`ClientRateLimitLayer`](layer::ClientRateLimitLayer) and [`InFlightLayer`](layer::InFlightLayer) for
//!    each client, authentication, the router: refuse before any body is read.
//! 4. [`ResponseBufferLayer`](layer::ResponseBufferLayer): frees all below before a slow client has read.
//!    Outside of the request buffer, so that it takes the response of everything that works.
//! 5. [`RequestBufferLayer`](layer::RequestBufferLayer): all below is given whole requests, so a slow client
//!    occupies no permit and no worker, and no time of theirs runs while it sends.
//! 6. [`DisconnectLayer`](layer::DisconnectLayer): what becomes of work whose client leaves. Inside of the
//!    request buffer, so that only whole requests are worked on without one; outside of limits, in which
//!    they count.
//! 7. [`ConcurrencyLimitLayer`](layer::ConcurrencyLimitLayer): so many at a time. Inside of the request
//!    buffer, so that no slow client holds a permit.
//! 8. [`RequestDeadlineLayer`](layer::RequestDeadlineLayer): what waits or works below draws from one
//!    deadline. Inside of the request buffer: outside of it, it would count the time in which the client
//!    sends its body, and answer a slow one 504. For that time there is
//!    [`Limits::body_timeout`](proto::h1::Limits::body_timeout), and 408.
//! 9. The application: worker threads, files, a balanced set of servers.
//!
//! In the program above the buffers stand around the whole site, so their bounds hold for all of it: a
//! request body may have up to [`MAX_BODY`](layer::buffer::request::MAX_BODY), 1 MiB, an upload to
//! `/api` included; see [`max_body`](layer::RequestBufferLayer::max_body). Around one route of the router
//! they hold for that route.
//!
//! # Guides
//!
//! [How to do common tasks](guide::how_to), [with axum](guide::axum), [with tower-http](guide::tower_http), [behind another
//! proxy](guide::behind_a_proxy), [all defaults and limits](guide::limits), [every deadline](serve::deadlines), [every status that the front answers by
//! itself](guide::statuses).
//!
//! # Features
//!
//! All only add. `server`: sockets, drivers, layers, router and `serve`. `files`, `upstream` and
//! `worker` are the services of those names, `process` runs workers as child processes, `limit` is a rate
//! for each client; each brings `server`.
//! These are on by default. `metrics` exports figures through the crate of that name:
//! `vestibule_budget_memory_bytes`, `vestibule_budget_disk_bytes`, `vestibule_budget_refused_total` and
//! `vestibule_budget_spilled_total`, whose types and units are [in a table](budget#metrics).
//!
//! # Logs
//!
//! Events go through [`tracing`](https://docs.rs/tracing); the program installs a subscriber. Every line
//! about a request has the fields `client`, `request_id` ([`peer::RequestId`]), `method` and `path`, the
//! latter without the query, and `error`, the chain of causes with each told once.
//!
//! | target | level | what |
//! |---|---|---|
//! | `vestibule::access` | info | each response, when it has left or its connection has ended: [`conn::access_log`] |
//! | `vestibule::request` | error | a request failed by a fault here: an error of the application, a panic, a service that did not answer in time, a response that cannot be sent |
//! | | warn | no capacity, a timeout, an upstream's failure, a response that was cut, a detached request that failed |
//! | | debug | a request that was refused by the client's fault |
//! | `vestibule::upstream` | warn | an endpoint was ejected |
//! | `vestibule::worker` | error | a worker could not be started, an application panicked while it was dropped |
//! | | warn | a worker that is stuck in a request was abandoned, a worker process had to be killed |
//! | | debug | a worker process has ended |
//! | `vestibule::worker::output` | info | a line that a worker process has written, with the fields `worker`, `pid` and `stream` |
//! | `vestibule::net` | error | connections cannot be accepted |
//! | | warn | there are no descriptors left, a thread cannot be started |
//! | `vestibule::serve` | error | a panic that the connection did not catch |
//! | | warn | a shutdown aborted what was under way |
//! | | debug | a connection failed, or was closed for a limit |
//! | `vestibule::files` | warn | a folder or a name that cannot be served, a file that an application names |
//! | | debug | a folder that cannot be watched, a stale entry that is served, a precompressed file older than its original |
//!
//! A target stands for those below it too: `vestibule::files` for `vestibule::files::root`. The filter
//! `vestibule=info,vestibule::access=off` shows what fails and writes no access log, which then costs
//! nothing; `info,vestibule::request=debug` also shows why a request was refused with 400 or 413.
//! `tracing_subscriber::fmt::init()` reads the filter from the environment variable `RUST_LOG`.
//!
//! Every service here is an [`HttpService`]: a `tower::Service` of requests with any body, whose
//! responses have any body and whose error is any error. So a file server, a thread pool and a remote
//! cluster are interchangeable, and an `axum::Router` or a `tower_http` layer fits in unchanged.
//!
//! [`tower`]: https://docs.rs/tower

#[cfg(all(feature = "server", not(target_os = "linux")))]
compile_error!(
    "the `server` feature needs Linux; the cores (default-features = false) build everywhere"
);

// S0: vocabulary, nothing of ours below it.
pub mod body;
pub mod budget;
pub mod error;
pub mod peer;
#[cfg(feature = "server")]
mod service;
mod sync;

// S1: pure. No runtime, no sockets, no clock: time is an argument.
pub mod policy;
pub mod proto;
pub mod semantics;

// S2: the world. From here up, clocks, sockets and files may be touched.
#[cfg(feature = "server")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "S2 touches the world")]
pub mod net;

// S3: drivers, which marry S1 to S2.
#[cfg(feature = "server")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod conn;

// S4: services. Siblings do not import each other.
#[cfg(feature = "files")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod files;
#[cfg(feature = "server")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod layer;
#[cfg(feature = "server")]
mod route;
#[cfg(feature = "upstream")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod upstream;
#[cfg(feature = "worker")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod worker;

// S5: the facade.
#[cfg(feature = "server")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod serve;

#[cfg(all(feature = "files", feature = "limit", feature = "process", feature = "upstream"))]
pub mod guide;

#[cfg(all(test, feature = "files", feature = "process", feature = "upstream"))]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
mod tests;

/// The README's program compiles.
#[cfg(all(doctest, feature = "files", feature = "upstream", feature = "worker"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use body::Body;
pub use budget::Budget;
pub use error::{BoxError, Error};
#[cfg(feature = "server")]
pub use route::{PathParams, Router};
pub use semantics::target::OriginalUri;
#[cfg(feature = "server")]
pub use serve::serve;
#[cfg(feature = "server")]
pub use service::HttpService;

/// A request with our body.
pub type Request<B = Body> = http::Request<B>;
/// A response with our body.
pub type Response<B = Body> = http::Response<B>;
