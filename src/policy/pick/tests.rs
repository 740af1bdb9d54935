mod weights;

use super::*;

/// Candidates of equal weight, of which some are not available.
struct Uniform(Vec<Candidate<'static>>);

impl Uniform {
    fn new(n: usize, unavailable: &[usize]) -> Self {
        let mut candidates = vec![Candidate::new("x"); n];
        for &index in unavailable {
            candidates[index].is_available = false;
        }
        Self(candidates)
    }
}

impl Source for Uniform {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        self.0[index]
    }

    fn is_uniform(&self) -> bool {
        true
    }
}

fn shares(policy: &dyn Pick, source: &dyn Source, picks: usize) -> Vec<usize> {
    let mut shares = vec![0; source.count()];
    for _ in 0..picks {
        shares[policy.pick(Candidates::new(source)).unwrap()] += 1;
    }
    shares
}

fn policies() -> [Box<dyn Pick>; 10] {
    [
        Box::new(RoundRobin::new()),
        Box::new(Random::with_seed(7)),
        Box::new(LeastOutstanding::new()),
        Box::new(PowerOfTwoChoices::with_seed(7)),
        Box::new(PeakEwma::with_seed(7)),
        Box::new(ConsistentHash::ring(RequestKey::path())),
        Box::new(ConsistentHash::maglev(RequestKey::path()).bounded_load(125)),
        Box::new(First::new()),
        Box::new(Sticky::new([0; 16], RoundRobin::new())),
        Box::new(Tiers::new(|| Random::with_seed(7))),
    ]
}

#[test]
fn round_robin_gives_equal_shares() {
    assert_eq!(shares(&RoundRobin::new(), &Uniform::new(3, &[]), 300), [100; 3]);
    assert_eq!(shares(&RoundRobin::new(), &Uniform::new(3, &[]).0, 300), [100; 3]);
}

#[test]
fn round_robin_shares_turns_of_unavailable_endpoints() {
    let endpoints = Uniform::new(5, &[1, 2]);
    assert_eq!(shares(&RoundRobin::new(), &endpoints, 300), [100, 0, 0, 100, 100]);
    assert_eq!(shares(&RoundRobin::new(), &endpoints.0, 300), [100, 0, 0, 100, 100]);
}

#[test]
fn round_robin_follows_weights() {
    let mut endpoints = Uniform::new(4, &[2]).0;
    (endpoints[0].weight, endpoints[1].weight) = (3, 0); // 0 counts as 1
    assert_eq!(shares(&RoundRobin::new(), &endpoints, 500), [300, 100, 0, 100]);
}

#[test]
fn round_robin_survives_shrinking_set_and_wrapping_turn() {
    let policy = RoundRobin::at(u64::MAX);
    for n in [7, 3, 1, 2] {
        assert!(policy.pick(Candidates::new(&Uniform::new(n, &[]))).unwrap() < n);
    }
    // u64::MAX is odd: the second of two is next, and then the turn wraps to 0.
    let (policy, two) = (RoundRobin::at(u64::MAX), Uniform::new(2, &[]));
    let picks = [(); 2].map(|()| policy.pick(Candidates::new(&two)));
    assert_eq!(picks, [Some(1), Some(0)]);
}

#[test]
fn least_outstanding_rotates_among_equals() {
    assert_eq!(shares(&LeastOutstanding::new(), &Uniform::new(3, &[]), 300), [100; 3]);
    let mut endpoints = Uniform::new(4, &[3]).0;
    endpoints[1].in_flight = 1;
    assert_eq!(shares(&LeastOutstanding::new(), &endpoints, 300), [150, 0, 150, 0]);
}

#[test]
fn two_choices_prefer_less_loaded_endpoint_and_reach_all() {
    let policy = PowerOfTwoChoices::with_seed(1);
    let even = shares(&policy, &Uniform::new(4, &[]), 4000);
    assert!(even.iter().all(|share| (800..1200).contains(share)), "{even:?}");
    let mut endpoints = Uniform::new(3, &[]).0;
    endpoints[0].in_flight = 1;
    let shares = shares(&policy, &endpoints, 300);
    assert_eq!(shares[0], 0, "each draw has one that is better: {shares:?}");
}

