//! The servers of the simulation, their faults, and the view of them that a policy gets.

use std::time::Duration;

use crate::policy::{
    ewma::{PeakLatency, SuccessRate},
    health::{Health, HealthOptions, Phase, Sample},
    pick::{Candidate, Source},
};

/// Requests in flight at a server.
pub(super) const LIMIT: usize = 6;

/// The size of a run.
pub(super) struct Setup {
    pub(super) endpoints: usize,
    pub(super) requests: usize,
    /// Requests between two moments.
    pub(super) burst: u64,
    pub(super) fault_percent: u64,
}

impl Setup {
    /// A hundred endpoints, half of which have a fault, or all.
    pub(super) fn large(rng: &mut Rng) -> Self {
        let fault_percent = if rng.below(4) == 0 { 100 } else { 50 };
        Self { endpoints: 100, requests: 400, burst: 4, fault_percent }
    }

    /// A few endpoints, of which any part has a fault, and many requests for each.
    pub(super) fn small(rng: &mut Rng) -> Self {
        let endpoints = 1 + rng.below(10) as usize;
        Self { endpoints, requests: 300, burst: 1, fault_percent: rng.below(101) }
    }

    /// Returns the milliseconds from the first request to the last one, about.
    pub(super) fn length(&self) -> u64 {
        2 * self.requests as u64 / self.burst
    }
}

/// A fault of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Refuses connections from the first millisecond to the second.
    Crash(u64, u64),
    /// Is slower by this factor.
    Slow(u64),
    /// Refuses connections in every other period of this length in milliseconds.
    Flap(u64),
    /// Does not answer in this time, so that attempts time out.
    Partition(u64, u64),
    /// Fails every request at once.
    Broken,
    /// Fails this share of the requests, in percent.
    Flaky(u64),
    /// Answers every second request with 503 and this `Retry-After`.
    Busy(u64),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Outcome {
    Answer,
    Busy(u64),
    Failed,
    Unreachable,
}

pub(super) struct Server {
    key: String,
    fault: Fault,
    pub(super) health: Health,
    pub(super) latency: PeakLatency,
    pub(super) success: SuccessRate,
    pub(super) in_flight: usize,
    pub(super) probes: usize,
    pub(super) sample: Sample,
    pub(super) is_out: bool,
    pub(super) is_draining: bool,
}

/// xorshift64*, which needs no state that threads share.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn with_seed(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

pub(super) fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Server {
    pub(super) fn new(index: usize, setup: &Setup, rng: &mut Rng) -> Self {
        let length = setup.length();
        let (from, period) = (rng.below(length), 1 + rng.below(length / 2));
        let is_faulty = rng.below(100) < setup.fault_percent;
        let fault = match rng.below(7) {
            _ if !is_faulty => Fault::None,
            0 => Fault::Crash(from, from + period),
            1 => Fault::Slow(2 + rng.below(20)),
            2 => Fault::Flap(1 + rng.below(30)),
            3 => Fault::Partition(from, from + period),
            4 => Fault::Broken,
            5 => Fault::Flaky(20 + rng.below(80)),
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
    pub(super) fn serve(&self, now: u64, rng: &mut Rng) -> (Outcome, u64) {
        let usual = 1 + rng.below(4);
        match self.fault {
            Fault::Slow(factor) => (Outcome::Answer, usual * factor),
            Fault::Partition(..) if !self.is_well(now) => (Outcome::Failed, 30),
            Fault::Crash(..) | Fault::Flap(_) if !self.is_well(now) => (Outcome::Unreachable, 0),
            Fault::Broken => (Outcome::Failed, 0),
            Fault::Flaky(percent) if rng.below(100) < percent => (Outcome::Failed, usual),
            Fault::Busy(period) if rng.below(2) == 0 => (Outcome::Busy(period), usual),
            _ => (Outcome::Answer, usual),
        }
    }

    /// Returns whether an active check succeeds.
    pub(super) fn is_well(&self, now: u64) -> bool {
        match self.fault {
            Fault::Crash(from, to) | Fault::Partition(from, to) => !(from..to).contains(&now),
            Fault::Flap(period) => (now / period).is_multiple_of(2),
            Fault::Broken => false,
            Fault::None | Fault::Slow(_) | Fault::Flaky(_) | Fault::Busy(_) => true,
        }
    }

    /// Returns whether the operator lets it have all requests.
    pub(super) fn is_in(&self) -> bool {
        !self.is_out && !self.is_draining
    }

    /// Returns whether it is healthy and the operator lets it have requests. It may be at its limit.
    pub(super) fn is_available(&self, now: Duration, options: &HealthOptions) -> bool {
        self.is_in() && self.health.is_healthy(now, options)
    }

    pub(super) fn phase(&self, now: Duration, options: &HealthOptions) -> Phase {
        self.health.phase(now, options)
    }
}

/// The servers as a source of candidates for one attempt.
pub(super) struct View<'a> {
    pub(super) servers: &'a [Server],
    pub(super) options: &'a HealthOptions,
    pub(super) now: Duration,
    pub(super) ignores_health: bool,
    pub(super) tried: &'a [usize],
}

impl View<'_> {
    /// Returns whether a server may get a request that was not tried there.
    pub(super) fn is_free(&self, server: &Server) -> bool {
        let is_healthy = self.ignores_health || server.health.is_healthy(self.now, self.options);
        is_healthy && !server.is_out && server.in_flight < LIMIT
    }

    /// Returns whether a server may get the request.
    pub(super) fn is_eligible(&self, index: usize) -> bool {
        let server = &self.servers[index];
        self.is_free(server) && !server.is_draining && !self.tried.contains(&index)
    }
}

/// One server in four is a backup.
pub(super) fn tier(index: usize) -> u8 {
    u8::from(index % 4 == 3)
}

pub(super) fn zone(index: usize) -> &'static str {
    if index.is_multiple_of(2) { "here" } else { "there" }
}

impl Source for View<'_> {
    fn count(&self) -> usize {
        self.servers.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        let server = &self.servers[index];
        let mut candidate = Candidate::new(&server.key);
        // One in ten has so many requests that they can be compared with each other.
        candidate.weight = if index % 10 == 9 { 20 } else { 1 + index as u32 % 3 };
        candidate.tier = tier(index);
        candidate.zone = zone(index);
        candidate.in_flight = server.in_flight;
        candidate.latency = server.latency.get(self.now);
        candidate.success = server.success.get();
        candidate.ramp = server.health.ramp(self.now, self.options);
        candidate.is_available = self.is_free(server);
        candidate.is_draining = server.is_draining;
        candidate.is_tried = self.tried.contains(&index);
        candidate
    }
}
