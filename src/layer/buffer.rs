//! Buffers between slow clients and the application, which does not wait for them.

pub mod request;
pub mod response;
mod spill;

#[cfg(test)]
mod tests;

pub use request::{RequestBuffer, RequestBufferLayer};
pub use response::{ResponseBuffer, ResponseBufferLayer};
