//! The figures as metrics, summed over all budgets of the process.

use metrics::{counter, gauge};

use super::Of;

pub(super) fn changed(of: Of, from: u64, to: u64) {
    let gauge = match of {
        Of::Memory => gauge!("vestibule_budget_memory_bytes"),
        Of::Disk => gauge!("vestibule_budget_disk_bytes"),
    };
    gauge.increment(to as f64 - from as f64);
}

pub(super) fn refused() {
    counter!("vestibule_budget_refused_total").increment(1);
}

pub(super) fn spilled() {
    counter!("vestibule_budget_spilled_total").increment(1);
}
