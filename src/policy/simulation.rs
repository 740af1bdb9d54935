//! Simulation of endpoints with crashes, slowness, flapping, partitions and `Retry-After` in virtual time, with limits,
//! outliers, panic mode, active checks and an operator, in which the invariants hold.

mod events;
mod policies;
mod server;

use std::{cell::Cell, cmp::Reverse, collections::BinaryHeap, time::Duration};

use self::{
    events::{Event, Events},
    policies::{KEYS, Policy, Tables},
    server::{LIMIT, Outcome, Rng, Server, Setup, View, at},
};
use super::{
    backoff::Backoff,
    health::{Attempt, Failure, HealthOptions, Phase, outliers},
};

/// The default number of seeds. `VESTIBULE_POLICY_SEEDS` sets another one.
const SEEDS: u64 = 10_000;
const MAX_EJECTION: u64 = 200;
const MIN_AVAILABLE: usize = 2;
const ATTEMPTS: usize = 3;
/// Time between two comparisons of all servers, in milliseconds.
const INTERVAL: u64 = 40;
/// Time between two active checks of a server, in milliseconds.
const CHECK_INTERVAL: u64 = 8;

/// Short times, so that each of them passes within a run.
const OPTIONS: HealthOptions = HealthOptions::new()
    .consecutive_failures(3)
    .ejection(Backoff::new(Duration::from_millis(20), Duration::from_millis(MAX_EJECTION)))
    .slow_start(Duration::from_millis(50))
    .max_retry_after(Duration::from_millis(100))
    .outlier_success(50)
    .outlier_latency(3)
    .outlier_requests(4)
    .rise(2)
    .fall(2)
    .max_ejected(100)
    .min_available(MIN_AVAILABLE);

/// A request and the servers where it was tried.
struct Sent {
    key: usize,
    tried: Vec<usize>,
}

/// An attempt in flight: its end, its outcome, and its begin.
struct Running {
    server: usize,
    attempt: Attempt,
    outcome: Outcome,
    began: u64,
    is_probe: bool,
    request: Sent,
}

struct Run {
    setup: Setup,
    options: HealthOptions,
    has_checks: bool,
    servers: Vec<Server>,
    policy: Policy,
    rng: Rng,
    /// Attempts by the time of their end; the number distinguishes equal times.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    running: Vec<Option<Running>>,
    swept_at: u64,
    checked_at: u64,
    ended_at: u64,
    answered: usize,
    failed: usize,
    refused: usize,
    events: Events,
}

impl Run {
    fn new(seed: u64, setup: fn(&mut Rng) -> Setup, tables: &Tables) -> Self {
        let mut rng = Rng::with_seed(seed);
        let setup = setup(&mut rng);
        // Without a number of failures in a row, comparisons alone eject servers that fail.
        let options = OPTIONS
            .panic_below(if rng.below(2) == 0 { 0 } else { 60 })
            .consecutive_failures(if rng.below(4) == 0 { 0 } else { 3 });
        let has_checks = rng.below(3) == 0;
        let servers = (0..setup.endpoints).map(|i| Server::new(i, &setup, &mut rng));
        let servers: Vec<_> = servers.collect();
        let (ignores_health, tried) = (false, &[][..]);
        let view = View { servers: &servers, options: &options, now: at(0), ignores_health, tried };
        let policy = Policy::new(seed, &view, tables);
        Self {
            setup,
            options,
            has_checks,
            servers,
            policy,
            rng,
            ends: BinaryHeap::new(),
            running: Vec::new(),
            swept_at: 0,
            checked_at: 0,
            ended_at: 0,
            answered: 0,
            failed: 0,
            refused: 0,
            events: Events::default(),
        }
    }

    fn run(mut self) -> Events {
        let mut now = 0;
        for _ in 0..self.setup.requests {
            if self.rng.below(self.setup.burst) == 0 {
                now += self.rng.below(5);
            }
            self.end_until(now);
            self.sweep(now);
            self.check(now);
            if self.rng.below(20) == 0 {
                self.operate(now);
            }
            let key = self.rng.below(KEYS as u64) as usize;
            self.send(now, Sent { key, tried: Vec::new() });
        }
        self.end_until(u64::MAX);
        self.check_end(now.max(self.ended_at));
        self.events
    }

