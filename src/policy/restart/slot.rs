//! `Slot`: a place for one worker, and what that worker does.

use std::time::Instant;

use super::WorkerId;

/// A place for one worker at a time.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Exits in a row with no completed request in between.
    pub(super) failures: u32,
}

/// ```text
///            Start             on_ready         on_begin
///   Vacant --------> Starting ----------> Idle ----------> Busy
///   ^ ^ ^ ^             |                 | ^               | |
///   | | | |   on_exit   |                 | |    on_done    | | on_done, crashed
///   | | | +-------------+     on_exit     | +---------------+ v
///   | | +---------------------------------+               Exiting
///   | |              on_exit, or Abandon after the grace     |
///   | +------------------------------------------------------+
///   |          on_exit, or Abandon after the grace  (from Busy)
///   +--------------------------------------------------------
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// No worker. The next one starts at `start_at`.
    Vacant {
        start_at: Instant,
    },
    /// Builds its application, and is stopped at `stop_at` if it has not by then.
    Starting {
        id: WorkerId,
        stop_at: Option<Instant>,
        is_stopped: bool,
    },
    Idle {
        id: WorkerId,
    },
    /// Runs a request. `abort_at` is `None` once that was decided.
    Busy {
        id: WorkerId,
        abort_at: Option<Instant>,
        abandon_at: Instant,
    },
    /// Has panicked and discards its application.
    Exiting {
        id: WorkerId,
        abandon_at: Instant,
    },
}

impl State {
    pub(super) fn id(self) -> Option<WorkerId> {
        match self {
            Self::Vacant { .. } => None,
            Self::Starting { id, .. }
            | Self::Idle { id }
            | Self::Busy { id, .. }
            | Self::Exiting { id, .. } => Some(id),
        }
    }

    pub(super) fn abandon_at(self) -> Option<Instant> {
        match self {
            Self::Busy { abandon_at, .. } | Self::Exiting { abandon_at, .. } => Some(abandon_at),
            Self::Vacant { .. } | Self::Starting { .. } | Self::Idle { .. } => None,
        }
    }
}
