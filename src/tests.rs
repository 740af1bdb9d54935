//! End-to-end tests, one binary.

mod access_log;
mod admission;
mod attacks;
mod cache_pool;
mod cache_tiers;
mod calls;
#[cfg(feature = "compression")]
mod compressed_once;
mod deadlines;
mod driver;
mod early;
mod ends;
mod exhaustion;
mod fit;
#[cfg(feature = "h2")]
mod grpc;
#[cfg(feature = "h2")]
mod h2;
mod half_close;
#[cfg(feature = "hyper")]
mod hyper_upgrade;
#[cfg(not(miri))]
mod idle_memory;
mod incidents;
mod links;
mod log_lines;
mod models;
mod names;
mod orders;
mod panics;
mod peers;
mod pipeline;
mod proxy_protocol;
mod server;
mod shutdown;
mod sites;
mod sleep;
mod slow;
mod source;
mod startup;
#[cfg(all(feature = "h2", feature = "tls"))]
mod stopped;
mod strata;
mod support;
#[cfg(feature = "tls")]
mod tls;
mod tunnels;
mod two_hops;
mod upgrade;
mod upstream;
