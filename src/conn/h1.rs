//! HTTP/1.1 over a connection: [`server`] and [`client`].

pub mod client;
pub mod server;
