//! The front tier and the application tier of a web site, assembled from `tower` layers.

// S0: vocabulary, nothing of ours below it.
pub mod body;
pub mod error;
pub mod peer;

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

#[cfg(all(test, feature = "files", feature = "upstream", feature = "worker"))]
mod tests;

pub use body::Body;
pub use error::{BoxError, Error};
#[cfg(feature = "server")]
pub use route::{OriginalUri, Router};
#[cfg(feature = "server")]
pub use serve::serve;

/// A request with our body.
pub type Request<B = Body> = http::Request<B>;
/// A response with our body.
pub type Response<B = Body> = http::Response<B>;
