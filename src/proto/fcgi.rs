//! FastCGI 1.0 without a connection: the web server's side, in the responder role.
//!
//! [`Conn`] is the state machine of one connection to an application server such as php-fpm: it writes requests
//! as records and returns responses as events. It has no socket, no task and no clock. It is strict: a record
//! that is not allowed in its state is a [`Fault`], and so is a response that is shorter or longer than its
//! `Content-Length`. Everything that the peer can make grow has a bound in [`Limits`].
//!
//! A connection carries one request at a time, as in nginx and php-fpm, and can carry another when the response
//! has ended. Scripts that write their own status line (`nph-`) are not supported.
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