    /// Takes an endpoint out, drains it or restores it, as an operator.
    fn operate(&mut self, now: u64) {
        let index = self.rng.below(self.servers.len() as u64) as usize;
        let server = &mut self.servers[index];
        if !server.is_in() {
            (server.is_out, server.is_draining) = (false, false);
            server.health.restore(at(now), &self.options);
        } else if self.rng.below(2) == 0 {
            server.is_out = true;
            server.health.take_out(Duration::MAX);
        } else {
            server.is_draining = true;
            server.health.set_draining(true);
        }
    }

    /// Returns how many endpoints are available, and how many the operator lets have requests.
    fn available(&self, now: u64) -> (usize, usize) {
        let (mut available, mut total) = (0, 0);
        for server in self.servers.iter().filter(|server| server.is_in()) {
            total += 1;
            available += usize::from(server.health.is_healthy(at(now), &self.options));
        }
        (available, total)
    }

    /// Ejects outliers.
    fn sweep(&mut self, now: u64) {
        if now < self.swept_at + INTERVAL {
            return;
        }
        self.swept_at = now;
        let samples: Vec<_> =
            self.servers.iter_mut().map(|server| std::mem::take(&mut server.sample)).collect();
        let by_success = outliers(&samples, &self.options.outlier_latency(0));
        for index in outliers(&samples, &self.options) {
            let (available, total) = self.available(now);
            if self.options.may_eject(available, total)
                && self.servers[index].health.eject_outlier(at(now), &self.options)
            {
                assert!(self.available(now).0 >= MIN_AVAILABLE, "the floor of outliers");
                let is_by_success = by_success.contains(&index);
                self.events.count_if(is_by_success, Event::SuccessOutlier);
                self.events.count_if(!is_by_success, Event::LatencyOutlier);
            }
        }
    }

    /// Checks all endpoints.
    fn check(&mut self, now: u64) {
        if !self.has_checks || now < self.checked_at + CHECK_INTERVAL {
            return;
        }
        self.checked_at = now;
        for server in &self.servers {
            let is_well = server.is_well(now);
            if server.health.check(at(now), is_well, &self.options) {
                let is_up =
                    server.health.is_clear() || server.health.is_healthy(at(now), &self.options);
                assert!(is_well || !is_up, "it is down");
                self.events.count(if is_well { Event::Up } else { Event::Down });
            }
        }
    }

