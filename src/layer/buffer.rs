//! Buffers between slow clients and the application: the application gets complete requests, and is free before a slow client
//! has read the response.
//!
//! ```
//! use tower::{ServiceBuilder, service_fn};
//! use vestibule::{Body, BoxError, Request, Response, layer::{RequestBufferLayer, ResponseBufferLayer}};
//!
//! let app = ServiceBuilder::new()
//!     .layer(ResponseBufferLayer::new())
//!     .layer(RequestBufferLayer::new().max_body(10 << 20)) // uploads of up to 10 MiB
//!     .service(service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty()))));
//! # drop(app);
//! ```

pub mod request;
pub mod response;
mod spill;

#[cfg(test)]
mod tests;

pub use request::{RequestBuffer, RequestBufferLayer};
pub use response::{ResponseBuffer, ResponseBufferLayer};
