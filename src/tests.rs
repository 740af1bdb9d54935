//! End-to-end tests, one binary.

mod fit;
mod server;
mod strata;
mod support;
mod upstream;
