//! No-op replacements without the feature `metrics`.

use std::time::Duration;

use super::Priority;

pub(super) fn change_waiting(_: Priority, _: usize, _: usize) {}

pub(super) fn count_admitted(_: Priority, _: Duration) {}

pub(super) fn count_refused(_: Priority) {}

pub(super) fn count_abandoned(_: Priority) {}

pub(super) fn count_timed_out(_: Priority) {}
