//! The front tier and the application tier of a web site, built in your own process from [`tower`] layers:
//! what NGINX and Gunicorn do together, as a library. [Common tasks](guide::how_to) lists what to use for which task.
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
//!         .prefix("/api", api) // the path is kept: servers receive "/api/.."
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
//! 1. [`net`] accepts the connection, within the limit of connections.
//! 2. [`conn::h1::server`] reads bytes, in which [`proto::h1`] finds a head, or a fault with a status. No
//!    capacity is reserved for the client so far.
//! 3. When the head is complete, the driver awaits the service's readiness. It has not yet read the body.
//! 4. [`layer`]s rewrite and refuse: the client behind a proxy, limits, and responses to errors.
//! 5. [`Router`] selects a service by host and by the [normal form](semantics::target) of the path.
//! 6. [`files`] answers, or a [`worker`] behind [buffers](layer::buffer) and a deadline, or an [`upstream`]
//!    server.
//! 7. The response returns through the same layers. The response buffer frees the worker before the client has
//!    read the response. A head and a small body are sent in one write, files by `sendfile`.
//!
//! # Three levels
//!
//! Each level is built only on the one below it, and can be used without those above.
//!
//! | level | modules | use |
//! |---|---|---|
//! | facade | [`serve()`], [`Router`] | a gateway in twenty lines |
//! | services | [`layer`], [`cache`], [`files`], [`upstream`], [`worker`], [`conn`] | a custom gateway |
//! | cores | [`proto`], [`semantics`], [`policy`] | the HTTP parser alone; fuzzing |
//!
//! The cores have no sockets, tasks or clocks. With `default-features = false` only they are compiled, without a
//! runtime.
//!
//! Every service here is an [`HttpService`]: a `tower::Service` of requests with any body, whose responses have
//! any body and whose error is any error. A file server, a thread pool and a remote cluster are interchangeable,
//! and an `axum::Router` or a `tower_http` layer fits in unchanged.
//!
//! # The order of layers
//!
//! The recommended order, from the outermost layer, which sees a request first, to the application. Leave out what
//! you do not need. Every other order is safe too; the table says what is lost.
//!
//! | | layer | effect | why here |
//! |---|---|---|---|
//! | 1 | [`TrustedProxyLayer`](layer::TrustedProxyLayer) | finds the client behind a proxy | the layers inside, and the access log, then see the client and not the proxy |
//! | 2 | [`HttpsLayer`](layer::HttpsLayer) | redirects plain HTTP to HTTPS | no other layer answers such a request |
//! | 3 | [`RescueLayer`](layer::RescueLayer) | turns every error into a response | layers outside of it see responses only: [`ErrorPagesLayer`](layer::ErrorPagesLayer), [`EditFieldsLayer`](layer::EditFieldsLayer) |
//! | 4 | [`ClientRateLimitLayer`](layer::ClientRateLimitLayer), [`InFlightLayer`](layer::InFlightLayer), [access and authentication](guide::site), the [`Router`] | limit the requests of each client, refuse, route | they refuse before a body is read |
//! | 5 | [`CacheLayer`](cache::CacheLayer) | answers from stored responses | hits need nothing of what follows; inside of the `RescueLayer`, so that a stale response can replace an error |
//! | 6 | [`CompressionLayer`](layer::CompressionLayer) | compresses responses | inside of the cache, which stores each coding once |
//! | 7 | [`BandwidthLayer`](layer::BandwidthLayer) | limits the rate of a response | outside of the response buffer, which would be filled at this rate otherwise |
//! | 8 | [`ResponseBufferLayer`](layer::ResponseBufferLayer) | buffers responses for slow clients | outside of everything that holds a worker, a permit or memory, so that all of it is released before a slow client has read the response |
//! | 9 | [`RequestDecompressionLayer`](layer::RequestDecompressionLayer) | decodes compressed requests | outside of the request buffer, whose bounds then count decoded bytes |
//! | 10 | [`RequestBufferLayer`](layer::RequestBufferLayer) | passes on complete requests only | a client that sends slowly then occupies no permit and no worker, and uses up no deadline |
//! | 11 | [`DisconnectLayer`](layer::DisconnectLayer) | cancels or completes requests whose client disconnects | inside of the request buffer, since only a complete request can be completed; outside of the limits, which count it |
//! | 12 | [`ConcurrencyLimitLayer`](layer::ConcurrencyLimitLayer) | limits concurrent requests | inside of the request buffer, so that no slow client holds a permit |
//! | 13 | [`RequestDeadlineLayer`](layer::RequestDeadlineLayer) | sets one deadline for waiting and work | inside of the request buffer: outside, it would include the time in which the client sends its body, and a slow client would get 504 instead of 408 ([`Limits::body_timeout`](proto::h1::Limits::body_timeout)) |
//! | 14 | [`worker`], [`files`], [`upstream`] | the application | |
//!
//! In the program above the buffers wrap the whole site, so their bounds apply to all of it: a request body,
//! including an upload to `/api`, may have at most [`MAX_BODY`](layer::buffer::request::MAX_BODY), 1 MiB
//! ([`max_body`](layer::RequestBufferLayer::max_body) changes that). Layers can also wrap a single route.
//!
//! # Guides
//!
//! | guide | |
//! |---|---|
//! | [common tasks](guide::how_to) | assembling the front, clients, files, cache, upstreams, workers, limits and logs |
//! | [with axum](guide::axum), [with tower-http](guide::tower_http) | around, inside and between their services and layers |
//! | [a cache](guide::cache) | in front of servers, what it stores, invalidation, the public test suite |
//! | [what every site needs](guide::site) | redirects, fields, access, authentication, error pages |
//! | [from an `nginx.conf`](guide::nginx), [from Gunicorn and uvicorn](guide::gunicorn) | the usual directives and options, what takes their place, and a program |
//! | [child processes](guide::processes) | background workers, a sandbox, hooks, event streams, memory |
//! | [behind another proxy](guide::behind_a_proxy) | the address of the client |
//! | [defaults and limits](guide::limits) | every option with its default, and the status beyond it |
//! | [deadlines](serve::deadlines) | how long a server waits, and for what |
//! | [the cost of TLS and HTTP/2](guide::tls) | figures beside nginx and HAProxy, and TLS in the kernel |
//! | [statuses](guide::statuses) | the responses that this crate generates itself, why, and what to do |
//! | [build](guide::build) | the release profile, profile-guided optimization |
//!
//! # Features
//!
//! | feature | on by default | adds |
//! |---|---|---|
//! | `server` | yes | sockets, drivers, layers, the router and `serve` |
//! | `cache`, `files`, `upstream`, `worker` | yes | the services of these names; each enables `server` |
//! | `process` | yes | workers that are child processes |
//! | `limit` | yes | rate limits for each client |
//! | `redis` | no | a rate limit and invalidations of a cache that several fronts share through Redis |
//! | `compression` | no | compressed responses and requests; compiles C code for zstd |
//! | `tls` | yes | TLS for listeners, and to servers |
//! | `h2` | yes | HTTP/2 |
//! | `hyper` | no | WebSockets of services that are written for hyper, such as axum's |
//! | `self-signed` | no | a certificate for development |
//! | `dns`, `etcd` | no | [sources of endpoints](upstream::discover); each enables `upstream` |
//! | `metrics` | no | metrics of the [budget](budget#metrics) and of the [queue of a balancer](upstream::QueueStats), through the crate `metrics` |
//!
//! # Logs
//!
//! Log lines are events of [`tracing`](https://docs.rs/tracing), for which the program installs a subscriber. Every
//! line about a request has the fields `client`, `request_id` ([`peer::RequestId`]), `method`, `path` (without the
//! query) and `error` (the chain of causes).
//!
//! | target | level | event |
//! |---|---|---|
//! | `vestibule::access` | info | each response, when it has been sent or its connection has ended: [`conn::access_log`] |
//! | `vestibule::request` | error | a failure of this server: an error or a panic of the application, a service that did not answer in time, a response that cannot be encoded |
//! | | warn | no capacity, a timeout, a failure of an upstream, a response that was aborted, a detached request that failed |
//! | | debug | a request that was refused because of an error of the client |
//! | `vestibule::upstream` | warn | an endpoint was ejected or is down, a source of endpoints failed or has none |
//! | | info | an endpoint is up again |
//! | `vestibule::worker` | error | a worker could not be started, an application panicked while it was dropped, a hook panicked |
//! | | error | an application in Python raised an exception, with its traceback |
//! | | warn | a worker that is stuck in a request was abandoned, a worker process was killed |
//! | | warn | a daemon or php-fpm ended by itself, a worker cannot fork the others or has ended while it did |
//! | | info | a worker forks the others, see [`refork_after`](worker::ProcessesBuilder::refork_after) |
//! | | warn | a worker process ended with an error, with its status |
//! | | debug | a worker process ended |
//! | `vestibule::worker::output` | info | a line of output of a worker process, or what an application wrote to `wsgi.errors`, with the fields `worker`, `pid` and `stream` |
//! | `vestibule::tls` | error | certificates cannot be reloaded |
//! | | info | certificates were reloaded |
//! | | debug | a handshake failed |
//! | `vestibule::proxy_protocol` | warn | a trusted sender sent no valid PROXY header |
//! | | debug | an address that is not trusted sent one |
//! | `vestibule::net` | error | connections cannot be accepted |
//! | | warn | no descriptors are left, a thread cannot be started |
//! | `vestibule::serve` | error | the task of a connection panicked, signals cannot be handled |
//! | | warn | a shutdown aborted connections, a second signal ended the process |
//! | | info | the address of a server |
//! | | debug | a connection failed, or was closed by a limit |
//! | `vestibule::tunnel` | debug | a tunnel has ended, or its destination is not allowed |
//! | `vestibule::tcp` | warn | a connection could not be forwarded |
//! | | debug | a forwarded connection has ended |
//! | `vestibule::fastcgi` | warn | a line that an application of FastCGI wrote to its standard error |
//! | `vestibule::cache` | error | the journal of invalidations cannot be written |
//! | | warn | the directory of a cache cannot be read or written |
//! | | info | the invalidations of other fronts are received |
//! | | debug | a stored response cannot be refreshed or read |
//! | `vestibule::layer` | warn | a rate limit shared by several servers has lost its store |
//! | | info | the store is reachable again |
//! | `vestibule::files` | warn | a directory or a file cannot be served, also one that an application has named |
//! | | debug | a directory cannot be watched, a stale entry was served, a precompressed file is older than its original |
//!
//! A filter for a target includes the targets below it: `vestibule::files` includes `vestibule::files::root`. The filter
//! `vestibule=info,vestibule::access=off` shows failures and disables the access log, which then costs
//! nothing; `info,vestibule::request=debug` also shows why a request was refused with 400 or 413.
//! `tracing_subscriber::fmt::init()` reads the filter from the environment variable `RUST_LOG`. Without the variable it shows
//! everything from `INFO` on; but if any crate enables the feature `env-filter` of `tracing-subscriber`, errors only. Then
//! set `RUST_LOG=info`.
//!
//! [`tower`]: https://docs.rs/tower

