//! Limits on concurrent requests, on a client's concurrent requests, and on a client's request rate.
//!
//! | layer | limits | above the limit |
//! |---|---|---|
//! | [`ClientRateLimitLayer`] | the request rate of a client | 429 at once, with `retry-after` |
//! | `SharedRateLimitLayer` (feature `redis`) | the request rate of a client at several fronts together, with counters in Redis | 429 at once |
//! | [`InFlightLayer`] | the requests of a client in flight | 429 at once |
//! | [`ConcurrencyLimitLayer`] | the requests in the inner service | requests wait, then 503 |
//!
//! The first three refuse a request before its body is read, so put them far outside. Put the last one inside
//! the [request buffer](super::RequestBufferLayer): outside it, a client that sends its body slowly would
//! hold a permit all the time.
//!
//! A limit belongs to its layer: all services that a layer and its clones make, and all clones of those
//! services, share it. A request counts until the body of its response has ended or is dropped. A body that
//! is complete with its head (empty, bytes, a slice of a file) does not count any longer than that: the
//! inner service has nothing more to do, and the body keeps its kind.
//!
//! ```
//! use std::time::Duration;
//! use tower::ServiceBuilder;
//! use vestibule::{Body, BoxError, Request, Response, layer};
//!
//! let app = ServiceBuilder::new()
//!     .layer(layer::RescueLayer::new()) // makes 429 and 503 of the refusals
//!     .layer(layer::ClientRateLimitLayer::per_ip(10, Duration::from_secs(1), 50))
//!     .layer(layer::InFlightLayer::per_ip(20))
//!     .layer(layer::RequestBufferLayer::new())
//!     .layer(layer::ConcurrencyLimitLayer::new(100))
//!     .service_fn(|_: Request| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
//! # drop(app);
//! ```

pub mod concurrency;
mod error;
pub mod in_flight;
mod key;
#[cfg(feature = "limit")]
pub mod rate;
mod response_guard;
mod sharded;
#[cfg(feature = "redis")]
pub mod shared_rate;
#[cfg(test)]
mod testing;

pub use concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer};
pub use error::{PermitTimeout, QueueFull, RateLimited, TooManyInFlight};
pub use in_flight::{InFlight, InFlightLayer};
#[cfg(feature = "limit")]
pub use rate::{ClientRateLimit, ClientRateLimitLayer};
#[cfg(feature = "redis")]
pub use shared_rate::{SharedLimitError, SharedLimitStats, SharedRateLimit, SharedRateLimitLayer};
