//! HTTP/2 (RFC 9113) over a transport, by the crate `h2`.

pub mod client;
pub mod server;

mod inbox;
mod stream;
mod unread;
mod unsent;
mod wakers;
mod wire;
