//! `Admission`: decides which paths may enter a full table.

/// Maximum number of hashes, 1,048,576, which take 4 MiB: a bound for tables that are limited by their bytes only.
const MAX_SLOTS: usize = 1 << 20;

/// The paths that were recently looked up while the table was full.
///
/// Only a path that is looked up again soon may evict others. So a client that requests every file once, such as a crawler,
/// does not evict the files that other clients request.
///
/// A hash table with one slot for each hash, which contains another part of the hash as a tag. A collision admits a path at its
/// first lookup.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// Empty until the table is full for the first time.
    seen: Box<[u32]>,
}

impl Admission {
    /// Returns whether the path with this hash was passed before, among about as many others as the table may have
    /// `entries`, or [`MAX_SLOTS`].
    pub(super) fn is_repeated(&mut self, hash: u64, entries: usize) -> bool {
        if self.seen.is_empty() {
            self.seen = vec![0; entries.min(MAX_SLOTS).next_power_of_two()].into();
        }
        let [low, high] = [hash as u32, (hash >> 32) as u32];
        let slot = low as usize & (self.seen.len() - 1);
        let tag = high | 1; // not zero, which is an empty slot
        std::mem::replace(&mut self.seen[slot], tag) == tag
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_repeated_until_its_slot_is_overwritten() {
        let mut admission = Admission::default();
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert!(!admission.is_repeated(hash(1), 16));
        assert!(admission.is_repeated(hash(1), 16));
        (2..200).for_each(|n| assert!(!admission.is_repeated(hash(n), 16), "{n}"));
        assert!(!admission.is_repeated(hash(1), 16));
        assert_eq!(admission.seen.len(), 16);
    }
}
