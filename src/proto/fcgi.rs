//! FastCGI 1.0 without a connection: the web server's side, in the responder role.
//!
//! [`Conn`] is the protocol for one connection to an application server such as php-fpm: requests go
//! out as records, responses come back as events. It has no socket, no task and no clock. What it
//! reads it reads strictly: a record that has no place in the exchange is a [`Fault`], and a response
//! that is shorter or longer than its `Content-Length` too. Everything a peer can grow has a bound in
//! [`Limits`].
//!
//! A connection carries one request at a time, as nginx and php-fpm have it, and may serve another
//! when the response has ended. Scripts that write their own status line (`nph-`) are not supported.
#![doc = include_str!("fcgi/guide.md")]

mod conn;
mod error;
mod limits;
mod pairs;
mod params;
mod record;
mod response;
#[cfg(test)]
pub(crate) mod tests;

pub use conn::{Conn, Event};
pub use error::{Fault, Misuse, Rejection};
pub use limits::Limits;
pub use params::Params;
pub use record::MAX_CONTENT;
