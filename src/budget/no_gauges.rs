//! No-op replacements without the feature `metrics`.

use super::Resource;

pub(super) fn change(_: Resource, _: u64, _: u64) {}

pub(super) fn count_refused() {}

pub(super) fn count_spilled() {}
