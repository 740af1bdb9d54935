//! Drivers: a protocol core married to a connection.

pub mod h1;
mod output;
mod scratch;
mod timer;
