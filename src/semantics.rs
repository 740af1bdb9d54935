//! HTTP semantics (RFC 9110), independent of the version of the protocol: pure functions on methods, targets and fields.
//!
//! ```
//! use vestibule::semantics::{range::{self, Part}, target::normalize};
//!
//! assert_eq!(normalize("/caf%C3%A9").unwrap(), "/café");
//! assert!(normalize("/public/..%2fadmin").is_err());
//! assert_eq!(range::parse(b"bytes=0-99", 1000), Part::Slice { first: 0, last: 99 });
//! ```

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
