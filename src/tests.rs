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
mod half_close;
mod incidents;
mod links;
mod log_lines;
#[cfg(vestibule_loom)]
mod models;
mod names;
mod orders;
mod panics;
mod peers;
mod pipeline;
mod server;
mod shutdown;
mod sites;
mod sleep;
mod slow;
mod source;
mod startup;
mod strata;
mod support;
mod two_hops;
mod upstream;
