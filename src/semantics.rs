//! What HTTP means, apart from how it travels: pure functions of RFC 9110.

pub mod conditional;
pub mod date;
pub mod etag;
pub mod forwarded;
pub mod gateway;
pub mod hop;
pub mod negotiate;
pub mod range;
pub mod target;