#[test]
fn policies_pick_only_eligible_endpoints() {
    for policy in policies() {
        let mut endpoints = Uniform::new(3, &[0]).0;
        endpoints[1].is_tried = true;
        for _ in 0..20 {
            assert_eq!(policy.pick(Candidates::new(&endpoints)), Some(2));
        }
        endpoints[2].is_tried = true;
        assert_eq!(policy.pick(Candidates::new(&endpoints)), None);
        assert_eq!(policy.pick(Candidates::new(&Uniform(vec![]))), None);
        assert_eq!(policy.pick(Candidates::new(&Uniform::new(1, &[]))), Some(0));
    }
}

/// A request for this path.
fn to(path: &str) -> http::Request<()> {
    http::Request::get(path).body(()).unwrap()
}

fn keyed(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("10.0.{}.{}:80", i / 256, i % 256)).collect()
}

/// Returns the endpoint of each of `keys` paths.
fn owners(policy: &dyn Pick, source: &dyn Source, keys: usize) -> Vec<Option<usize>> {
    let prepared = policy.prepare(Candidates::new(source));
    let owner = |key| {
        let request = to(&format!("/{key}"));
        let candidates = Candidates::new(source).with_prepared(&prepared);
        policy.pick(candidates.for_request(RequestHead::of(&request)))
    };
    (0..keys).map(owner).collect()
}

fn hashes() -> [ConsistentHash; 2] {
    [ConsistentHash::ring(RequestKey::path()), ConsistentHash::maglev(RequestKey::path())]
}

#[test]
fn random_follows_weights() {
    let mut endpoints = Uniform::new(4, &[2]).0;
    endpoints[0].weight = 3;
    let shares = shares(&Random::with_seed(3), &endpoints, 5000);
    assert!(shares[2] == 0 && (2850..3150).contains(&shares[0]), "{shares:?}");
    assert!([1, 3].iter().all(|&i| (900..1100).contains(&shares[i])), "{shares:?}");
}

#[test]
fn slow_start_gives_part_of_share() {
    let mut endpoints = Uniform::new(4, &[]).0;
    endpoints[1].ramp = 100;
    for policy in [&RoundRobin::new() as &dyn Pick, &Random::with_seed(1)] {
        let shares = shares(policy, &endpoints, 3100);
        assert!((60..140).contains(&shares[1]), "a tenth of 1000: {shares:?}");
    }
    for policy in policies() {
        let mut only = Uniform::new(2, &[0]).0;
        only[1].ramp = 0;
        assert_eq!(policy.pick(Candidates::new(&only)), Some(1), "the only one has all turns");
    }
}

#[test]
fn draining_endpoint_gets_no_new_requests() {
    for policy in policies() {
        let mut endpoints = Uniform::new(2, &[]).0;
        endpoints[0].is_draining = true;
        assert_eq!(shares(&*policy, &endpoints, 20), [0, 20]);
    }
}

#[test]
fn peak_ewma_avoids_slow_failing_and_loaded_endpoints() {
    let policy = PeakEwma::with_seed(1);
    let mut endpoints = Uniform::new(2, &[]).0;
    let ms = std::time::Duration::from_millis;
    (endpoints[0].latency, endpoints[1].latency) = (ms(10), ms(50));
    assert_eq!(shares(&policy, &endpoints, 20), [20, 0]);
    endpoints[0].in_flight = 5;
    assert_eq!(shares(&policy, &endpoints, 20), [0, 20]);
    endpoints[0].weight = 2;
    assert_eq!(shares(&policy, &endpoints, 20), [20, 0]);
    (endpoints[0].success, endpoints[0].latency) = (0, ms(1)); // fails quickly
    assert_eq!(shares(&policy, &endpoints, 20), [0, 20]);
    // An unknown latency is that of the other.
    (endpoints[0], endpoints[1].in_flight) = (Candidate::new("new"), 1);
    assert_eq!(shares(&policy, &endpoints, 20), [20, 0]);
}

#[test]
fn first_fills_one_endpoint_after_the_other() {
    let mut endpoints = Uniform::new(3, &[]).0;
    endpoints[1].weight = 2;
    let policy = First::new().fill(2);
    let mut picks = Vec::new();
    for _ in 0..9 {
        let picked = policy.pick(Candidates::new(&endpoints)).unwrap();
        endpoints[picked].in_flight += 1;
        picks.push(picked);
    }
    assert_eq!(picks, [0, 0, 1, 1, 1, 1, 2, 2, 1], "then the least loaded");
    endpoints[0].is_available = false;
    assert_eq!(First::new().pick(Candidates::new(&endpoints)), Some(1));
}

