//! What HTTP means, apart from how it travels: pure functions of RFC 9110.

pub mod target;
