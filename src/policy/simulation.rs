//! Simulation of a hundred endpoints with crashes, slowness, flapping and partitions in virtual time, in which the
//! invariants hold.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::{
    backoff::Backoff,
    ewma::{PeakLatency, SuccessRate},
    health::{Attempt, Failure, Health, HealthOptions, Phase},
    pick::{
        Candidate, Candidates, LeastOutstanding, PeakEwma, Pick, PowerOfTwoChoices, Prepared,
        Random, RoundRobin, Source,
    },
};

const ENDPOINTS: usize = 100;
const REQUESTS: usize = 100;
const SEEDS: u64 = 10_000;
const MAX_EJECTION: u64 = 200;

/// Short times, so that each of them passes within a run of 200 ms.
const OPTIONS: HealthOptions = HealthOptions::new()
    .consecutive_failures(3)
    .ejection(Backoff::new(Duration::from_millis(20), Duration::from_millis(MAX_EJECTION)))
    .slow_start(Duration::from_millis(50))
    .max_ejected(90)
    .min_available(5);

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
    /// Refuses every request at once.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Answer,
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
    is_out: bool,
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
    fn new(index: usize, rng: &mut Rng) -> Self {
        let (from, period) = (rng.below(200), 1 + rng.below(100));
        let fault = match rng.below(10) {
            0 => Fault::Crash(from, from + period),
            1 => Fault::Slow(2 + rng.below(20)),
            2 => Fault::Flap(1 + rng.below(30)),
            3 => Fault::Partition(from, from + period),
            4 => Fault::Broken,
            _ => Fault::None,
        };
        Self {
            key: index.to_string(),
            fault,
            health: Health::new(),
            latency: PeakLatency::new(at(100)),
            success: SuccessRate::new(at(100)),
            in_flight: 0,
            probes: 0,
            is_out: false,
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
            _ => (Outcome::Answer, usual),
        }
    }

    fn is_available(&self, now: Duration) -> bool {
        !self.is_out && self.health.is_healthy(now, &OPTIONS)
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
        candidate.is_available =
            server.is_available(self.now) || (self.ignores_health && !server.is_out);
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
    servers: Vec<Server>,
    policy: Box<dyn Pick>,
    prepared: Prepared,
    rng: Rng,
    /// Attempts by the time of their end; the number distinguishes equal times.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    running: Vec<Option<Running>>,
    answered: usize,
    failed: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let servers: Vec<_> = (0..ENDPOINTS).map(|i| Server::new(i, &mut rng)).collect();
        let policy: Box<dyn Pick> = match seed % 8 {
            0 => Box::new(RoundRobin::new()),
            1 => Box::new(Random::with_seed(seed)),
            2 => Box::new(LeastOutstanding::new()),
            3 => Box::new(PowerOfTwoChoices::with_seed(seed)),
            _ => Box::new(PeakEwma::with_seed(seed)),
        };
        let view = View { servers: &servers, now: at(0), ignores_health: false, tried: &[] };
        let prepared = policy.prepare(Candidates::new(&view));
        let (ends, running) = (BinaryHeap::new(), Vec::new());
        Self { servers, policy, prepared, rng, ends, running, answered: 0, failed: 0 }
    }

    fn run(&mut self) {
        let mut now = 0;
        for _ in 0..REQUESTS {
            now += self.rng.below(5);
            self.end_until(now);
            if self.rng.below(20) == 0 {
                self.operate(now);
            }
            self.send(now, Vec::new());
        }
        self.end_until(u64::MAX);
        self.check_end(now);
    }

    /// Takes an endpoint out or restores it, as an operator.
    fn operate(&mut self, now: u64) {
        let index = self.rng.below(ENDPOINTS as u64) as usize;
        let server = &mut self.servers[index];
        server.is_out = !server.is_out;
        if server.is_out {
            server.health.take_out(Duration::MAX);
        } else {
            server.health.restore(at(now), &OPTIONS);
        }
    }

    /// Sends a request that was already tried at these servers.
    fn send(&mut self, now: u64, tried: Vec<usize>) {
        let time = at(now);
        let is_left = |(i, s): (usize, &Server)| s.is_available(time) && !tried.contains(&i);
        let ignores_health = !self.servers.iter().enumerate().any(is_left);
        let view = View { servers: &self.servers, now: time, ignores_health, tried: &tried };
        let candidates = Candidates::new(&view).with_prepared(&self.prepared);
        let picked = self.policy.pick(candidates);
        let index = picked.expect("there is always one that is in and untried");

        let server = &self.servers[index];
        assert!(!tried.contains(&index), "tried twice");
        assert!(!server.is_out && server.health.is_in(time), "an operator has taken it out");
        let phase = server.health.phase(time, &OPTIONS);
        let is_ejected = matches!(phase, Phase::Ejected { .. });
        assert!(ignores_health || !is_ejected, "ejected, while others are healthy");
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
        // Counted only where it is needed, since it takes most of the time.
        let count = |servers: &[Server]| servers.iter().filter(|s| s.is_available(at(now))).count();
        let available = if outcome == Outcome::Answer { 0 } else { count(&self.servers) };
        let server = &mut self.servers[index];
        server.in_flight -= 1;
        server.probes -= usize::from(is_probe);
        let was_out = server.is_out;
        if outcome == Outcome::Answer {
            server.latency.observe(at(now), at(now - began));
            server.success.observe(at(now), true);
            server.health.succeed(attempt, at(now), &OPTIONS);
            self.answered += 1;
        } else {
            server.success.observe(at(now), false);
            let failure = match outcome {
                Outcome::Unreachable => Failure::Unreachable,
                _ => Failure::Failed,
            };
            let may_eject = || OPTIONS.may_eject(available, ENDPOINTS);
            let was_healthy = server.health.phase(at(now), &OPTIONS) != Phase::HalfOpen;
            let is_ejected = server.health.fail(attempt, at(now), &OPTIONS, failure, may_eject);
            if is_ejected && was_healthy && failure == Failure::Failed {
                assert!(available > 5, "the floor");
            }
            if let Phase::Ejected { until } = server.health.phase(at(now), &OPTIONS) {
                assert!(until <= at(now + MAX_EJECTION), "the longest ejection");
            }
        }
        let is_out = !server.health.is_in(at(now));
        assert_eq!(is_out, was_out, "only an operator lets it in");
        if outcome != Outcome::Answer {
            tried.push(index);
            if tried.len() < 3 { self.send(now, tried) } else { self.failed += 1 }
        }
    }

    fn check_end(&mut self, now: u64) {
        assert_eq!(self.answered + self.failed, REQUESTS, "each request has one end");
        // Half of the servers have no fault at all.
        assert!(self.failed * 5 < REQUESTS, "{} of {REQUESTS} failed", self.failed);
        let later = at(now + 2 * MAX_EJECTION);
        for server in &self.servers {
            assert_eq!(server.in_flight, 0);
            let is_offered = server.health.is_healthy(later, &OPTIONS);
            assert!(is_offered, "an ejection ends, and no probe is lost");
            let attempt = server.health.begin(later, &OPTIONS, false).expect("a probe is free");
            server.health.succeed(attempt, later, &OPTIONS);
            let end = later + at(50);
            let phase = server.health.phase(end, &OPTIONS);
            let is_well = if server.is_out {
                matches!(phase, Phase::Out { .. })
            } else {
                phase == Phase::Ready
            };
            assert!(is_well, "{phase:?} after a success and the slow start");
        }
    }
}

#[test]
fn endpoints_that_fail_in_any_way_keep_the_invariants() {
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..SEEDS).step_by(threads as usize) {
                    let run = std::panic::catch_unwind(|| Run::new(seed).run());
                    assert!(run.is_ok(), "seed {seed}");
                }
            });
        }
    });
}
