use super::*;
use crate::policy::backoff::Backoff;

const OPTIONS: HealthOptions = HealthOptions::new();

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn begin(health: &Health, now: u64) -> Attempt {
    health.begin(at(now), &OPTIONS, false).unwrap()
}

fn fail(health: &Health, now: u64) -> bool {
    health.fail(begin(health, now), at(now), &OPTIONS, Failure::Failed, || true)
}

fn unreachable(health: &Health, now: u64) -> bool {
    health.fail(begin(health, now), at(now), &OPTIONS, Failure::Unreachable, || false)
}

fn until(health: &Health, now: u64) -> Option<u64> {
    match health.phase(at(now), &OPTIONS) {
        Phase::Ejected { until } => Some(millis(until)),
        _ => None,
    }
}

#[test]
fn failures_in_a_row_eject_endpoint_and_success_starts_anew() {
    let health = Health::new();
    for now in 0..4 {
        assert!(!fail(&health, now));
    }
    health.succeed(begin(&health, 4), at(4), &OPTIONS);
    for now in 5..9 {
        assert!(!fail(&health, now));
    }
    assert!(fail(&health, 9));
    assert_eq!(until(&health, 10), Some(1009));
}

#[test]
fn floor_keeps_failing_endpoint_but_not_unreachable_one() {
    let health = Health::new();
    for now in 0..20 {
        let attempt = begin(&health, now);
        assert!(!health.fail(attempt, at(now), &OPTIONS, Failure::Failed, || false));
    }
    assert!(unreachable(&health, 20));
    assert!(OPTIONS.may_eject(2, 2) && !OPTIONS.may_eject(1, 2) && !OPTIONS.may_eject(1, 1));
    let careful = OPTIONS.min_available(3).max_ejected(100);
    assert!(careful.may_eject(4, 10) && !careful.may_eject(3, 10));
}

#[test]
fn ejection_ends_with_probe_and_is_longer_after_failed_one() {
    let health = Health::new();
    assert!(unreachable(&health, 0));
    let mut now = 0;
    for period in [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
        assert_eq!(until(&health, now), Some(now + period));
        assert!(!health.is_healthy(at(now + period - 1), &OPTIONS));
        now += period;
        assert!(health.is_healthy(at(now), &OPTIONS));
        assert_eq!(health.phase(at(now), &OPTIONS), Phase::HalfOpen);
        let probe = begin(&health, now);
        assert!(!health.is_healthy(at(now), &OPTIONS));
        assert!(health.begin(at(now), &OPTIONS, false).is_none(), "one probe at a time");
        assert!(health.fail(probe, at(now), &OPTIONS, Failure::Failed, || false));
    }
    now += 30_000;
    // A probe that says nothing makes room for the next.
    health.release(begin(&health, now));
    health.succeed(begin(&health, now), at(now), &OPTIONS);
    assert_eq!(health.phase(at(now), &OPTIONS), Phase::Ready);
    // It fails again soon, and again after a long time.
    assert!(unreachable(&health, now + 10));
    assert_eq!(until(&health, now + 10), Some(now + 10 + 30_000));
    now += 30_010;
    health.succeed(begin(&health, now), at(now), &OPTIONS);
    assert!(unreachable(&health, now + 30_000));
    assert_eq!(until(&health, now + 30_000), Some(now + 31_000));
}

#[test]
fn attempt_from_before_an_ejection_neither_ends_nor_prolongs_it() {
    let health = Health::new();
    let (old, older) = (begin(&health, 1), begin(&health, 1));
    assert!(unreachable(&health, 5));
    health.succeed(old, at(6), &OPTIONS);
    assert_eq!(until(&health, 6), Some(1005));
    assert!(!health.fail(older, at(7), &OPTIONS, Failure::Unreachable, || true));
    assert_eq!(until(&health, 7), Some(1005));
}

