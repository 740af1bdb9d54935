//! `process_budget`: the one budget of everything that was not given another.

use std::sync::LazyLock;

use crate::Budget;

static SHARED: LazyLock<Budget> = LazyLock::new(Budget::default);

/// The budget of the process: its servers and buffers share this one unless they are given another,
/// since memory is the process's too.
///
/// ```
/// use vestibule::net;
///
/// let usage = net::process_budget().usage();
/// assert_eq!(usage.memory, 0); // nothing is buffered in this process
/// ```
pub fn process_budget() -> Budget {
    SHARED.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_budget_is_one() {
        assert!(process_budget().is_same(&process_budget()));
        assert!(!process_budget().is_same(&Budget::default()));
    }
}
