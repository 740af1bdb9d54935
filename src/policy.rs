//! Policies as pure state machines: load balancing, health, retry budgets, adaptive limits, restarts. They have no
//! clock and no I/O; time is an argument.

pub mod backoff;
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
