//! Limits: how many requests at a time, from one client at a time, and from one client how often.
//!
//! | layer | bounds | above it |
//! |---|---|---|
//! | [`ClientRateLimitLayer`] | how often a client asks | 429 at once, with `retry-after` |
//! | [`InFlightLayer`] | how many of a client's requests are answered at a time | 429 at once |
//! | [`ConcurrencyLimitLayer`] | how many requests are inside at a time | they wait, then 503 |
//!
//! The first two refuse before a body is read, so they stand far outside. The last one stands inside
//! of the [request buffer](super::RequestBufferLayer): outside of it, a client that sends its body
//! slowly would hold a place all the while.
//!
//! A limit belongs to its layer: all services that a layer and its clones make, and all clones of
//! those, share it. What is answered counts until its body has ended or is dropped. A body that is
//! complete with its head (empty, bytes, a slice of a file) does not count beyond it: the service
//! inside has nothing more to do, and the body keeps its kind.
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
mod held;
pub mod in_flight;
mod key;
#[cfg(feature = "limit")]
pub mod rate;
mod sharded;
#[cfg(test)]
mod testing;

pub use concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer};
pub use error::{PermitTimeout, QueueFull, RateLimited, TooManyInFlight};
pub use in_flight::{InFlight, InFlightLayer};
#[cfg(feature = "limit")]
pub use rate::{ClientRateLimit, ClientRateLimitLayer};
