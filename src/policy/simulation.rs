//! Simulation of endpoints with crashes, slowness, flapping, partitions and `Retry-After` in virtual time, with limits,
//! outliers, panic mode and an operator, in which the invariants hold.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::{
    backoff::Backoff,
    ewma::{PeakLatency, SuccessRate},
    health::{Attempt, Failure, Health, HealthOptions, Phase, Sample, outliers},
    pick::{
        Candidate, Candidates, LeastOutstanding, PeakEwma, Pick, PowerOfTwoChoices, Prepared,
        Random, RoundRobin, Source,
    },
};

const SEEDS: u64 = 10_000;
const MAX_EJECTION: u64 = 200;
const MIN_AVAILABLE: usize = 2;
const ATTEMPTS: usize = 3;
/// Requests in flight at a server.
const LIMIT: usize = 6;
/// Time between two comparisons of all servers, in milliseconds.
const INTERVAL: u64 = 40;

/// Short times, so that each of them passes within a run.
const OPTIONS: HealthOptions = HealthOptions::new()
    .consecutive_failures(3)
    .ejection(Backoff::new(Duration::from_millis(20), Duration::from_millis(MAX_EJECTION)))
    .slow_start(Duration::from_millis(50))
    .max_retry_after(Duration::from_millis(100))
    .outlier_success(50)
    .outlier_requests(5)
    .max_ejected(100)
    .min_available(MIN_AVAILABLE);

/// The size of a run.
struct Setup {
    endpoints: usize,
    requests: usize,
    fault_percent: u64,
}

impl Setup {
    /// A hundred endpoints, most of which have no fault.
    fn large(_: &mut Rng) -> Self {
        Self { endpoints: 100, requests: 100, fault_percent: 50 }
    }

    /// A few endpoints, of which any part has a fault, and many requests for each.
    fn small(rng: &mut Rng) -> Self {
        let endpoints = 1 + rng.below(10) as usize;
        Self { endpoints, requests: 300, fault_percent: rng.below(101) }
    }
}

/// A fault of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Refuses connections from the first millisecond to the second.
    Crash(u64, u64),
    /// Is slower by this factor.
    Slow(u64),
    /// Fails in every other period of this length in milliseconds.
    Flap(u64),
    /// Does not answer in this time, so that attempts time out.
    Partition(u64, u64),
    /// Fails every request at once.
    Broken,
    /// Answers every second request with 503 and this `Retry-After`.
    Busy(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Answer,
    Busy(u64),
    Failed,
    Unreachable,
}

struct Server {
    key: String,
    fault: Fault,
    health: Health,
    latency: PeakLatency,
    success: SuccessRate,
    in_flight: usize,
    probes: usize,
    sample: Sample,
    is_out: bool,
    is_draining: bool,
}

/// xorshift64*, which needs no state that threads share.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Server {
    fn new(index: usize, setup: &Setup, rng: &mut Rng) -> Self {
        let requests = setup.requests as u64;
        let (from, period) = (rng.below(2 * requests), 1 + rng.below(requests));
        let is_faulty = rng.below(100) < setup.fault_percent;
        let fault = match rng.below(6) {
            _ if !is_faulty => Fault::None,
            0 => Fault::Crash(from, from + period),
            1 => Fault::Slow(2 + rng.below(20)),
            2 => Fault::Flap(1 + rng.below(30)),
            3 => Fault::Partition(from, from + period),
            4 => Fault::Broken,
            _ => Fault::Busy(1 + rng.below(200)),
        };
        Self {
            key: index.to_string(),
            fault,
            health: Health::new(),
            latency: PeakLatency::new(at(100)),
            success: SuccessRate::new(at(100)),
            in_flight: 0,
            probes: 0,
            sample: Sample::default(),
            is_out: false,
            is_draining: false,
        }
    }

    /// Returns the outcome of a request at `now`, and its duration.
    fn serve(&self, now: u64, rng: &mut Rng) -> (Outcome, u64) {
        let usual = 1 + rng.below(4);
        match self.fault {
            Fault::Crash(from, to) if (from..to).contains(&now) => (Outcome::Unreachable, 0),
            Fault::Slow(factor) => (Outcome::Answer, usual * factor),
            Fault::Flap(period) if now / period % 2 == 1 => (Outcome::Unreachable, 0),
            Fault::Partition(from, to) if (from..to).contains(&now) => (Outcome::Failed, 30),
            Fault::Broken => (Outcome::Failed, 0),
            Fault::Busy(period) if rng.below(2) == 0 => (Outcome::Busy(period), usual),
            _ => (Outcome::Answer, usual),
        }
    }

    /// Returns whether it is healthy and the operator lets it have requests. It may be at its limit.
    fn is_available(&self, now: Duration) -> bool {
        !self.is_out && !self.is_draining && self.health.is_healthy(now, &OPTIONS)
    }

    /// Returns whether it may get a request that was not tried there.
    fn is_free(&self, now: Duration, ignores_health: bool) -> bool {
        let is_healthy = ignores_health || self.health.is_healthy(now, &OPTIONS);
        is_healthy && !self.is_out && self.in_flight < LIMIT
    }
}

