//! `Children`: a map from path segments, a list while it is small.

use std::collections::HashMap;

/// Up to this many keys a comparison with each is faster than a hash.
const MAX_LISTED: usize = 6;

/// Values by path segment.
#[derive(Clone)]
pub(super) enum Children<T> {
    Few(Vec<(Box<str>, T)>),
    Many(HashMap<Box<str>, T>),
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<T: Default> Children<T> {
    pub(super) fn get(&self, key: &str) -> Option<&T> {
        match self {
            Self::Few(list) => list.iter().find(|(k, _)| **k == *key).map(|(_, value)| value),
            Self::Many(map) => map.get(key),
        }
    }

    /// Returns the value of `key`, which is inserted if it is missing.
    pub(super) fn get_or_insert(&mut self, key: &str) -> &mut T {
        if let Self::Few(list) = self
            && list.len() == MAX_LISTED
        {
            *self = Self::Many(std::mem::take(list).into_iter().collect());
        }
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(k, _)| **k == *key).unwrap_or(list.len());
                if at == list.len() {
                    list.push((key.into(), T::default()));
                }
                &mut list[at].1
            }
            Self::Many(map) => map.entry(key.into()).or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_has_one_value_in_a_list_and_in_a_map() {
        let mut children = Children::<usize>::default();
        for n in 1..=3 * MAX_LISTED {
            for key in 0..n {
                *children.get_or_insert(&key.to_string()) += 1;
            }
            assert_eq!(children.get("0"), Some(&n));
            assert_eq!(children.get(&(n - 1).to_string()), Some(&1));
            assert_eq!(children.get(&n.to_string()), None);
        }
        assert!(matches!(children, Children::Many(map) if map.len() == 3 * MAX_LISTED));
    }
}