#[cfg(all(feature = "server", not(target_os = "linux")))]
compile_error!(
    "the `server` feature needs Linux: use `default-features = false` for the cores, which build everywhere"
);

// S0: shared types, which depend on no other module.
pub mod body;
pub mod budget;
pub mod error;
pub mod peer;
#[cfg(feature = "server")]
mod service;
mod sync;

// S1: cores, without runtime, sockets or clock: `now` is an argument.
pub mod policy;
pub mod proto;
pub mod semantics;

// S2: I/O. Clocks, sockets and files are allowed from here upwards.
#[cfg(feature = "server")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "S2 does I/O")]
pub mod net;

// S3: drivers, which run a core of S1 over a transport of S2.
#[cfg(feature = "server")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod conn;

// S4: services, which do not import each other.
#[cfg(feature = "cache")]
#[allow(clippy::disallowed_methods, reason = "above S2")]
pub mod cache;
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

#[cfg(all(
    feature = "cache",
    feature = "files",
    feature = "h2",
    feature = "limit",
    feature = "process",
    feature = "tls",
    feature = "upstream"
))]
pub mod guide;

// A test includes a module of an example, which names this crate.
#[cfg(test)]
extern crate self as vestibule;

#[cfg(all(test, feature = "cache", feature = "files", feature = "process", feature = "upstream"))]
#[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests")]
mod tests;

/// The README's program compiles.
#[cfg(all(doctest, feature = "files", feature = "process", feature = "upstream"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use body::Body;
pub use budget::Budget;
pub use error::{BoxError, Error};
#[cfg(feature = "tls")]
pub use net::tls;
#[cfg(feature = "server")]
pub use route::{PathParams, Router};
pub use semantics::target::OriginalUri;
#[cfg(feature = "server")]
pub use serve::serve;
#[cfg(feature = "server")]
pub use service::HttpService;

/// An `http::Request`, by default with [`Body`].
pub type Request<B = Body> = http::Request<B>;
/// An `http::Response`, by default with [`Body`].
pub type Response<B = Body> = http::Response<B>;