#[test]
fn hash_shares_follow_weights() {
    let keys = keyed(10);
    let mut endpoints: Vec<_> = keys.iter().map(|key| Candidate::new(key)).collect();
    endpoints[0].weight = 3;
    for (policy, tolerance) in hashes().iter().zip([0.35, 0.08]) {
        let mut shares = [0; 10];
        for owner in owners(policy, &endpoints, 24_000) {
            shares[owner.unwrap()] += 1;
        }
        for (index, share) in shares.iter().enumerate() {
            let fair = if index == 0 { 6000.0 } else { 2000.0 };
            let off = (f64::from(*share) / fair - 1.0).abs();
            assert!(off < tolerance, "{policy:?}: endpoint {index} is {off:.2} off: {shares:?}");
        }
    }
}

#[test]
fn hash_moves_few_keys_when_the_set_changes() {
    const KEYS: usize = 20_000;
    let keys = keyed(50);
    let all: Vec<_> = keys.iter().map(|key| Candidate::new(key)).collect();
    // Without the tenth, and in another order.
    let fewer: Vec<_> = all.iter().rev().filter(|c| c.key != keys[10]).copied().collect();
    for (policy, most) in hashes().iter().zip([0, KEYS / 50]) {
        let before = owners(policy, &all, KEYS);
        let after = owners(policy, &fewer, KEYS);
        let (mut moved, mut moved_needlessly) = (0, 0);
        for (before, after) in before.iter().zip(&after) {
            let (before, after) = (all[before.unwrap()].key, fewer[after.unwrap()].key);
            moved += usize::from(before != after);
            moved_needlessly += usize::from(before != after && before != keys[10]);
        }
        assert!(moved_needlessly <= most, "{policy:?}: {moved_needlessly} of {KEYS}");
        assert!(moved < KEYS / 50 * 2, "{policy:?}: {moved} of {KEYS}");
    }
}

#[test]
fn hash_sends_keys_of_unavailable_endpoint_to_several_others() {
    let keys = keyed(20);
    let mut endpoints: Vec<_> = keys.iter().map(|key| Candidate::new(key)).collect();
    for policy in hashes() {
        let before = owners(&policy, &endpoints, 2000);
        endpoints[4].is_available = false;
        let after = owners(&policy, &endpoints, 2000);
        endpoints[4].is_available = true;
        let mut others = std::collections::HashSet::new();
        for (before, after) in before.into_iter().zip(after) {
            if before == Some(4) {
                others.insert(after.unwrap());
            } else {
                assert_eq!(before, after);
            }
        }
        assert!(others.len() > 10 && !others.contains(&4), "{policy:?}: {others:?}");
    }
}

#[test]
fn bounded_load_moves_requests_of_hot_key() {
    let keys = keyed(10);
    for policy in hashes().map(|policy| policy.bounded_load(125)) {
        let mut endpoints: Vec<_> = keys.iter().map(|key| Candidate::new(key)).collect();
        let prepared = policy.prepare(Candidates::new(&endpoints));
        let request = to("/hot");
        let mut first = None;
        for n in 0..100 {
            let candidates = Candidates::new(&endpoints).with_prepared(&prepared);
            let picked = policy.pick(candidates.for_request(RequestHead::of(&request))).unwrap();
            first = first.or(Some(picked));
            endpoints[picked].in_flight += 1;
            let most = endpoints.iter().map(|c| c.in_flight).max().unwrap();
            assert!(most <= ((n + 1) * 125_usize).div_ceil(1000), "{most} of {n}");
        }
        assert!(endpoints[first.unwrap()].in_flight >= 12, "it is preferred all the same");
    }
}