/// The servers as a source of candidates for one attempt.
struct View<'a> {
    servers: &'a [Server],
    now: Duration,
    ignores_health: bool,
    tried: &'a [usize],
}

impl Source for View<'_> {
    fn count(&self) -> usize {
        self.servers.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        let server = &self.servers[index];
        let mut candidate = Candidate::new(&server.key);
        candidate.weight = 1 + index as u32 % 3;
        candidate.in_flight = server.in_flight;
        candidate.latency = server.latency.get(self.now);
        candidate.success = server.success.get();
        candidate.ramp = server.health.ramp(self.now, &OPTIONS);
        candidate.is_available = server.is_free(self.now, self.ignores_health);
        candidate.is_draining = server.is_draining;
        candidate.is_tried = self.tried.contains(&index);
        candidate
    }
}

/// An attempt in flight: its end, its outcome, and its begin.
struct Running {
    server: usize,
    attempt: Attempt,
    outcome: Outcome,
    began: u64,
    is_probe: bool,
    tried: Vec<usize>,
}

struct Run {
    setup: Setup,
    options: HealthOptions,
    servers: Vec<Server>,
    policy: Box<dyn Pick>,
    prepared: Prepared,
    rng: Rng,
    /// Attempts by the time of their end; the number distinguishes equal times.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    running: Vec<Option<Running>>,
    swept_at: u64,
    answered: usize,
    failed: usize,
    refused: usize,
}

