//! Shares by weight of the policies that compare loads, and the keys that move when endpoints join.

use super::*;

/// Requests that are in flight at the same time.
const IN_FLIGHT: usize = 100;

/// Ends a random request for each pick. Returns the number of picks of each endpoint.
fn shares_under_load(policy: &dyn Pick, weights: &[u32], picks: usize) -> Vec<usize> {
    let random = rng::Rng::with_seed(5);
    let latency = std::time::Duration::from_millis(10);
    let endpoint = |&weight: &u32| Candidate { weight, latency, ..Candidate::new("x") };
    let mut endpoints: Vec<_> = weights.iter().map(endpoint).collect();
    let prepared = policy.prepare(Candidates::new(&endpoints));
    let (mut running, mut shares) = (Vec::new(), vec![0; weights.len()]);
    for turn in 0..picks + IN_FLIGHT {
        if running.len() == IN_FLIGHT {
            let ended: usize = running.swap_remove(rng::scale(random.next(), IN_FLIGHT));
            endpoints[ended].in_flight -= 1;
        }
        let candidates = Candidates::new(&endpoints).with_prepared(&prepared);
        let picked = policy.pick(candidates).unwrap();
        endpoints[picked].in_flight += 1;
        running.push(picked);
        shares[picked] += usize::from(turn >= IN_FLIGHT);
    }
    shares
}

#[test]
fn policies_that_compare_loads_follow_weights() {
    let policies: [Box<dyn Pick>; 3] = [
        Box::new(LeastOutstanding::new()),
        Box::new(PowerOfTwoChoices::with_seed(7)),
        Box::new(PeakEwma::with_seed(7)),
    ];
    for (number, policy) in policies.iter().enumerate() {
        let shares = shares_under_load(&**policy, &[1, 2, 3, 4], 20_000);
        for (share, weight) in shares.iter().zip(1..) {
            let fair = weight * 2000;
            assert!(share.abs_diff(fair) < fair * 15 / 100, "policy {number}: {shares:?}");
        }
    }
}

#[test]
fn least_outstanding_prefers_largest_weight_among_idle_endpoints() {
    let mut endpoints = Uniform::new(3, &[]).0;
    endpoints[1].weight = 2;
    assert_eq!(shares(&LeastOutstanding::new(), &endpoints, 30), [0, 30, 0]);
}

#[test]
fn hash_moves_keys_to_the_joining_endpoint_and_hardly_any_others() {
    const KEYS: usize = 20_000;
    let keys = keyed(50);
    let all: Vec<_> = keys.iter().map(|key| Candidate::new(key)).collect();
    let fewer: Vec<_> = all.iter().filter(|c| c.key != keys[10]).copied().collect();
    let mut heavier = all.clone();
    heavier[10].weight = 2;
    // One joins, or has its weight doubled.
    for (old, new, gained) in [(&fewer, &all, KEYS / 50), (&all, &heavier, KEYS / 51)] {
        for (policy, most) in hashes().iter().zip([0, KEYS / 10]) {
            let (before, after) = (owners(policy, old, KEYS), owners(policy, new, KEYS));
            let (mut moved, mut moved_needlessly) = (0, 0);
            for (before, after) in before.iter().zip(&after) {
                let (before, after) = (old[before.unwrap()].key, new[after.unwrap()].key);
                moved += usize::from(before != after);
                moved_needlessly += usize::from(before != after && after != keys[10]);
            }
            assert!(moved_needlessly <= most, "{policy:?}: {moved_needlessly} of {KEYS}");
            let gains = moved - moved_needlessly;
            assert!(gains > gained / 2 && gains < gained * 2, "{policy:?}: {gains} of {KEYS}");
        }
    }
}
