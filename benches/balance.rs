//! The cost of a pick, by policy and number of endpoints.
//!
//! `cargo bench --no-default-features --bench balance`. Prints nanoseconds per pick, the minimum of many runs, since
//! noise only adds time. In the first column all endpoints have the same weight, in the second several weights; a
//! tenth of them is not available. Endpoints are read as [`Candidate`]s from a vector; a `Balance` reads their load
//! from atomics.

#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use vestibule::{
    peer::Peer,
    policy::pick::{
        Candidate, Candidates, ConsistentHash, First, LeastOutstanding, PeakEwma, Pick,
        PowerOfTwoChoices, Random, RequestHead, RequestKey, RoundRobin, Source, Sticky, Tiers,
    },
};

const RUNS: usize = 200;
const PICKS: usize = 500;

struct Set<'a> {
    endpoints: Vec<Candidate<'a>>,
    is_uniform: bool,
}

impl Source for Set<'_> {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        self.endpoints[index]
    }

    fn is_uniform(&self) -> bool {
        self.is_uniform
    }

    fn total_in_flight(&self) -> usize {
        self.endpoints.len() * 3
    }
}

fn set(keys: &[String], is_uniform: bool) -> Set<'_> {
    let endpoints = keys.iter().enumerate().map(|(index, key)| {
        let mut candidate = Candidate::new(key);
        candidate.in_flight = index * 7 % 5;
        candidate.latency = Duration::from_millis(10 + index as u64 * 13 % 50);
        candidate.is_available = index % 10 != 3;
        candidate.tier = u8::from(index % 3 == 2);
        candidate.weight = if is_uniform { 1 } else { 1 + index as u32 % 4 };
        candidate
    });
    Set { endpoints: endpoints.collect(), is_uniform }
}

fn nanoseconds(policy: &dyn Pick, set: &Set<'_>) -> f64 {
    let prepared = policy.prepare(Candidates::new(set));
    let requests: Vec<_> = (0..PICKS)
        .map(|n| {
            let mut request =
                http::Request::get(format!("/{n}")).body(()).expect("a path is a target");
            let client = SocketAddr::from(([10, 0, (n / 256) as u8, n as u8], 1));
            request.extensions_mut().insert(Peer::tcp(client, client));
            request
        })
        .collect();
    let run = || {
        let start = Instant::now();
        for request in &requests {
            let candidates = Candidates::new(set).with_prepared(&prepared);
            black_box(policy.pick(candidates.for_request(RequestHead::of(request))));
        }
        start.elapsed().as_nanos() as f64 / PICKS as f64
    };
    (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

fn main() {
    let ring = || ConsistentHash::ring(RequestKey::client_address());
    let maglev = || ConsistentHash::maglev(RequestKey::client_address());
    let policies: [(&str, Box<dyn Pick>); 12] = [
        ("round robin", Box::new(RoundRobin::new())),
        ("random", Box::new(Random::new())),
        ("two choices", Box::new(PowerOfTwoChoices::new())),
        ("peak EWMA", Box::new(PeakEwma::new())),
        ("ring", Box::new(ring())),
        ("ring, bounded", Box::new(ring().bounded_load(125))),
        ("maglev", Box::new(maglev())),
        ("maglev, bounded", Box::new(maglev().bounded_load(125))),
        ("sticky", Box::new(Sticky::new([1; 16], RoundRobin::new()))),
        ("tiers", Box::new(Tiers::new(RoundRobin::new))),
        ("first", Box::new(First::new())),
        ("least outstanding", Box::new(LeastOutstanding::new())),
    ];
    println!("{:<18} {:>6} {:>9} {:>9}", "ns per pick", "n", "uniform", "weighted");
    for n in [10, 1000] {
        let keys: Vec<_> = (0..n).map(|i| format!("10.1.{}.{}:80", i / 256, i % 256)).collect();
        for (name, policy) in &policies {
            let [uniform, weighted] =
                [true, false].map(|is_uniform| nanoseconds(&**policy, &set(&keys, is_uniform)));
            println!("{name:<18} {n:>6} {uniform:>9.1} {weighted:>9.1}");
        }
    }
}
