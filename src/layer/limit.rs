//! Limits: how many requests at a time, and how many from one client at a time.
//!
//! A limit belongs to its layer: all services that a layer and its clones make, and all clones of
//! those, share it. What is answered counts until its body has ended or is dropped. A body that is
//! complete with its head (empty, bytes, a slice of a file) does not count beyond it: the service
//! inside has nothing more to do, and the body keeps its kind.

pub mod concurrency;
mod error;
mod held;
pub mod in_flight;
mod key;
mod sharded;
#[cfg(test)]
mod testing;

pub use concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer};
pub use error::{QueueFull, QueueTimeout, RateLimited, TooManyInFlight};
pub use in_flight::{InFlight, InFlightLayer};
pub use key::{IPV6_PREFIX, client_net};
