//! HTTP semantics (RFC 9110), independent of the version of the protocol: pure functions.

pub mod cache;
pub mod cgi;
pub mod conditional;
pub mod constant_time;
pub mod date;
pub mod etag;
pub mod forwarded;
pub mod gateway;
pub mod hop;
pub mod lookalike;
pub mod negotiate;
pub mod problem;
pub mod range;
pub mod rewrite;
pub mod target;
pub mod upgrade;
pub mod via;
