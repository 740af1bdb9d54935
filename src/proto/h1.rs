//! HTTP/1.1 (RFC 9112) without a connection: bytes in, events out, and back.
//!
//! [`Conn`] is the whole protocol for one connection, for either [role](Role). It has no socket,
//! no task and no clock, so it can be tested, fuzzed and driven by anything. Parsing is strict: bytes
//! that two parties could read as different messages are a [`Fault`], never repaired. Everything a
//! peer can make grow has a bound in [`Limits`].
//!
//! Heads are parsed line by line as they arrive, each line once; names become `http` types, values
//! are slices of the read buffer. Messages are written from `http` types, with exactly one framing
//! field.
#![doc = include_str!("h1/guide.md")]

mod chunked;
mod conn;
mod encode;
mod error;
mod field_lines;
mod framing;
mod head;
mod keep_alive;
mod lenient;
mod limits;
mod name;
mod parser;
mod request;
mod response;
mod scan;
#[cfg(test)]
pub(crate) mod tests;

#[cfg(feature = "h2")]
pub(super) use chunked::is_forbidden_trailer;
pub(super) use field_lines::FieldLines;
pub(super) use framing::parse_content_length;
pub(super) use name::is_ambiguous as is_ambiguous_name;
pub(super) use request::Host;
pub(super) use response::parse_status_and_reason;
pub(super) use scan::is_target;

pub use conn::{Client, Conn, Event, IdleState, Role, Server};
pub use error::{Fault, Misuse};
pub use framing::Length;
pub use lenient::Lenient;
pub use limits::Limits;
pub use parser::{Fields, HeadParser, RequestHead, ResponseHead};
