//! Layers, one file each, and the one place that says in which order they stand.
//!
//! Each of them wraps any [`HttpService`](crate::HttpService) and is one itself, whatever the bodies
//! of its requests and responses: over or under an `axum::Router`, and between layers of
//! `tower_http`. They compose with `tower::ServiceBuilder`. From the client's side inwards:
//!
//! 1. [`RescueLayer`]: makes every error below it a response. What stands outside of it
//!    sees responses only.
//! 2. [`ClientRateLimitLayer`] and [`InFlightLayer`] for each client, authentication, the router: refuse
//!    before any body is read.
//! 3. [`ResponseBufferLayer`]: frees the application before a slow client has read. It stands
//!    outside of the request buffer only by habit; both orders are right.
//! 4. [`RequestBufferLayer`]: in front of workers, so a slow client occupies none.
//! 5. [`DisconnectLayer`]: what becomes of work whose client leaves. Inside of the request buffer, so
//!    that only whole requests are worked on without one; outside of limits, in which they count.
//! 6. [`ConcurrencyLimitLayer`]: so many at a time. Inside of the request buffer, so that no slow
//!    client holds a place.
//! 7. [`RequestDeadlineLayer`]: what waits or works below draws from one deadline.
//! 8. The application: worker threads, files, a balanced set of servers.
//!
//! A timeout that stands outside of the request buffer also counts the time in which the client
//! sends its body, and answers a slow one 504. For that time there is
//! [`Limits::body_timeout`](crate::proto::h1::Limits::body_timeout), and 408.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use vestibule::{Body, Request, Response, layer};
//!
//! let app = ServiceBuilder::new()
//!     .layer(layer::RescueLayer::new()) // errors end here
//!     .layer(layer::ResponseBufferLayer::new()) // what it answers is taken at once
//!     .layer(layer::RequestBufferLayer::new()) // the application gets whole requests
//!     .layer(layer::RequestDeadlineLayer::new(Duration::from_secs(30))) // and so much time for each
//!     .service(service_fn(|_: Request| async {
//!         Ok::<_, Infallible>(Response::new(Body::from("hello")))
//!     }));
//!
//! # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! let response = rt.block_on(app.oneshot(Request::new(Body::empty()))).unwrap();
//! assert_eq!(response.body().as_bytes().unwrap(), "hello");
//! ```

pub mod buffer;
pub mod disconnect;
pub mod from_fn;
pub mod limit;
#[cfg(test)]
mod probe;
pub mod request_deadline;
pub mod rescue;
pub mod trusted_proxy;

pub use buffer::{RequestBuffer, RequestBufferLayer, ResponseBuffer, ResponseBufferLayer};
pub use disconnect::{Disconnect, DisconnectLayer};
pub use from_fn::{FromFn, FromFnLayer, Next, from_fn};
#[cfg(feature = "limit")]
pub use limit::{ClientRateLimit, ClientRateLimitLayer};
pub use limit::{ConcurrencyLimit, ConcurrencyLimitLayer, InFlight, InFlightLayer};
pub use request_deadline::{RequestDeadline, RequestDeadlineLayer};
pub use rescue::{Rescue, RescueExt, RescueLayer};
pub use trusted_proxy::{ClientField, TrustedProxy, TrustedProxyLayer};
