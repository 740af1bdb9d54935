//! Limits, and why they refuse.

mod error;

pub use error::{QueueFull, QueueTimeout, RateLimited, TooManyInFlight};
