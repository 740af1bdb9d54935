//! `CurrentMould`: the process from which the workers of a generation are forked again.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The mould of the newest generation that has one. `T` is its handle; dropping the last one stops the process.
pub(super) struct CurrentMould<T>(Mutex<Option<(u64, T)>>);

impl<T> Default for CurrentMould<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> CurrentMould<T> {
    fn lock(&self) -> MutexGuard<'_, Option<(u64, T)>> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the mould of a generation.
    pub(super) fn get(&self, generation: u64) -> Option<T> {
        let current = self.lock();
        current.as_ref().filter(|(of, _)| *of == generation).map(|(_, mould)| mould.clone())
    }

    /// Sets the mould of a generation. Returns `false`, without effect, if a later generation has one: a worker may still
    /// prepare when its generation has been replaced.
    pub(super) fn set(&self, generation: u64, mould: T) -> bool {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|(of, _)| *of > generation) {
            return false;
        }
        let before = current.replace((generation, mould));
        drop(current);
        drop(before); // without the lock
        true
    }

    /// Removes the mould of a generation.
    pub(super) fn remove(&self, generation: u64) {
        self.remove_if(|of, _| of == generation);
    }

    /// Removes the mould if this is true for its generation and handle.
    pub(super) fn remove_if(&self, is_meant: impl FnOnce(u64, &T) -> bool) {
        let removed = self.lock().take_if(|(of, mould)| is_meant(*of, mould));
        drop(removed); // without the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mould_of_earlier_generation_does_not_replace_that_of_a_later_one() {
        let current = CurrentMould::default();
        assert!(current.set(1, "first") && current.set(2, "of the reload"));
        // A worker of the generation before the reload has taken long to prepare, and is not needed.
        assert!(!current.set(1, "late"));
        current.remove(1);
        assert_eq!((current.get(1), current.get(2)), (None, Some("of the reload")));
        assert!(current.set(2, "the next of the same generation"));
        assert_eq!(current.get(2), Some("the next of the same generation"));
        current.remove_if(|of, _| of < 3);
        assert_eq!(current.get(2), None);
    }
}