    fn send(&mut self, now: u64, request: Sent) {
        let (time, tried) = (at(now), &request.tried);
        let is_left =
            |(i, s): (usize, &Server)| s.is_available(time, &self.options) && !tried.contains(&i);
        // Counted only where it is needed, since it takes most of the time.
        let is_panic = self.options.has_panic_share() && {
            let (healthy, total) = self.available(now);
            self.options.is_panic(healthy, total)
        };
        let ignores_health = is_panic || !self.servers.iter().enumerate().any(is_left);
        let servers = &self.servers;
        let view = View { servers, options: &self.options, now: time, ignores_health, tried };
        let Some(picked) = self.policy.pick(&view, request.key, &mut self.events) else {
            let is_refused_in_vain = (0..servers.len()).any(|i| view.is_eligible(i));
            assert!(!is_refused_in_vain, "there is a free server that was not tried");
            self.refused += 1;
            self.events.count(Event::Refused);
            return;
        };

        let (index, server) = (picked.index, &self.servers[picked.index]);
        assert!(!tried.contains(&index), "tried twice");
        assert!(!server.is_out && server.health.is_in(time), "an operator has taken it out");
        assert_eq!(server.is_draining, server.health.is_draining());
        assert!(!server.is_draining || picked.is_session, "an operator drains it");
        assert!(server.in_flight < LIMIT, "at its limit");
        let is_unhealthy = !server.health.is_healthy(time, &self.options);
        assert!(ignores_health || !is_unhealthy, "ejected, while others are healthy");
        let phase = server.phase(time, &self.options);
        let attempt = server.health.begin(time, &self.options, ignores_health);
        let attempt = attempt.expect("a half-open server that has its probe is not offered");
        let is_probe = attempt.is_probe();
        self.events.count_if(is_probe, Event::Probe);
        self.events.count_if(is_panic, Event::Panic);
        self.events.count_if(is_unhealthy, Event::Forced);
        self.events.count_if(matches!(phase, Phase::SlowStart { .. }), Event::SlowStart);
        self.events.count_if(!tried.is_empty(), Event::Retried);

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
            request,
        }));
    }

    /// Ends all attempts that are due, and retries those that failed.
    fn end_until(&mut self, until: u64) {
        while let Some(&Reverse((end, number))) = self.ends.peek()
            && end <= until
        {
            self.ends.pop();
            let running = self.running[number].take().expect("it ends once");
            self.ended_at = end;
            self.end(running, end);
        }
    }

    fn end(&mut self, running: Running, now: u64) {
        let Running { server: index, attempt, outcome, began, is_probe, mut request } = running;
        let server = &mut self.servers[index];
        server.in_flight -= 1;
        server.probes -= usize::from(is_probe);
        server.sample.requests += 1;
        server.sample.failures += u32::from(outcome != Outcome::Answer);
        server.success.observe(at(now), outcome == Outcome::Answer);
        let was_out = server.is_out;
        match outcome {
            Outcome::Answer | Outcome::Busy(_) => {
                self.succeed(index, attempt, outcome, began, now);
                self.answered += 1;
            }
            Outcome::Unreachable => self.fail(index, attempt, Failure::Unreachable, now),
            Outcome::Failed => self.fail(index, attempt, Failure::Failed, now),
        }
        let is_out = !self.servers[index].health.is_in(at(now));
        assert_eq!(is_out, was_out, "only an operator lets it in");
        if matches!(outcome, Outcome::Failed | Outcome::Unreachable) {
            request.tried.push(index);
            if request.tried.len() < ATTEMPTS {
                self.send(now, request);
            } else {
                self.failed += 1;
                self.events.count(Event::Failed);
            }
        }
    }

    fn succeed(&mut self, index: usize, attempt: Attempt, outcome: Outcome, began: u64, now: u64) {
        let (server, options) = (&mut self.servers[index], &self.options);
        server.latency.observe(at(now), at(now - began));
        match outcome {
            Outcome::Busy(period) => {
                server.health.back_off(at(now), at(period), options);
                self.events.count(Event::BackedOff);
            }
            _ => {
                server.sample.timed += 1;
                server.sample.latency += at(now - began);
            }
        }
        let was_ejected =
            matches!(server.phase(at(now), options), Phase::Ejected { .. } | Phase::HalfOpen);
        server.health.succeed(attempt, at(now), options);
        let phase = server.phase(at(now), options);
        let is_back = matches!(phase, Phase::Ready | Phase::SlowStart { .. });
        self.events.count_if(was_ejected && is_back, Event::Readmitted);
    }

    fn fail(&mut self, index: usize, attempt: Attempt, failure: Failure, now: u64) {
        let (available, total) = self.available(now);
        let (server, options) = (&self.servers[index], &self.options);
        let is_floor = Cell::new(false);
        let may_eject = || {
            is_floor.set(!options.may_eject(available, total));
            !is_floor.get()
        };
        let phase = server.phase(at(now), options);
        let was_healthy = matches!(phase, Phase::Ready | Phase::SlowStart { .. });
        let was_probe = attempt.is_probe();
        let has_begun = server.health.fail(attempt, at(now), options, failure, may_eject);
        let is_reached = failure == Failure::Failed;
        // A failed probe ends a recovery, whatever the floor.
        let is_ejected = has_begun && was_healthy && !was_probe && is_reached;
        if let Phase::Ejected { until } = server.phase(at(now), options) {
            assert!(until <= at(now + MAX_EJECTION), "the longest ejection");
        }
        assert!(!is_ejected || self.available(now).0 >= MIN_AVAILABLE, "the floor");
        self.events.count_if(is_ejected, Event::Ejected);
        self.events.count_if(has_begun && was_probe, Event::ProbeFailed);
        self.events.count_if(has_begun && !was_probe && !is_reached, Event::Unreachable);
        self.events.count_if(is_floor.get(), Event::Floor);
    }

    fn check_end(&self, now: u64) {
        let (requests, lost) = (self.setup.requests, self.failed + self.refused);
        assert_eq!(self.answered + lost, requests, "each request has one end");
        let options = &self.options;
        let is_half_well = self.setup.endpoints == 100 && self.setup.fault_percent <= 50;
        if is_half_well && *options == options.consecutive_failures(3) {
            assert!(lost * 5 < requests, "{lost} of {requests} failed");
        }
        let later = at(now + 2 * MAX_EJECTION);
        for server in &self.servers {
            assert_eq!(server.in_flight, 0);
            // Those that are down are up again.
            (0..2).for_each(|_| _ = server.health.check(later, true, options));
            let is_offered = server.health.is_healthy(later, options);
            assert!(is_offered, "an ejection ends, and no probe is lost");
            let attempt = server.health.begin(later, options, false).expect("a probe is free");
            server.health.succeed(attempt, later, options);
            let end = later + at(50);
            let phase = server.health.phase(end, options);
            let is_well = match phase {
                Phase::Out { .. } => server.is_out,
                Phase::Draining => server.is_draining,
                _ => phase == Phase::Ready && server.is_in(),
            };
            assert!(is_well, "{phase:?} after a success and the slow start");
        }
    }
}

