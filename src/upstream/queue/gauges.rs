//! Metrics of the queues, by the priority of the request.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::Priority;

fn label(class: Priority) -> [(&'static str, &'static str); 1] {
    [(
        "priority",
        match class {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        },
    )]
}

pub(super) fn change_waiting(class: Priority, from: usize, to: usize) {
    gauge!("vestibule_balance_queue_waiting", &label(class)).increment(to as f64 - from as f64);
}

pub(super) fn count_admitted(class: Priority, wait: Duration) {
    histogram!("vestibule_balance_queue_wait_seconds", &label(class)).record(wait.as_secs_f64());
}

pub(super) fn count_refused(class: Priority) {
    counter!("vestibule_balance_queue_refused_total", &label(class)).increment(1);
}

pub(super) fn count_abandoned(class: Priority) {
    counter!("vestibule_balance_queue_abandoned_total", &label(class)).increment(1);
}

pub(super) fn count_timed_out(class: Priority) {
    counter!("vestibule_balance_queue_timed_out_total", &label(class)).increment(1);
}
