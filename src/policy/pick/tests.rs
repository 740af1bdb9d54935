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

fn policies() -> [Box<dyn Pick>; 3] {
    [
        Box::new(RoundRobin::new()),
        Box::new(LeastOutstanding::new()),
        Box::new(PowerOfTwoChoices::with_seed(7)),
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
fn round_robin_heeds_weights() {
    let mut endpoints = Uniform::new(4, &[2]).0;
    (endpoints[0].weight, endpoints[1].weight) = (3, 0); // 0 counts as 1
    assert_eq!(shares(&RoundRobin::new(), &endpoints, 500), [300, 100, 0, 100]);
}

#[test]
fn round_robin_survives_shrinking_set_and_wrapping_turn() {
    let policy = RoundRobin::at(usize::MAX);
    for n in [7, 3, 1, 2] {
        assert!(policy.pick(Candidates::new(&Uniform::new(n, &[]))).unwrap() < n);
    }
    // usize::MAX is odd: the second of two is next, and then the turn wraps to 0.
    let (policy, two) = (RoundRobin::at(usize::MAX), Uniform::new(2, &[]));
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
