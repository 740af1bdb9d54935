//! `AliasTable`: a random endpoint by weight in constant time.

use std::hint::select_unpredictable;

use super::{Candidates, rng::scale};

/// A table with a column for each endpoint: Vose, "A linear algorithm for generating random numbers with a given
/// distribution", 1991.
///
/// All columns are equally likely. A column belongs to its endpoint up to a bound, and above it to another endpoint,
/// whose weight is larger than the average. So a random endpoint costs one access, where a search for the position
/// among the sums of the weights costs ten with 1,000 endpoints.
#[derive(Debug)]
pub(super) struct AliasTable(Vec<Column>);

#[derive(Debug, Clone, Copy)]
struct Column {
    /// The part of the column that belongs to its own endpoint, in units of 2^-32; the whole column if the endpoint
    /// is its own `alias`.
    own: u32,
    /// The endpoint of the rest.
    alias: u32,
}

impl AliasTable {
    /// Creates the table of the candidates' weights, of which 0 counts as 1.
    pub(super) fn new(candidates: Candidates<'_>) -> Self {
        let weights = candidates.iter().map(|candidate| u128::from(candidate.weight.max(1)));
        let n = weights.len() as u128;
        // In units in which a column has `total`, and all columns have the sum of `left`.
        let mut left: Vec<u128> = weights.map(|weight| weight * n).collect();
        let total = left.iter().sum::<u128>() / n.max(1);
        let whole = |index: usize| Column { own: u32::MAX, alias: index as u32 };
        let mut columns: Vec<Column> = (0..left.len()).map(whole).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..left.len()).partition(|&index| left[index] < total);
        while let (Some(&from), Some(index)) = (large.last(), small.pop()) {
            let own = u32::try_from((left[index] << 32) / total).unwrap_or(u32::MAX);
            columns[index] = Column { own, alias: from as u32 };
            left[from] -= total - left[index];
            if left[from] < total {
                large.pop();
                small.push(from);
            }
        }
        Self(columns)
    }

    /// Returns the endpoint of a random number; `None` without endpoints.
    pub(super) fn get(&self, bits: u64) -> Option<usize> {
        let index = scale(bits >> 32, self.0.len());
        let column = self.0.get(index)?;
        // A branch would be predicted wrongly as often as not.
        Some(select_unpredictable(bits as u32 <= column.own, index, column.alias as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pick::Candidate;

    fn table(weights: &[u32]) -> AliasTable {
        let candidate = |&weight: &u32| Candidate { weight, ..Candidate::new("x") };
        let candidates: Vec<_> = weights.iter().map(candidate).collect();
        AliasTable::new(Candidates::new(&candidates))
    }

    /// Returns the exact probability of each endpoint, times the number of columns and 2^32.
    fn areas(table: &AliasTable) -> Vec<u64> {
        let mut areas = vec![0; table.0.len()];
        for (index, column) in table.0.iter().enumerate() {
            let own = u64::from(column.own) + 1;
            areas[index] += own;
            areas[column.alias as usize] += (1 << 32) - own;
        }
        areas
    }

    #[test]
    fn columns_give_each_endpoint_its_weight() {
        let many: Vec<u32> = (0..1000).map(|index| index % 7 * index).collect();
        for weights in [
            &[1][..],
            &[5, 5, 5],
            &[1, 2, 3, 4],
            &[1, 1_000_000],
            &[0, u32::MAX, 1],
            &[u32::MAX; 3],
            &many,
        ] {
            let weight = |&weight: &u32| u128::from(weight.max(1));
            let total: u128 = weights.iter().map(weight).sum();
            let n = weights.len() as u128;
            for (area, of) in areas(&table(weights)).into_iter().zip(weights) {
                let ideal = ((weight(of) * n) << 32) / total;
                // Each column is rounded down by less than one unit, and counts one more.
                assert!(
                    u128::from(area).abs_diff(ideal) <= n + 1,
                    "{area} of {ideal}: {weights:?}"
                );
            }
        }
    }

    #[test]
    fn number_at_a_bound_belongs_to_the_column_or_its_alias() {
        // The columns have 2 of 3 and 4 of 3 units, so a third of the first belongs to the second.
        let table = table(&[1, 2]);
        let bound = u64::from(u32::MAX) / 3 * 2;
        assert_eq!(table.get(bound - 2), Some(0));
        assert_eq!(table.get(bound + 2), Some(1));
        assert_eq!(table.get(1 << 63), Some(1));
        assert_eq!(table.get(u64::MAX), Some(1));
        assert_eq!(AliasTable(Vec::new()).get(7), None);
    }
}
