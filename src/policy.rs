//! Policies as pure state machines: load balancing, health, retry budgets, adaptive limits, restarts, allowed
//! destinations. They have no
//! clock and no I/O; time is an argument.
//!
//! ```
//! use std::time::Duration;
//! use vestibule::policy::ewma::PeakLatency;
//!
//! let latency = PeakLatency::new(Duration::from_secs(10));
//! latency.observe(Duration::from_secs(1), Duration::from_millis(100));
//! assert!(latency.get(Duration::from_secs(2)) < Duration::from_millis(100));
//! ```

pub mod backoff;
pub mod destinations;
pub mod ewma;
pub mod gradient;
pub mod health;
pub mod pick;
#[cfg(feature = "worker")]
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need more"))]
pub(crate) mod restart;
pub mod retry_budget;

#[cfg(test)]
mod simulation;
