//! Wire protocols as state machines over bytes: no sockets, no tasks, no clocks.

pub mod fcgi;
pub mod gate;
pub mod h1;
pub mod proxy;