impl Run {
    fn new(seed: u64, setup: fn(&mut Rng) -> Setup) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let setup = setup(&mut rng);
        let options = OPTIONS.panic_below(if rng.below(2) == 0 { 0 } else { 40 });
        let servers = (0..setup.endpoints).map(|i| Server::new(i, &setup, &mut rng));
        let servers: Vec<_> = servers.collect();
        let policy: Box<dyn Pick> = match seed % 8 {
            0 => Box::new(RoundRobin::new()),
            1 => Box::new(Random::with_seed(seed)),
            2 => Box::new(LeastOutstanding::new()),
            3 => Box::new(PowerOfTwoChoices::with_seed(seed)),
            _ => Box::new(PeakEwma::with_seed(seed)),
        };
        let view = View { servers: &servers, now: at(0), ignores_health: false, tried: &[] };
        let prepared = policy.prepare(Candidates::new(&view));
        Self {
            setup,
            options,
            servers,
            policy,
            prepared,
            rng,
            ends: BinaryHeap::new(),
            running: Vec::new(),
            swept_at: 0,
            answered: 0,
            failed: 0,
            refused: 0,
        }
    }

    fn run(&mut self) {
        let mut now = 0;
        for _ in 0..self.setup.requests {
            now += self.rng.below(5);
            self.end_until(now);
            self.sweep(now);
            if self.rng.below(20) == 0 {
                self.operate(now);
            }
            self.send(now, Vec::new());
        }
        self.end_until(u64::MAX);
        self.check_end(now);
    }

    /// Takes an endpoint out, drains it or restores it, as an operator.
    fn operate(&mut self, now: u64) {
        let index = self.rng.below(self.servers.len() as u64) as usize;
        let server = &mut self.servers[index];
        if server.is_out || server.is_draining {
            (server.is_out, server.is_draining) = (false, false);
            server.health.restore(at(now), &OPTIONS);
        } else if self.rng.below(2) == 0 {
            server.is_out = true;
            server.health.take_out(Duration::MAX);
        } else {
            server.is_draining = true;
            server.health.set_draining(true);
        }
    }

    fn available(&self, now: u64) -> usize {
        self.servers.iter().filter(|server| server.is_available(at(now))).count()
    }

    /// Ejects outliers.
    fn sweep(&mut self, now: u64) {
        if now < self.swept_at + INTERVAL {
            return;
        }
        self.swept_at = now;
        let samples: Vec<_> =
            self.servers.iter_mut().map(|server| std::mem::take(&mut server.sample)).collect();
        for index in outliers(&samples, &OPTIONS) {
            let may_eject = OPTIONS.may_eject(self.available(now), self.servers.len());
            if may_eject && self.servers[index].health.eject_outlier(at(now), &OPTIONS) {
                assert!(self.available(now) >= MIN_AVAILABLE, "the floor of outliers");
            }
        }
    }

    /// Sends a request that was already tried at these servers.
    fn send(&mut self, now: u64, tried: Vec<usize>) {
        let (time, count) = (at(now), self.servers.len());
        let is_left = |(i, s): (usize, &Server)| s.is_available(time) && !tried.contains(&i);
        let healthy = self.servers.iter().filter(|s| s.health.is_healthy(time, &OPTIONS)).count();
        let ignores_health =
            self.options.is_panic(healthy, count) || !self.servers.iter().enumerate().any(is_left);
        let view = View { servers: &self.servers, now: time, ignores_health, tried: &tried };
        let candidates = Candidates::new(&view).with_prepared(&self.prepared);
        let Some(index) = self.policy.pick(candidates) else {
            let is_free = |(i, s): (usize, &Server)| {
                s.is_free(time, ignores_health) && !s.is_draining && !tried.contains(&i)
            };
            let is_refused_in_vain = self.servers.iter().enumerate().any(is_free);
            assert!(!is_refused_in_vain, "there is a free server that was not tried");
            self.refused += 1;
            return;
        };

        let server = &self.servers[index];
        assert!(!tried.contains(&index), "tried twice");
        assert!(!server.is_out && server.health.is_in(time), "an operator has taken it out");
        assert!(!server.is_draining && !server.health.is_draining(), "an operator drains it");
        assert!(server.in_flight < LIMIT, "at its limit");
        let phase = server.health.phase(time, &OPTIONS);
        let is_unhealthy = matches!(phase, Phase::Ejected { .. } | Phase::BackingOff { .. });
        assert!(ignores_health || !is_unhealthy, "ejected, while others are healthy");
        let attempt = server.health.begin(time, &OPTIONS, ignores_health);
        let attempt = attempt.expect("a half-open server that has its probe is not offered");
        let is_probe = phase == Phase::HalfOpen && !ignores_health;

        let (outcome, takes) = server.serve(now, &mut self.rng);
        let server = &mut self.servers[index];
        server.in_flight += 1;
        server.probes += usize::from(is_probe);
        assert!(server.probes <= 1, "one probe at a time");
        self.ends.push(Reverse((now + takes, self.running.len())));
        self.running.push(Some(Running {
            server: index,
            attempt,
            outcome,
            began: now,
            is_probe,
            tried,
        }));
    }

    /// Ends all attempts that are due, and retries those that failed.
    fn end_until(&mut self, until: u64) {
        while let Some(&Reverse((end, number))) = self.ends.peek()
            && end <= until
        {
            self.ends.pop();
            let running = self.running[number].take().expect("it ends once");
            self.end(running, end);
        }
    }

    fn end(&mut self, running: Running, now: u64) {
        let Running { server: index, attempt, outcome, began, is_probe, mut tried } = running;
        let is_answer = matches!(outcome, Outcome::Answer | Outcome::Busy(_));
        // Counted only where it is needed, since it takes most of the time.
        let available = if is_answer { 0 } else { self.available(now) };
        let count = self.servers.len();
        let server = &mut self.servers[index];
        server.in_flight -= 1;
        server.probes -= usize::from(is_probe);
        server.sample.requests += 1;
        server.sample.failures += u32::from(outcome != Outcome::Answer);
        server.success.observe(at(now), outcome == Outcome::Answer);
        let was_out = server.is_out;
        let mut is_ejected = false;
        if is_answer {
            server.latency.observe(at(now), at(now - began));
            if let Outcome::Busy(period) = outcome {
                server.health.back_off(at(now), at(period), &OPTIONS);
            }
            server.health.succeed(attempt, at(now), &OPTIONS);
            self.answered += 1;
        } else {
            let failure = match outcome {
                Outcome::Unreachable => Failure::Unreachable,
                _ => Failure::Failed,
            };
            let may_eject = || OPTIONS.may_eject(available, count);
            let phase = server.health.phase(at(now), &OPTIONS);
            let was_healthy = matches!(phase, Phase::Ready | Phase::SlowStart { .. });
            let was_probe = attempt.is_probe();
            let has_begun = server.health.fail(attempt, at(now), &OPTIONS, failure, may_eject);
            // A failed probe ends a recovery, whatever the floor.
            is_ejected = has_begun && was_healthy && !was_probe && failure == Failure::Failed;
            if let Phase::Ejected { until } = server.health.phase(at(now), &OPTIONS) {
                assert!(until <= at(now + MAX_EJECTION), "the longest ejection");
            }
        }
        let is_out = !server.health.is_in(at(now));
        assert_eq!(is_out, was_out, "only an operator lets it in");
        assert!(!is_ejected || self.available(now) >= MIN_AVAILABLE, "the floor");
        if !is_answer {
            tried.push(index);
            if tried.len() < ATTEMPTS { self.send(now, tried) } else { self.failed += 1 }
        }
    }

    fn check_end(&mut self, now: u64) {
        let (requests, lost) = (self.setup.requests, self.failed + self.refused);
        assert_eq!(self.answered + lost, requests, "each request has one end");
        if self.setup.endpoints == 100 {
            // Half of the servers have no fault at all.
            assert!(lost * 5 < requests, "{lost} of {requests} failed");
        }
        let later = at(now + 2 * MAX_EJECTION);
        for server in &self.servers {
            assert_eq!(server.in_flight, 0);
            let is_offered = server.health.is_healthy(later, &OPTIONS);
            assert!(is_offered, "an ejection ends, and no probe is lost");
            let attempt = server.health.begin(later, &OPTIONS, false).expect("a probe is free");
            server.health.succeed(attempt, later, &OPTIONS);
            let end = later + at(50);
            let phase = server.health.phase(end, &OPTIONS);
            let is_well = match phase {
                Phase::Out { .. } => server.is_out,
                Phase::Draining => server.is_draining,
                _ => phase == Phase::Ready && !server.is_out && !server.is_draining,
            };
            assert!(is_well, "{phase:?} after a success and the slow start");
        }
    }
}

fn run(setup: fn(&mut Rng) -> Setup) {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..SEEDS).step_by(threads as usize) {
                    let run = std::panic::catch_unwind(|| Run::new(seed, setup).run());
                    assert!(run.is_ok(), "seed {seed}");
                }
            });
        }
    });
}

#[test]
fn hundred_endpoints_that_fail_in_any_way_keep_the_invariants() {
    run(Setup::large);
}

#[test]
fn few_endpoints_that_fail_in_any_way_keep_the_invariants() {
    run(Setup::small);
}
