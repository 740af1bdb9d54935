//! Layers, one file each.
//!
//! Each layer wraps any [`HttpService`](crate::HttpService) and makes one, with any request and response
//! bodies: over or under an `axum::Router`, and between layers of
//! `tower_http`. They compose with `tower::ServiceBuilder`. [The crate's docs](crate#the-order-of-layers)
//! explain their order.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use vestibule::{Body, Request, Response, layer};
//!
//! let app = ServiceBuilder::new()
//!     .layer(layer::RescueLayer::new()) // errors end here
//!     .layer(layer::ResponseBufferLayer::new()) // slow clients do not occupy the application
//!     .layer(layer::RequestBufferLayer::new()) // the application gets whole requests
//!     .layer(layer::RequestDeadlineLayer::new(Duration::from_secs(30))) // and bounded time for each
//!     .service(service_fn(|_: Request| async {
//!         Ok::<_, Infallible>(Response::new(Body::from("hello")))
//!     }));
//!
//! # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! let response = rt.block_on(app.oneshot(Request::new(Body::empty()))).unwrap();
//! assert_eq!(response.body().as_bytes().unwrap(), "hello");
//! ```

pub mod access;
#[cfg(test)]
mod assert_ready;
pub mod bandwidth;
pub mod basic_auth;
pub mod buffer;
mod called_or_answered;
#[cfg(feature = "compression")]
pub mod compression;
#[cfg(feature = "compression")]
pub mod decompression;
pub mod disconnect;
pub mod early_data;
pub mod edit_fields;
pub mod error_pages;
pub mod filter;
pub mod forward_auth;
pub mod from_fn;
pub mod https;
#[cfg(feature = "hyper")]
pub mod hyper_upgrade;
pub mod limit;
pub mod maintenance;
pub mod redirect;
pub mod request_deadline;
pub mod rescue;
pub mod trusted_proxy;

pub use access::{Access, AccessLayer};
pub use bandwidth::{Bandwidth, BandwidthLayer};
pub use basic_auth::{BasicAuth, BasicAuthLayer};
pub use buffer::{RequestBuffer, RequestBufferLayer, ResponseBuffer, ResponseBufferLayer};
#[cfg(feature = "compression")]
pub use compression::{Compression, CompressionLayer};
#[cfg(feature = "compression")]
pub use decompression::{RequestDecompression, RequestDecompressionLayer};
pub use disconnect::{Disconnect, DisconnectLayer};
pub use early_data::{EarlyData, EarlyDataLayer};
pub use edit_fields::{EditFields, EditFieldsLayer};
pub use error_pages::{ErrorPages, ErrorPagesLayer};
pub use filter::{Filtered, HeadFilter};
pub use forward_auth::{ForwardAuth, ForwardAuthLayer};
pub use from_fn::{FromFn, FromFnLayer, Next, from_fn};
pub use https::{Https, HttpsLayer};
#[cfg(feature = "hyper")]
pub use hyper_upgrade::{HyperUpgrade, HyperUpgradeLayer};
#[cfg(feature = "limit")]
pub use limit::{ClientRateLimit, ClientRateLimitLayer};
pub use limit::{ConcurrencyLimit, ConcurrencyLimitLayer, InFlight, InFlightLayer};
#[cfg(feature = "redis")]
pub use limit::{SharedRateLimit, SharedRateLimitLayer};
pub use maintenance::{Maintenance, MaintenanceLayer};
pub use redirect::{Redirect, RedirectLayer, RewritePath, RewritePathLayer};
pub use request_deadline::{RequestDeadline, RequestDeadlineLayer};
pub use rescue::{Rescue, RescueExt, RescueLayer};
pub use trusted_proxy::{ClientField, TrustedProxy, TrustedProxyLayer};
