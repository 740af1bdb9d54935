//! `process_budget`: the default budget of all servers and buffers of the process.

use std::sync::LazyLock;

use crate::Budget;

static SHARED: LazyLock<Budget> = LazyLock::new(Budget::default);

/// Returns the budget of the process. Servers and buffers share it unless they are configured with another
/// one, since they also share the memory of the process.
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
    fn process_budget_is_the_same_for_all_callers() {
        assert!(process_budget().is_same(&process_budget()));
        assert!(!process_budget().is_same(&Budget::default()));
    }
}
