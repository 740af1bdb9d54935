//! Operators: they take an endpoint out, drain it, and restore it.

use std::{
    sync::atomic::Ordering::{Relaxed, SeqCst},
    time::Duration,
};

use super::{Health, HealthOptions, millis};

impl Health {
    /// Returns whether an operator has not taken it out, so that it [is in](Self::is_in) at any time.
    pub fn is_never_out(&self) -> bool {
        self.out_until.load(Relaxed) == 0
    }

    /// Returns whether no operator has taken it out. It may be draining.
    pub fn is_in(&self, now: Duration) -> bool {
        let out = self.out_until.load(Relaxed);
        out == 0 || out <= millis(now)
    }

    /// Returns whether it is draining.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(SeqCst)
    }

    /// Takes it out until `until`, for an operator.
    pub fn take_out(&self, until: Duration) {
        // Relaxed: a thread that reads the old value sends one more request.
        self.out_until.store(millis(until), Relaxed);
    }

    /// Sets whether it is draining: it finishes its requests, and gets no new sessions.
    pub fn set_draining(&self, on: bool) {
        self.is_draining.store(on, SeqCst);
    }

    /// Ends every state that keeps requests away from it, for an operator, except down because of active checks. The
    /// count of consecutive failures begins anew.
    pub fn restore(&self, now: Duration, options: &HealthOptions) {
        let mut history = self.history();
        self.out_until.store(0, Relaxed);
        self.back_off_until.store(0, Relaxed);
        self.set_draining(false);
        if !history.is_down {
            self.until.store(0, Relaxed);
            history.restored_at = Some(millis(now));
            self.failures.store(0, Relaxed);
            self.incomplete.store(0, Relaxed);
        }
        self.start_slowly(now, options);
    }
}
