//! Buffers between slow clients and an application that must not wait for them.

pub mod request;
pub mod response;
mod spill;

#[cfg(test)]
mod tests;

pub use request::{RequestBuffer, RequestBufferLayer};
pub use response::{ResponseBuffer, ResponseBufferLayer};