fn seeds() -> u64 {
    let seeds = std::env::var("VESTIBULE_POLICY_SEEDS").ok().and_then(|n| n.parse().ok());
    seeds.unwrap_or(SEEDS)
}

/// Runs all seeds, and checks that each of these events occurs.
fn run(setup: fn(&mut Rng) -> Setup, expected: &[Event]) {
    let (threads, seeds, tables) = (2, seeds(), &Tables::default());
    let run_share = move |thread: u64| {
        let mut events = Events::default();
        for seed in (thread..seeds).step_by(threads as usize) {
            let run = std::panic::catch_unwind(|| Run::new(seed, setup, tables).run());
            events.add(&run.unwrap_or_else(|_| panic!("seed {seed}")));
        }
        events
    };
    let events = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|n| scope.spawn(move || run_share(n))).collect();
        let mut all = Events::default();
        shares.into_iter().for_each(|share| all.add(&share.join().unwrap()));
        all
    });
    println!("{seeds} seeds: {events:?}");
    for &event in expected {
        assert!(events.get(event) >= (seeds / 100).max(1), "{event:?} is rare: {events:?}");
    }
}

/// Events of sets of any size.
const COMMON: [Event; 20] = [
    Event::Ejected,
    Event::Unreachable,
    Event::SuccessOutlier,
    Event::LatencyOutlier,
    Event::Down,
    Event::Up,
    Event::Probe,
    Event::ProbeFailed,
    Event::Readmitted,
    Event::SlowStart,
    Event::BackedOff,
    Event::Panic,
    Event::Forced,
    Event::Retried,
    Event::Failed,
    Event::KeyMoved,
    Event::LoadBounded,
    Event::Session,
    Event::DrainingSession,
    Event::NotFirst,
];

#[test]
fn hundred_endpoints_that_fail_in_any_way_keep_the_invariants() {
    run(Setup::large, &COMMON);
}

#[test]
fn few_endpoints_that_fail_in_any_way_keep_the_invariants() {
    run(Setup::small, &[&COMMON[..], &[Event::Backup, Event::Floor, Event::Refused]].concat());
}
