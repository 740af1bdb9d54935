//! Decisions as plain state: which endpoint, when to restart. No clock, no sockets.

pub mod backoff;
pub mod gradient;
pub mod pick;
#[cfg(feature = "worker")]
pub(crate) mod restart;
