//! Simulation of policies over servers in virtual time: latency compared with a known optimum.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use super::*;
use crate::policy::ewma::PeakLatency;

/// A server that works on one request at a time.
struct Server {
    key: String,
    weight: u32,
    /// Requests that it completes in 10 ms.
    speed: f64,
    free_at: f64,
    in_flight: usize,
    latency: PeakLatency,
}

/// Exponentially distributed numbers, from a seed.
struct Exponential(rng::Rng);

impl Exponential {
    fn next(&self, mean: f64) -> f64 {
        let uniform = (self.0.next() >> 11) as f64 / (1_u64 << 53) as f64;
        -mean * (1.0 - uniform).ln()
    }
}

/// Returns 20 servers of the same weight, one of which is ten times slower than the others.
fn one_slow() -> Vec<(u32, f64)> {
    (0..20).map(|i| (1, if i == 0 { 0.1 } else { 1.0 })).collect()
}

/// Returns the milliseconds of the slowest in a hundred of 20,000 requests, at 70 % of the capacity of servers of these
/// weights and speeds. `pick` gets the servers, the time and the work.
fn p99(seed: u64, servers: &[(u32, f64)], mut pick: impl FnMut(&[Server], f64) -> usize) -> f64 {
    let random = Exponential(rng::Rng::with_seed(seed));
    let capacity: f64 = servers.iter().map(|(_, speed)| speed).sum();
    let server = |(i, &(weight, speed)): (usize, &(u32, f64))| Server {
        key: i.to_string(),
        weight,
        speed,
        free_at: 0.0,
        in_flight: 0,
        latency: PeakLatency::new(Duration::from_secs(1)),
    };
    let mut servers: Vec<Server> = servers.iter().enumerate().map(server).collect();
    let (mut now, mut ends, mut latencies) = (0.0, BinaryHeap::new(), Vec::new());
    for _ in 0..20_000 {
        now += random.next(10.0 / (capacity * 0.7));
        while let Some(&Reverse((end, index, latency))) = ends.peek()
            && end <= (now * 1e6) as u64
        {
            let server: &mut Server = &mut servers[index];
            server.in_flight -= 1;
            server.latency.observe(Duration::from_nanos(end), Duration::from_nanos(latency));
            ends.pop();
        }
        let index = pick(&servers, now);
        let server = &mut servers[index];
        let work = random.next(10.0) / server.speed;
        server.free_at = server.free_at.max(now) + work;
        server.in_flight += 1;
        let latency = server.free_at - now;
        ends.push(Reverse(((server.free_at * 1e6) as u64, index, (latency * 1e6) as u64)));
        latencies.push(latency);
    }
    latencies.sort_by(f64::total_cmp);
    latencies[latencies.len() * 99 / 100]
}

fn by(policy: &dyn Pick) -> impl FnMut(&[Server], f64) -> usize {
    let mut prepared = None;
    move |servers, now| {
        let now = Duration::from_nanos((now * 1e6) as u64);
        let candidates: Vec<_> = servers
            .iter()
            .map(|server| {
                let mut candidate = Candidate::new(&server.key);
                candidate.weight = server.weight;
                candidate.in_flight = server.in_flight;
                candidate.latency = server.latency.get(now);
                candidate
            })
            .collect();
        let candidates = Candidates::new(&candidates);
        let prepared = prepared.get_or_insert_with(|| policy.prepare(candidates));
        policy.pick(candidates.with_prepared(prepared)).unwrap()
    }
}

#[test]
fn peak_ewma_has_tail_latency_near_the_optimum() {
    for seed in 0..3 {
        // The optimum knows the work that is queued, and how fast each server is.
        let optimum = p99(seed, &one_slow(), |servers, now| {
            let wait = |s: &Server| (s.free_at - now).max(0.0) + 10.0 / s.speed;
            let best = servers.iter().enumerate().min_by(|a, b| wait(a.1).total_cmp(&wait(b.1)));
            best.unwrap().0
        });
        let ewma = p99(seed, &one_slow(), by(&PeakEwma::with_seed(seed)));
        let least = p99(seed, &one_slow(), by(&LeastOutstanding::new()));
        let two = p99(seed, &one_slow(), by(&PowerOfTwoChoices::with_seed(seed)));
        let turns = p99(seed, &one_slow(), by(&RoundRobin::new()));
        println!(
            "p99 in ms: optimum {optimum:.0}, peak EWMA {ewma:.0}, least outstanding {least:.0}, \
             two choices {two:.0}, round robin {turns:.0}"
        );
        assert!(ewma < optimum * 2.5, "{ewma} {optimum}");
        assert!(ewma < two && two < turns / 5.0, "{ewma} {two} {turns}");
    }
}

#[test]
fn peak_ewma_gives_endpoint_that_recovers_its_share_again() {
    let latency = PeakLatency::new(Duration::from_secs(1));
    let ms = Duration::from_millis;
    latency.observe(ms(0), ms(10));
    latency.observe(ms(1), ms(900));
    let policy = PeakEwma::with_seed(1);
    let share = |now: Duration| {
        let mut endpoints = ["a", "b"].map(Candidate::new);
        (endpoints[0].latency, endpoints[1].latency) = (latency.get(now), ms(10));
        let picks: VecDeque<_> =
            (0..100).filter_map(|_| policy.pick(Candidates::new(&endpoints))).collect();
        picks.iter().filter(|&&picked| picked == 0).count()
    };
    assert_eq!(share(ms(1)), 0, "the first slow response takes its share away");
    assert_eq!(share(ms(6000)), 100, "without requests the estimate decays below the other's");
}

#[test]
fn least_outstanding_of_a_large_weighted_set_has_tail_latency_near_the_exact_choice() {
    // More than the policy checks one by one.
    let servers: Vec<(u32, f64)> =
        (0..200).map(|i| 1 + i % 4).map(|weight| (weight, f64::from(weight))).collect();
    for seed in 0..3 {
        let exact = p99(seed, &servers, |servers, _| {
            let load = |s: &Server| (s.in_flight + 1) as f64 / f64::from(s.weight);
            let best = servers.iter().enumerate().min_by(|a, b| load(a.1).total_cmp(&load(b.1)));
            best.unwrap().0
        });
        let sampled = p99(seed, &servers, by(&LeastOutstanding::new()));
        let random = p99(seed, &servers, by(&Random::with_seed(seed)));
        println!("p99 in ms: exact {exact:.0}, sampled {sampled:.0}, random {random:.0}");
        assert!(sampled < exact * 2.0 && sampled < random * 0.7, "{exact} {sampled} {random}");
    }
}
