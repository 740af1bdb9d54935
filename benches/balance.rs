//! The cost of balancing a request, by policy and number of endpoints.
//!
//! `cargo bench --no-default-features --features upstream --bench balance`. Prints nanoseconds, the minimum of many runs,
//! since noise only adds time:
//!
//! - *pick*: the policy alone, over [`Candidate`]s in a vector;
//! - *balance*: what a `Balance` adds to a request to an `Endpoint`: the snapshot of the set, the pick among endpoints
//!   whose load and health are read from atomics, and the counters.
//!
//! In the columns *uniform* all endpoints have the same weight, in *weighted* several weights. A tenth of them is not
//! available, and each has three requests in flight on average.

#![allow(missing_docs, clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    net::SocketAddr,
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use tower::{Service, service_fn, util::ServiceFn};
use vestibule::{
    Body, Request, Response,
    peer::Peer,
    policy::pick::{
        Candidate, Candidates, ConsistentHash, First, LeastOutstanding, PeakEwma, Pick,
        PowerOfTwoChoices, Random, RequestHead, RequestKey, RoundRobin, Source, Sticky, Tiers,
    },
    upstream::{Balance, Endpoint},
};

const RUNS: usize = 200;
const PICKS: usize = 500;
/// Requests in flight for each endpoint.
const LOAD: usize = 3;

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
        self.endpoints.len() * LOAD
    }
}

fn is_available(index: usize) -> bool {
    index % 10 != 3
}

fn tier(index: usize) -> u8 {
    u8::from(index % 3 == 2)
}

fn weight(index: usize, is_uniform: bool) -> u32 {
    if is_uniform { 1 } else { 1 + index as u32 % 4 }
}

fn set(keys: &[String], is_uniform: bool) -> Set<'_> {
    let endpoints = keys.iter().enumerate().map(|(index, key)| {
        let mut candidate = Candidate::new(key);
        candidate.in_flight = index * 7 % (2 * LOAD + 1);
        candidate.latency = Duration::from_millis(10 + index as u64 * 13 % 50);
        candidate.is_available = is_available(index);
        candidate.tier = tier(index);
        candidate.weight = weight(index, is_uniform);
        candidate
    });
    Set { endpoints: endpoints.collect(), is_uniform }
}

fn requests() -> impl Iterator<Item = Request> {
    (0..PICKS).map(|n| {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = format!("/{n}").parse().expect("a path is a target");
        let client = SocketAddr::from(([10, 0, (n / 256) as u8, n as u8], 1));
        request.extensions_mut().insert(Peer::tcp(client, client));
        request
    })
}

/// Returns the nanoseconds of a step, of which `run` does `PICKS`: the minimum of many runs.
fn least(mut run: impl FnMut() -> Duration) -> f64 {
    let runs = (0..RUNS).map(|_| run().as_nanos() as f64 / PICKS as f64);
    runs.fold(f64::INFINITY, f64::min)
}

fn pick(policy: &dyn Pick, set: &Set<'_>) -> f64 {
    let prepared = policy.prepare(Candidates::new(set));
    let requests: Vec<_> = requests().collect();
    least(|| {
        let start = Instant::now();
        for request in &requests {
            let candidates = Candidates::new(set).with_prepared(&prepared);
            black_box(policy.pick(candidates.for_request(RequestHead::of(request))));
        }
        start.elapsed()
    })
}

type Answer = Ready<Result<Response, Infallible>>;
type Application = ServiceFn<fn(Request) -> Answer>;

fn endpoint(key: &str) -> Endpoint<Application> {
    let answer: fn(Request) -> Answer = |_| ready(Ok(Response::new(Body::empty())));
    Endpoint::new(key, service_fn(answer))
}

/// Sends requests that are answered when `in_flight` later ones have been sent.
fn send<S>(mut service: S, in_flight: usize) -> f64
where
    S: Service<Request, Future: Future + Unpin>,
{
    let mut calls = VecDeque::new();
    while calls.len() < in_flight {
        calls.extend(requests().map(|request| service.call(request)));
    }
    calls.truncate(in_flight);
    let mut cx = Context::from_waker(Waker::noop());
    least(|| {
        let requests: Vec<_> = requests().collect();
        let start = Instant::now();
        for request in requests {
            calls.push_back(service.call(request));
            let oldest = pin!(calls.pop_front().expect("one was just added"));
            assert!(black_box(oldest.poll(&mut cx)).is_ready());
        }
        start.elapsed()
    })
}

fn balance(policy: Box<dyn Pick>, keys: &[String], is_uniform: bool) -> f64 {
    let endpoints = keys
        .iter()
        .enumerate()
        .map(|(index, key)| endpoint(key).weight(weight(index, is_uniform)).tier(tier(index)));
    let balance = Balance::new(endpoints, policy);
    for (index, endpoint) in balance.endpoints().iter().enumerate() {
        if !is_available(index) {
            endpoint.handle().eject(Duration::MAX);
        }
    }
    send(balance, keys.len() * LOAD)
}

type NewPolicy<'a> = &'a dyn Fn() -> Box<dyn Pick>;

fn main() {
    let ring = || ConsistentHash::ring(RequestKey::client_address());
    let maglev = || ConsistentHash::maglev(RequestKey::client_address());
    let policies: [(&str, NewPolicy<'_>); 12] = [
        ("round robin", &|| Box::new(RoundRobin::new())),
        ("random", &|| Box::new(Random::new())),
        ("two choices", &|| Box::new(PowerOfTwoChoices::new())),
        ("peak EWMA", &|| Box::new(PeakEwma::new())),
        ("ring", &|| Box::new(ring())),
        ("ring, bounded", &|| Box::new(ring().bounded_load(125))),
        ("maglev", &|| Box::new(maglev())),
        ("maglev, bounded", &|| Box::new(maglev().bounded_load(125))),
        ("sticky", &|| Box::new(Sticky::new([1; 16], RoundRobin::new()))),
        ("tiers", &|| Box::new(Tiers::new(RoundRobin::new))),
        ("first", &|| Box::new(First::new())),
        ("least outstanding", &|| Box::new(LeastOutstanding::new())),
    ];
    println!("{:<18} {:>6} {:>19} {:>19}", "", "", "pick", "balance");
    print!("{:<18} {:>6}", "nanoseconds", "n");
    println!(" {0:>9} {1:>9} {0:>9} {1:>9}", "uniform", "weighted");
    for n in [10, 1000] {
        let keys: Vec<_> = (0..n).map(|i| format!("10.1.{}.{}:80", i / 256, i % 256)).collect();
        let alone = send(endpoint("alone"), n * LOAD);
        for (name, policy) in &policies {
            print!("{name:<18} {n:>6}");
            for is_uniform in [true, false] {
                print!(" {:>9.1}", pick(&*policy(), &set(&keys, is_uniform)));
            }
            for is_uniform in [true, false] {
                print!(" {:>9.1}", balance(policy(), &keys, is_uniform) - alone);
            }
            println!();
        }
    }
}