#[test]
fn failure_of_an_attempt_from_before_a_recovery_does_not_count() {
    let health = Health::new();
    // The packets of these are lost, and their connect timeouts pass after 5 s.
    let lost = [0, 1000, 2000].map(|now| begin(&health, now));
    let [first, second, third] = lost;
    assert!(health.fail(first, at(5000), &OPTIONS, Failure::Unreachable, || true));
    health.succeed(begin(&health, 6000), at(6001), &OPTIONS);
    assert!(!health.fail(second, at(6002), &OPTIONS, Failure::Unreachable, || true));
    assert!(!health.fail(third, at(7000), &OPTIONS, Failure::Failed, || true));
    assert_eq!((until(&health, 7000), health.failures()), (None, 0));
    // A later one counts, and the next ejection is as long as if the others had not failed.
    assert!(unreachable(&health, 6001));
    assert_eq!(until(&health, 6001), Some(8001));
}

#[test]
fn forced_attempt_during_an_ejection_ends_or_prolongs_it() {
    let health = Health::new();
    assert!(unreachable(&health, 5));
    let forced = health.begin(at(500), &OPTIONS, true).unwrap();
    assert!(!health.fail(forced, at(500), &OPTIONS, Failure::Failed, || true), "no new one");
    assert_eq!(until(&health, 500), Some(1500));
    let forced = health.begin(at(600), &OPTIONS, true).unwrap();
    health.succeed(forced, at(600), &OPTIONS);
    assert_eq!(health.phase(at(600), &OPTIONS), Phase::Ready);
}

#[test]
fn operator_alone_ends_what_operator_has_set() {
    let health = Health::new();
    health.take_out(at(60_000));
    unreachable(&health, 0);
    let forced = health.begin(at(10), &OPTIONS, true).unwrap();
    health.succeed(forced, at(10), &OPTIONS);
    assert!(
        health.check(at(11), false, &OPTIONS.fall(1))
            && health.check(at(12), true, &OPTIONS.rise(1))
    );
    assert_eq!(health.phase(at(59_999), &OPTIONS), Phase::Out { until: at(60_000) });
    assert_eq!(health.phase(at(60_000), &OPTIONS), Phase::Ready);
    health.take_out(Duration::MAX);
    health.set_draining(true);
    assert!(!health.is_in(Duration::from_secs(1 << 40)) && health.is_draining());
    health.restore(at(1), &OPTIONS);
    assert_eq!(health.phase(at(1), &OPTIONS), Phase::Ready);
}

#[test]
fn restored_endpoint_is_ejected_by_as_many_failures_as_a_new_one() {
    let health = Health::new();
    for begin in [0, 10] {
        for now in begin..begin + 4 {
            assert!(!fail(&health, now));
        }
        assert!(fail(&health, begin + 4));
        health.restore(at(begin + 5), &OPTIONS);
        assert_eq!(health.failures(), 0);
    }
}

#[test]
fn checks_take_endpoint_down_and_up_after_fall_and_rise() {
    let health = Health::new();
    let mut check = |is_ok| health.check(at(1), is_ok, &OPTIONS);
    assert_eq!(
        [false, false, true, false, false, false].map(&mut check),
        [false, false, false, false, false, true]
    );
    assert_eq!(health.phase(at(1), &OPTIONS), Phase::Down);
    // A request that was sent all the same ends nothing.
    health.succeed(health.begin(at(2), &OPTIONS, true).unwrap(), at(2), &OPTIONS);
    assert!(!health.is_healthy(at(1 << 40), &OPTIONS));
    assert_eq!([true, false, true, true].map(&mut check), [false, false, false, true]);
    assert_eq!(health.phase(at(1), &OPTIONS), Phase::Ready);
}

