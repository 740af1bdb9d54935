//! Wire protocols as state machines over bytes: no sockets, no tasks, no clocks.

pub mod fcgi;
pub mod gate;
pub mod h1;
#[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "only its driver uses all of it"))]
pub mod h2;
pub mod proxy;
pub mod websocket;
