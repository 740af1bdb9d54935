//! Buffers between slow clients and an application that must not wait for them.

pub mod request;

pub use request::{RequestBuffer, RequestBufferLayer};
