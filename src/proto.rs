//! Wire protocols as state machines over bytes: no sockets, no tasks, no clocks.

pub mod h1;
