//! Metrics, summed over all budgets of the process.

use metrics::{counter, gauge};

use super::Resource;

pub(super) fn change(resource: Resource, from: u64, to: u64) {
    let gauge = match resource {
        Resource::Memory => gauge!("vestibule_budget_memory_bytes"),
        Resource::Disk => gauge!("vestibule_budget_disk_bytes"),
    };
    gauge.increment(to as f64 - from as f64);
}

pub(super) fn count_refused() {
    counter!("vestibule_budget_refused_total").increment(1);
}

pub(super) fn count_spilled() {
    counter!("vestibule_budget_spilled_total").increment(1);
}
