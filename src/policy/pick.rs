//! Which of several endpoints is next.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Takes endpoints in turn; shared by reference, it never locks.
///
/// It holds no endpoints, only whose turn it is: they are numbered from 0 by the caller, who may
/// change their number at any time.
///
/// ```
/// use vestibule::policy::pick::RoundRobin;
///
/// let turn = RoundRobin::new();
/// let up = [true, false, true];
/// let picked: Vec<_> = (0..4).filter_map(|_| turn.pick(up.len(), |i| up[i])).collect();
/// assert_eq!(picked, [0, 2, 0, 2]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: AtomicUsize,
}

impl RoundRobin {
    /// Begins with endpoint 0.
    pub const fn new() -> Self {
        Self { next: AtomicUsize::new(0) }
    }

    /// The next of `n` endpoints for which `available` is true; `None` if there is none.
    ///
    /// `available` is asked at most once for each. Those that it rules out lose their turn to
    /// everybody, not to their neighbour alone.
    pub fn pick(&self, n: usize, mut available: impl FnMut(usize) -> bool) -> Option<usize> {
        if n == 0 {
            return None;
        }
        // Relaxed: the number is a turn and guards no other memory.
        let first = self.next.fetch_add(1, Ordering::Relaxed) % n;
        let skipped = (0..n).find(|&step| available(wrap(first, step, n)))?;
        if skipped > 0 {
            // Go on behind the one picked, or it would get the skipped ones' turns as well.
            self.next.fetch_add(skipped, Ordering::Relaxed);
        }
        Some(wrap(first, skipped, n))
    }
}

/// `first + step` in a circle of `n`, for both below `n` and without overflow.
fn wrap(first: usize, step: usize, n: usize) -> usize {
    if step < n - first { first + step } else { step - (n - first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_the_same_number_of_turns() {
        let turn = RoundRobin::new();
        let mut turns = [0; 3];
        for _ in 0..300 {
            turns[turn.pick(3, |_| true).unwrap()] += 1;
        }
        assert_eq!(turns, [100; 3]);
    }

    #[test]
    fn the_turns_of_those_who_are_away_are_shared_by_the_others() {
        let turn = RoundRobin::new();
        let mut turns = [0; 5];
        for _ in 0..300 {
            turns[turn.pick(5, |i| i != 1 && i != 2).unwrap()] += 1;
        }
        assert_eq!(turns, [100, 0, 0, 100, 100]);
    }

    #[test]
    fn nobody_there_is_none_and_each_is_asked_once() {
        let turn = RoundRobin::new();
        assert_eq!(turn.pick(0, |_| true), None);
        let mut asked = Vec::new();
        let picked = turn.pick(4, |i| {
            asked.push(i);
            false
        });
        assert_eq!(picked, None);
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2, 3]);
    }

    #[test]
    fn the_set_may_shrink_and_the_count_may_wrap() {
        let turn = RoundRobin { next: AtomicUsize::new(usize::MAX) };
        for n in [7, 3, 1, 2, usize::MAX] {
            assert!(turn.pick(n, |_| true).unwrap() < n);
        }
        // usize::MAX is odd: the second of two is next, and after it the count begins anew.
        let turn = RoundRobin { next: AtomicUsize::new(usize::MAX) };
        assert_eq!([turn.pick(2, |_| true), turn.pick(2, |_| true)], [Some(1), Some(0)]);
    }
}
