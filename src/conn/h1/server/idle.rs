//! `Idle`: the state of a connection while it is idle.

use std::time::Instant;

use crate::{conn::first_read::FirstRead, proto::h1::IdleState};

/// The state of the core, and the size of the next read. In one struct, since there the size takes no more memory:
/// there may be thousands of idle connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    since: Instant,
    is_head_due: bool,
    pub(super) first_read: FirstRead,
}

impl Idle {
    pub(super) fn new(core: IdleState, first_read: FirstRead) -> Self {
        Self { since: core.since(), is_head_due: core.is_head_due(), first_read }
    }

    /// Returns the state of the core.
    pub(super) fn core(self) -> IdleState {
        IdleState::with_head_due(self.since, self.is_head_due)
    }
}
