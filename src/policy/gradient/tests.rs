//! Tests of the gradient against simulated services.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

const MS: u64 = 1000;

/// A service that processes `slots` requests in parallel, in the order of their arrival; in microseconds.
struct Service {
    slots: usize,
    latency: u64,
    /// Maximum random addition to a latency.
    jitter: u64,
    seed: u64,
    now: u64,
    /// The time at which each slot is free.
    free: BinaryHeap<Reverse<u64>>,
    /// The end and the begin of each request, and the number in flight at its begin.
    inside: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

impl Service {
    fn new(slots: usize, latency: u64) -> Self {
        let free = (0..slots).map(|_| Reverse(0)).collect();
        Self { slots, latency, jitter: 0, seed: 1, now: 0, free, inside: BinaryHeap::new() }
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    fn begin(&mut self) {
        let Reverse(free) = self.free.pop().unwrap();
        let extra = if self.jitter == 0 { 0 } else { self.random() % self.jitter };
        let end = free.max(self.now) + self.latency + extra;
        self.free.push(Reverse(end));
        self.inside.push(Reverse((end, self.now, self.inside.len() + 1)));
    }

    /// Serves `n` requests, with as many in flight as `gradient` allows and `demand` requires. Returns the mean
    /// limit, and the number served per second.
    fn serve(&mut self, gradient: &mut Gradient, demand: usize, n: usize) -> (f64, f64) {
        let (began, mut limits) = (self.now, 0);
        for _ in 0..n {
            while self.inside.len() < gradient.limit().min(demand).max(1) {
                self.begin();
            }
            let Reverse((end, begun, in_flight)) = self.inside.pop().unwrap();
            self.now = end;
            gradient.on_sample(Duration::from_micros(end - begun), in_flight);
            limits += gradient.limit();
            let limit = gradient.limit() as f64;
            assert!((gradient.min..=gradient.max).contains(&limit), "{limit}");
        }
        let seconds = (self.now - began) as f64 / 1e6;
        (limits as f64 / n as f64, n as f64 / seconds)
    }

    /// Returns the maximum number of requests per second.
    fn capacity(&self) -> f64 {
        self.slots as f64 * 1e6 / (self.latency + self.jitter / 2) as f64
    }
}

const ALL: usize = usize::MAX;

/// Returns whether two numbers differ by at most a tenth.
fn near(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() <= 0.1
}

#[test]
fn limit_without_tolerance_settles_between_slots_and_queue() {
    for slots in [20, 50, 100] {
        let mut gradient = Gradient::new().tolerance(1.0);
        let mut service = Service::new(slots, 10 * MS);
        service.serve(&mut gradient, ALL, 100_000);
        let (limit, rate) = service.serve(&mut gradient, ALL, 100_000);
        let slots = slots as f64;
        assert!(limit > slots && limit < slots + 4.0, "{slots} slots: {limit}");
        assert!(rate > service.capacity() * 0.97, "{slots} slots: {rate}");
    }
}

#[test]
fn limit_with_tolerance_stays_within_it_and_loses_no_throughput() {
    for (slots, jitter) in [(5, 0), (20, 0), (20, 20 * MS), (20, 100 * MS), (100, 100 * MS)] {
        let mut gradient = Gradient::new();
        let mut service = Service { jitter, ..Service::new(slots, 10 * MS) };
        service.serve(&mut gradient, ALL, 100_000);
        let (limit, rate) = service.serve(&mut gradient, ALL, 100_000);
        let slots = slots as f64;
        assert!(limit > slots && limit < slots * 1.6 + 4.0, "{slots} slots: {limit}");
        assert!(rate > service.capacity() * 0.97, "{slots} slots, jitter {jitter}: {rate}");
    }
}

#[test]
fn small_service_is_not_starved_and_its_queue_stays_short() {
    for slots in [1, 2, 3] {
        let mut gradient = Gradient::new();
        let mut service = Service::new(slots, 10 * MS);
        service.serve(&mut gradient, ALL, 10_000);
        let (limit, rate) = service.serve(&mut gradient, ALL, 10_000);
        assert!(limit > slots as f64 && limit < 12.0, "{slots} slots: {limit}");
        assert!(rate > service.capacity() * 0.97, "{slots} slots: {rate}");
    }
}

#[test]
fn lasting_overload_never_becomes_normal() {
    let mut gradient = Gradient::new();
    let mut service = Service::new(20, 10 * MS);
    service.serve(&mut gradient, ALL, 50_000);
    let (before, _) = service.serve(&mut gradient, ALL, 50_000);
    service.serve(&mut gradient, ALL, 300_000);
    let (after, _) = service.serve(&mut gradient, ALL, 50_000);
    assert!(near(before, after), "{before} and {after}");
}

#[test]
fn doubled_latency_shrinks_the_limit_until_it_has_become_normal() {
    let mut gradient = Gradient::new();
    let mut service = Service::new(20, 10 * MS);
    service.serve(&mut gradient, ALL, 50_000);
    let (before, _) = service.serve(&mut gradient, ALL, 50_000);

    service.latency *= 2;
    service.serve(&mut gradient, ALL, 1000);
    let (shrunk, _) = service.serve(&mut gradient, ALL, 1000);
    assert!(shrunk < before * 0.75, "{before}, then {shrunk}");
    service.serve(&mut gradient, ALL, 50_000);
    let (slow, rate) = service.serve(&mut gradient, ALL, 50_000);
    assert!(near(slow, before), "{before}, then {slow}");
    assert!(rate > service.capacity() * 0.97);

    service.latency /= 2;
    service.serve(&mut gradient, ALL, 50_000);
    let (again, _) = service.serve(&mut gradient, ALL, 50_000);
    assert!(near(again, before), "{before}, then {again}");
}

#[test]
fn slots_that_go_away_and_come_back_are_followed() {
    let mut gradient = Gradient::new();
    let mut service = Service::new(40, 10 * MS);
    service.serve(&mut gradient, ALL, 50_000);
    let (before, _) = service.serve(&mut gradient, ALL, 50_000);
    let gone: Vec<_> = (0..30).filter_map(|_| service.free.pop()).collect();
    service.serve(&mut gradient, ALL, 50_000);
    let (few, _) = service.serve(&mut gradient, ALL, 50_000);
    assert!(few > 10.0 && few < 22.0, "{few}");
    service.free.extend(gone);
    service.serve(&mut gradient, ALL, 50_000);
    let (after, _) = service.serve(&mut gradient, ALL, 50_000);
    assert!(near(before, after), "{before}, {few}, {after}");
}

#[test]
fn limit_does_not_grow_without_demand() {
    let mut gradient = Gradient::new();
    let mut service = Service::new(100, 10 * MS);
    service.serve(&mut gradient, 9, 10_000);
    assert_eq!((gradient.limit(), gradient.steady_limit()), (20, 20));
    service.serve(&mut gradient, 15, 10_000);
    assert_eq!(gradient.steady_limit(), 30, "not beyond twice what is asked for");
    service.serve(&mut gradient, ALL, 10_000);
    let grown = gradient.steady_limit();
    Service::new(100, 99 * MS).serve(&mut gradient, 3, 10_000);
    assert_eq!(gradient.steady_limit(), grown, "nor does it shrink");
}

#[test]
fn limit_begins_with_probe_that_ends_after_ten_unloaded_samples() {
    let ms = Duration::from_millis(1);
    let mut gradient = Gradient::new();
    for in_flight in [5; 9] {
        assert_eq!((gradient.limit(), gradient.steady_limit()), (5, 20));
        gradient.on_sample(ms, in_flight);
        gradient.on_sample(ms * 99, 6); // it began under load and is ignored
    }
    gradient.on_sample(ms, 5);
    assert_eq!(gradient.limit(), 20);
    let mut rounds = 0;
    while gradient.limit() >= 20 {
        (0..gradient.limit()).for_each(|_| gradient.on_sample(ms, 20 + rounds));
        rounds += 1;
    }
    assert_eq!(rounds as u32, PROBE_INTERVAL);
    assert_eq!(gradient.limit(), gradient.steady_limit() / 4);
}

#[test]
fn probe_without_progress_is_given_up_and_the_next_is_put_off() {
    let sec = Duration::from_secs(1);
    let mut gradient = Gradient::new();
    gradient.on_stall(sec * 9);
    assert_eq!(gradient.limit(), 5, "nothing is known yet: it waits for 10 s");
    gradient.on_stall(sec * 10);
    assert_eq!(gradient.limit(), 20);
    gradient.on_stall(sec * 10);

    let mut waits = Vec::new();
    for _ in 0..9 {
        let mut rounds = 0;
        while !gradient.probe.is_active {
            let n = gradient.limit();
            (0..n).for_each(|_| gradient.on_sample(sec, n));
            rounds += 1;
        }
        waits.push(rounds);
        gradient.on_stall(sec * 4 - Duration::from_nanos(1));
        assert!(gradient.probe.is_active, "four times the latency");
        gradient.on_stall(sec * 4);
        assert!(!gradient.probe.is_active);
    }
    assert_eq!(waits, [128, 256, 512, 1024, 2048, 4096, 4096, 4096, 4096]);
}

#[test]
fn limit_stays_within_its_bounds_with_any_samples() {
    let mut random = Service::new(1, 1);
    for (min, max) in [(1, 1), (1, 2), (3, 3), (1, 1000), (20, 200), (1, usize::MAX)] {
        let new = || Gradient::new().min(min).max(max);
        for mut g in [new().initial(0), new().initial(usize::MAX), new().tolerance(f64::NAN)] {
            for _ in 0..20_000 {
                let rtt = match random.random() % 4 {
                    0 => Duration::ZERO,
                    1 => Duration::MAX,
                    2 => Duration::from_nanos(random.random()),
                    _ => Duration::from_millis(random.random() % 100),
                };
                let in_flight = match random.random() % 4 {
                    0 => 0,
                    1 => usize::MAX,
                    _ => g.limit(),
                };
                g.on_sample(rtt, in_flight);
                if random.random().is_multiple_of(64) {
                    g.on_stall(rtt);
                }
                assert!((min..=max).contains(&g.limit()), "{g:?}");
                assert!((min..=max).contains(&g.steady_limit()), "{g:?}");
                assert!(g.limit <= g.max && g.long.is_none_or(f64::is_finite), "{g:?}");
            }
        }
    }
}

#[test]
fn stopped_clock_is_no_latency_and_the_limit_grows() {
    let mut gradient = Gradient::new().max(50);
    for _ in 0..10_000 {
        gradient.on_sample(Duration::ZERO, gradient.limit());
    }
    assert_eq!(gradient.steady_limit(), 50);
}

#[test]
fn contradictory_bounds_yield_to_the_last_one_set() {
    assert_eq!(Gradient::new().max(10).min(30).steady_limit(), 30);
    assert_eq!(Gradient::new().min(30).max(10).steady_limit(), 10);
    assert_eq!(Gradient::new().min(0).max(0).steady_limit(), 1);
    assert_eq!(Gradient::new().tolerance(0.0).tolerance, 1.0);
    assert_eq!(Gradient::new().tolerance(f64::NAN).tolerance, 1.0);
    assert_eq!(Gradient::default().queue(0).queue, 1.0);
}
