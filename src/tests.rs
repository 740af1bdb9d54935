//! End-to-end tests, one binary.

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
mod names;
mod log_lines;
mod orders;
mod peers;
mod pipeline;
mod server;
mod sites;
mod slow;
mod source;
mod strata;
mod support;
mod two_hops;
mod upstream;
