//! Whether the first reads of new sockets find something, on this thread.

use std::cell::Cell;

/// Where they did not, one in so many is tried all the same.
const SELDOM: u32 = 64;

thread_local! {
    /// Of 256, an average over the last eight or so.
    static FOUND: Cell<u32> = const { Cell::new(128) };
    static LEFT_OUT: Cell<u32> = const { Cell::new(0) };
}

/// Is a read worth its call?
pub(super) fn tries() -> bool {
    if FOUND.get() >= 128 {
        return true;
    }
    LEFT_OUT.set(LEFT_OUT.get().wrapping_add(1));
    LEFT_OUT.get().is_multiple_of(SELDOM)
}

/// It was, or was not.
pub(super) fn had(found: bool) {
    let share = if found { 256 } else { 0 };
    FOUND.set(FOUND.get() - FOUND.get() / 8 + share / 8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_tried_where_they_find_something_and_now_and_then_where_they_do_not() {
        for _ in 0..100 {
            had(true);
            assert!(tries());
        }
        for _ in 0..20 {
            had(false);
        }
        assert_eq!((0..10 * SELDOM).filter(|_| tries()).count(), 10);
        for _ in 0..20 {
            had(true);
        }
        assert!(tries() && FOUND.get() <= 256);
    }
}