#[test]
fn sticky_cookie_binds_client_to_endpoint_and_cannot_be_forged() {
    let policy =
        Sticky::new([7; 16], RoundRobin::new()).max_age(std::time::Duration::from_secs(60));
    let mut endpoints = ["a", "b", "c"].map(Candidate::new);
    let pick = |endpoints: &[Candidate<'_>; 3], cookie: &str| {
        let request = http::Request::get("/").header("cookie", cookie).body(()).unwrap();
        let prepared = policy.prepare(Candidates::new(endpoints));
        let candidates = Candidates::new(endpoints).with_prepared(&prepared);
        let candidates = candidates.for_request(RequestHead::of(&request));
        let picked = policy.pick(candidates).unwrap();
        let cookie = policy.set_cookie(candidates, picked);
        (picked, cookie.map(|value| value.to_str().unwrap().to_owned()))
    };
    let (picked, cookie) = pick(&endpoints, "other=1");
    let cookie = cookie.unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"), "{cookie}");
    let cookie = cookie.split_once(';').unwrap().0.to_owned();
    assert!(cookie.starts_with("vestibule_endpoint=") && cookie.len() == 19 + 32, "{cookie}");
    for _ in 0..5 {
        assert_eq!(pick(&endpoints, &cookie), (picked, None));
    }
    // While it is drained its sessions stay; a forged cookie counts as none.
    endpoints[picked].is_draining = true;
    assert_eq!(pick(&endpoints, &cookie), (picked, None));
    for forged in [cookie.to_uppercase(), cookie[..50].to_owned(), cookie.replace('=', "=0")] {
        let (elsewhere, new) = pick(&endpoints, &forged);
        assert!(elsewhere != picked && new.is_some(), "{forged}");
    }
    endpoints[picked].is_available = false;
    let (elsewhere, new) = pick(&endpoints, &cookie);
    assert!(elsewhere != picked && new.is_some());
    // Another secret signs other cookies.
    let other = Sticky::new([8; 16], RoundRobin::new());
    let request = to("/");
    let candidates = Candidates::new(&endpoints).for_request(RequestHead::of(&request));
    let foreign = other.set_cookie(candidates, picked).unwrap();
    assert!(!foreign.to_str().unwrap().starts_with(&cookie));
}

#[test]
fn tiers_prefer_local_zone_and_spill_by_share_that_is_missing() {
    let mut endpoints = ["a", "b", "c", "d", "e", "f"].map(Candidate::new);
    endpoints[..4].iter_mut().for_each(|c| c.zone = "here");
    endpoints[4..].iter_mut().for_each(|c| c.zone = "there");
    let policy = Tiers::local_zone("here", RoundRobin::new).spill_below(50);
    assert_eq!(shares(&policy, &endpoints, 400), [100, 100, 100, 100, 0, 0]);
    // Two of four are enough; with one of them half of the requests leave the zone.
    (endpoints[0].is_available, endpoints[1].is_available) = (false, false);
    assert_eq!(shares(&policy, &endpoints, 400), [0, 0, 200, 200, 0, 0]);
    endpoints[2].is_available = false;
    let spilled = shares(&policy, &endpoints, 1000);
    assert!((430..570).contains(&spilled[3]), "{spilled:?}");
    assert!(spilled[4].abs_diff(spilled[5]) <= 1 && spilled[2] == 0, "{spilled:?}");
    // Nowhere to spill to.
    endpoints[4..].iter_mut().for_each(|c| c.is_available = false);
    assert_eq!(shares(&policy, &endpoints, 10), [0, 0, 0, 10, 0, 0]);
}

#[test]
fn tiers_use_weights_and_prepared_tables_of_each_tier() {
    let mut endpoints = Uniform::new(5, &[]).0;
    (endpoints[0].tier, endpoints[3].tier) = (7, 7);
    (endpoints[1].weight, endpoints[3].weight) = (2, 3);
    let policy = Tiers::new(|| Tiers::local_zone("", RoundRobin::new));
    let prepared = policy.prepare(Candidates::new(&endpoints));
    let count = |endpoints: &dyn Source| {
        let mut shares = [0; 5];
        for _ in 0..400 {
            let candidates = Candidates::new(endpoints).with_prepared(&prepared);
            shares[policy.pick(candidates).unwrap()] += 1;
        }
        shares
    };
    assert_eq!(count(&endpoints), [0, 200, 100, 0, 100]);
    [1, 2, 4].iter().for_each(|&i| endpoints[i].is_available = false);
    assert_eq!(count(&endpoints), [100, 0, 0, 300, 0]);
}