#[test]
fn retry_after_keeps_requests_away_within_its_bound() {
    let health = Health::new();
    health.back_off(at(0), Duration::from_secs(9), &OPTIONS);
    health.back_off(at(0), Duration::from_secs(2), &OPTIONS);
    assert_eq!(health.phase(at(1), &OPTIONS), Phase::BackingOff { until: at(9000) });
    assert!(!health.is_healthy(at(8999), &OPTIONS) && health.is_healthy(at(9000), &OPTIONS));
    health.back_off(at(10_000), Duration::MAX, &OPTIONS);
    assert!(health.is_healthy(at(40_000), &OPTIONS));
    let ignoring = OPTIONS.max_retry_after(Duration::ZERO);
    health.back_off(at(50_000), Duration::MAX, &ignoring);
    assert!(health.is_healthy(at(50_000), &OPTIONS));
}

#[test]
fn slow_start_grows_from_a_tenth_and_begins_with_each_return() {
    let options = OPTIONS.slow_start(Duration::from_secs(10));
    let health = Health::new();
    assert_eq!(health.ramp(at(5), &options), 1000, "it does not join late");
    health.start_slowly(at(1000), &options);
    let ramps = [1000, 3000, 6000, 10_999, 11_000].map(|now| health.ramp(at(now), &options));
    assert_eq!(ramps, [100, 200, 500, 999, 1000]);
    unreachable(&health, 20_000);
    let probe = health.begin(at(21_000), &options, false).unwrap();
    health.succeed(probe, at(21_500), &options);
    assert_eq!(health.phase(at(21_500), &options), Phase::SlowStart { ramp: 100 });
}

#[test]
fn outliers_need_enough_requests_and_endpoints() {
    let sample = |requests, failures| Sample { requests, failures, ..Sample::default() };
    let options = OPTIONS.outlier_success(50);
    assert_eq!(outliers(&[sample(20, 20), sample(20, 0), sample(20, 0)], &options), [0]);
    assert_eq!(outliers(&[sample(19, 19), sample(20, 0), sample(20, 0)], &options), [0; 0]);
    assert_eq!(outliers(&[sample(20, 20), sample(20, 0)], &options), [0; 0]);
    // When all fail none is an outlier.
    assert_eq!(outliers(&[sample(20, 20); 4], &options), [0; 0]);
    assert_eq!(outliers(&[sample(20, 20), sample(20, 0), sample(20, 0)], &OPTIONS), [0; 0]);
}

#[test]
fn mean_of_outliers_leaves_unknown_latencies_out() {
    let sample = |timed, millis: u32| {
        let latency = Duration::from_millis(millis.into()) * timed;
        Sample { requests: 100, failures: 0, timed, latency }
    };
    let options = OPTIONS.outlier_latency(3);
    // The latency of three quarters of the second one's requests is unknown.
    assert_eq!(outliers(&[sample(100, 100), sample(25, 400), sample(100, 100)], &options), [1]);
    assert_eq!(outliers(&[sample(100, 100), sample(19, 400), sample(100, 100)], &options), [0; 0]);
    assert_eq!(outliers(&[sample(100, 100), sample(0, 0), sample(0, 0)], &options), [0; 0]);
}

#[test]
fn longest_times_overflow_nothing() {
    let options = OPTIONS
        .ejection(Backoff::new(Duration::MAX, Duration::MAX))
        .max_retry_after(Duration::MAX)
        .slow_start(Duration::MAX);
    let health = Health::new();
    let attempt = health.begin(at(9), &options, false).unwrap();
    assert!(health.fail(attempt, at(9), &options, Failure::Unreachable, || true));
    assert!(matches!(health.phase(at(9), &options), Phase::Ejected { .. }), "and not down");
    health.back_off(at(9), Duration::MAX, &options);
    health.start_slowly(at(9), &options);
    assert_eq!(health.ramp(at(10), &options), 100);
    health.restore(at(11), &options);
    assert!(health.is_healthy(at(12), &options));
}

#[test]
fn ejection_without_a_longest_period_is_computed() {
    let options = OPTIONS.ejection(Backoff::new(Duration::MAX, Duration::MAX));
    let health = Health::new();
    for now in [0, 5000, 10_000] {
        assert!(health.fail(begin(&health, now), at(now), &options, Failure::Unreachable, || true));
        health.restore(at(now + 1), &options);
    }
}
