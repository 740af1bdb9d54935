//! End-to-end tests, one binary.

mod access_log;
mod admission;
mod attacks;
mod calls;
mod deadlines;
mod driver;
mod early;
mod ends;
mod exhaustion;
mod fit;
mod incidents;
mod log_lines;
mod names;
mod orders;
mod panics;
mod peers;
mod pipeline;
mod server;
mod shutdown;
mod sites;
mod slow;
mod source;
mod strata;
mod support;
mod two_hops;
mod upstream;
