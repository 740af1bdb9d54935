//! Without the feature `metrics` nobody is told.

use super::Of;

pub(super) fn changed(_: Of, _: u64, _: u64) {}

pub(super) fn refused() {}

pub(super) fn spilled() {}
