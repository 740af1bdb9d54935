//! `ConsistentHash`: the same endpoint for the same key.

mod maglev;
mod ring;

use super::{
    Candidates, Pick, Prepared, RequestKey,
    rng::{Rng, mix, scale},
};

pub use maglev::MAGLEV_SLOTS;
pub use ring::RING_POINTS;

/// Endpoints that are skipped before the policy searches all candidates: 256.
const MAX_STEPS: usize = 256;

/// Sends requests with the same key to the same endpoint, by weight. When an endpoint joins or leaves, few
/// keys move.
///
/// - [`ring`](Self::ring): each endpoint has [`RING_POINTS`] points for each unit of weight on a circle of
///   hashes. Only keys of the endpoint that left move, or those that a new one takes over.
/// - [`maglev`](Self::maglev): a table of [`MAGLEV_SLOTS`] slots, filled by the preferences of the endpoints
///   (Eisenbud and others, "Maglev", 2016). Shares are more even, a lookup is one access, and slightly more keys
///   move.
///
/// The positions of an endpoint depend on its key and not on its index, so gateways with the same set agree. A key
/// whose endpoint is not eligible goes to the next endpoint in the key's order until the first one is eligible again.
/// A request without a key goes to a random endpoint.
///
/// With [`bounded_load`](Self::bounded_load) an endpoint gets at most a multiple of its fair share of the requests in
/// flight; the rest go to the next endpoint in the key's order (Mirrokni and others, "Consistent hashing with bounded
/// loads", 2016).
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, ConsistentHash, Pick, RequestHead, RequestKey};
///
/// let servers = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].map(Candidate::new);
/// let policy = ConsistentHash::ring(RequestKey::path()).bounded_load(125);
/// let request = http::Request::get("/a").body(()).unwrap();
/// let pick = || policy.pick(Candidates::new(&servers).for_request(RequestHead::of(&request)));
/// assert!(pick().is_some() && pick() == pick());
/// ```
#[derive(Debug)]
pub struct ConsistentHash {
    key: RequestKey,
    kind: Kind,
    /// In percent of the fair share.
    bound: Option<u32>,
    rng: Rng,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Ring,
    Maglev,
}

/// The owners of keys, for one set.
#[derive(Debug)]
struct Table {
    slots: Slots,
    total_weight: u64,
}

#[derive(Debug)]
enum Slots {
    Ring(ring::Ring),
    Maglev(maglev::Maglev),
}

impl ConsistentHash {
    /// Creates a policy with a ring of points.
    pub fn ring(key: RequestKey) -> Self {
        Self { key, kind: Kind::Ring, bound: None, rng: Rng::new() }
    }

    /// Creates a policy with a Maglev table.
    pub fn maglev(key: RequestKey) -> Self {
        Self { key, kind: Kind::Maglev, bound: None, rng: Rng::new() }
    }

    /// Sets the maximum number of requests in flight of an endpoint, in percent of its fair share by weight. At least
    /// 100; Google's proxies use 125. Default: no bound.
    #[must_use]
    pub fn bounded_load(mut self, percent: u32) -> Self {
        self.bound = Some(percent.max(100));
        self
    }

    fn table(&self, candidates: Candidates<'_>) -> Table {
        let total_weight = candidates.iter().map(|c| u64::from(c.weight.max(1))).sum();
        let slots = match self.kind {
            Kind::Ring => Slots::Ring(ring::Ring::new(candidates)),
            Kind::Maglev => Slots::Maglev(maglev::Maglev::new(candidates)),
        };
        Table { slots, total_weight }
    }

    fn pick_from(&self, table: &Table, candidates: Candidates<'_>, hash: u64) -> Option<usize> {
        let mut total = None;
        let mut fallback = None;
        let mut refused = usize::MAX; // neighbouring slots often have the same owner
        for step in 0..MAX_STEPS {
            let index = match &table.slots {
                Slots::Ring(ring) => ring.owner(hash, step),
                Slots::Maglev(maglev) => maglev.owner(hash, step),
            }?;
            if index == refused {
                continue;
            }
            let candidate = candidates.get(index);
            if candidate.is_eligible() {
                let Some(bound) = self.bound else { return Some(index) };
                let total = *total.get_or_insert_with(|| candidates.total_in_flight());
                let weight = u64::from(candidate.weight.max(1));
                if has_room(candidate.in_flight, total, weight, table.total_weight, bound) {
                    return Some(index);
                }
                fallback.get_or_insert(index);
            }
            refused = index;
        }
        fallback.or_else(|| candidates.eligible_from(scale(mix(hash), candidates.len())))
    }
}

/// Returns whether an endpoint of `weight` with so many requests in flight is below its share of all, including the
/// next one, rounded up.
fn has_room(in_flight: usize, total: usize, weight: u64, total_weight: u64, percent: u32) -> bool {
    let share = (total as u128 + 1).saturating_mul(u128::from(weight));
    let share = share.saturating_mul(u128::from(percent));
    // An integer is below a quotient rounded up if its product with the divisor is below the dividend. A division of
    // 128 bits takes longer than all the rest.
    (in_flight as u128).saturating_mul(u128::from(total_weight.max(1)) * 100) < share
}

impl Pick for ConsistentHash {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let hash = candidates.request().and_then(|request| self.key.hash(request));
        let hash = hash.unwrap_or_else(|| self.rng.next());
        match candidates.prepared::<Table>() {
            Some(table) => self.pick_from(table, candidates, hash),
            None => self.pick_from(&self.table(candidates), candidates, hash),
        }
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        Prepared::new(self.table(candidates))
    }
}

#[cfg(test)]
mod tests {
    use super::has_room;

    #[test]
    fn room_is_the_share_of_the_load_rounded_up_and_at_least_one() {
        // The total, weight and its total, the percentage, and the number of requests for which there is room.
        for (total, weight, total_weight, percent, capacity) in
            [(0, 1, 100, 100, 1), (99, 1, 10, 125, 13), (99, 5, 10, 125, 63), (99, 1, 10, 100, 10)]
        {
            let has_room = |in_flight| has_room(in_flight, total, weight, total_weight, percent);
            assert!(has_room(capacity - 1) && !has_room(capacity), "{capacity}");
        }
        assert!(has_room(usize::MAX, usize::MAX, u64::MAX / 200, 1, u32::MAX));
    }
}
