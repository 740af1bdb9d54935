//! Layers, one file each.
//!
//! Each of them wraps any [`HttpService`](crate::HttpService) and is one itself, whatever the bodies
//! of its requests and responses: over or under an `axum::Router`, and between layers of
//! `tower_http`. They compose with `tower::ServiceBuilder`. In which order they stand is said in
//! [the crate's docs](crate#the-order-of-layers).
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
