//! Tests of the supervisor's decisions, in virtual time.

mod processes;
mod refork;
mod renewal;
mod scale;
mod simulation;

use super::*;
use crate::policy::backoff::Backoff;

const TIMEOUT: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);

fn config(workers: usize, max_abandoned: usize) -> Config {
    Config {
        workers,
        scale: Scale::FIXED,
        max_abandoned,
        request_timeout: TIMEOUT,
        drain_timeout: None,
        grace: GRACE,
        backoff: Backoff::new(FIRST_PAUSE, MAX_PAUSE),
        start_timeout: None,
        give_up: None,
        stable_after: None,
        recycle: Recycle::NEVER,
        refork_after: None,
    }
}

/// All actions due at `now`.
fn actions(supervisor: &mut Supervisor, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| supervisor.poll(now)).collect()
}

/// The ids that are started at `now`, when nothing else is due.
fn starts(supervisor: &mut Supervisor, now: Instant) -> Vec<WorkerId> {
    let start = |action| match action {
        Action::Start(id) => id,
        other => panic!("{other:?} where only starts are due"),
    };
    actions(supervisor, now).into_iter().map(start).collect()
}

/// A supervisor whose workers are all idle.
fn running(workers: usize, max_abandoned: usize) -> (Supervisor, Vec<WorkerId>, Instant) {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(config(workers, max_abandoned), now);
    let ids = starts(&mut supervisor, now);
    assert_eq!(ids.len(), workers);
    for id in &ids {
        supervisor.on_ready(*id, now);
    }
    assert_eq!(supervisor.startup(), Startup::Ready);
    (supervisor, ids, now)
}

/// Lets `id` panic over a request and exit.
fn crash(supervisor: &mut Supervisor, id: WorkerId, now: Instant) {
    supervisor.on_begin(id, now, None);
    assert!(!supervisor.on_done(id, true), "it must exit");
    supervisor.on_exit(id, now);
}

#[test]
fn startup_is_ready_when_every_worker_is() {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(config(2, 0), now);
    let ids = starts(&mut supervisor, now);
    supervisor.on_ready(ids[0], now);
    assert_eq!(supervisor.startup(), Startup::Pending);
    supervisor.on_ready(ids[1], now);
    assert_eq!(supervisor.startup(), Startup::Ready);
    assert_eq!((supervisor.ready(), supervisor.deadline()), (2, None));
}

#[test]
fn startup_fails_with_first_worker_that_exits_and_starts_nothing_more() {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(config(3, 3), now);
    let ids = starts(&mut supervisor, now);
    supervisor.on_ready(ids[0], now);
    supervisor.on_exit(ids[1], now);
    assert_eq!(supervisor.startup(), Startup::Failed);
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(ids[2])]);
    assert_eq!(supervisor.deadline(), None);
    supervisor.on_ready(ids[2], now);
    assert_eq!(supervisor.startup(), Startup::Failed, "a late worker does not repair it");
    supervisor.on_exit(ids[0], now);
    assert!(!supervisor.is_ended());
    supervisor.on_exit(ids[2], now);
    assert!(supervisor.is_ended());
}

#[test]
fn worker_that_panics_after_completed_request_is_restarted_at_once() {
    let (mut supervisor, ids, now) = running(2, 0);
    supervisor.on_begin(ids[0], now, None);
    assert!(supervisor.on_done(ids[0], false));
    crash(&mut supervisor, ids[0], now);
    let new = starts(&mut supervisor, now);
    assert_eq!(new.len(), 1);
    assert!(!ids.contains(&new[0]), "an id is never reused");
}

#[test]
fn worker_that_panics_is_replaced_only_once_it_has_exited() {
    let (mut supervisor, ids, now) = running(1, 0);
    supervisor.on_begin(ids[0], now, None);
    supervisor.on_done(ids[0], true);
    assert_eq!(supervisor.ready(), 0);
    assert_eq!((supervisor.poll(now), supervisor.deadline()), (None, None));
    supervisor.on_exit(ids[0], now);
    assert_eq!(starts(&mut supervisor, now).len(), 1);
}

#[test]
fn pauses_between_restarts_double_up_to_bound_and_end_with_completed_request() {
    let (mut supervisor, mut ids, mut now) = running(1, 0);
    let mut pauses = Vec::new();
    for round in 0..10 {
        if round % 2 == 0 {
            crash(&mut supervisor, ids[0], now);
        } else {
            supervisor.on_exit(ids[0], now); // it could not be built
        }
        let at = supervisor.deadline().unwrap();
        pauses.push((at - now).as_millis());
        now = at;
        ids = starts(&mut supervisor, now);
        supervisor.on_ready(ids[0], now);
    }
    assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    supervisor.on_begin(ids[0], now, None);
    supervisor.on_done(ids[0], false);
    crash(&mut supervisor, ids[0], now);
    assert_eq!(supervisor.deadline(), Some(now));
}

#[test]
fn request_is_aborted_at_its_deadline_and_worker_keeps_its_slot() {
    let (mut supervisor, ids, now) = running(1, 1);
    let deadline = now + Duration::from_secs(1);
    let allowance = supervisor.on_begin(ids[0], now, Some(deadline));
    assert_eq!(allowance, Allowance { until: deadline, total: Duration::from_secs(1) });
    assert_eq!(supervisor.deadline(), Some(deadline));
    assert_eq!(actions(&mut supervisor, deadline), [Action::Abort(ids[0])]);
    assert_eq!(supervisor.deadline(), Some(now + TIMEOUT + GRACE));
    assert!(supervisor.on_done(ids[0], false));
    assert_eq!((supervisor.ready(), supervisor.deadline()), (1, None));
}

#[test]
fn deadline_never_extends_request_timeout() {
    let (mut supervisor, ids, now) = running(1, 1);
    let allowance = supervisor.on_begin(ids[0], now, Some(now + TIMEOUT * 2));
    assert_eq!(allowance, Allowance { until: now + TIMEOUT, total: TIMEOUT });
}

#[test]
fn worker_that_outlives_timeout_and_grace_is_abandoned_and_replaced() {
    let (mut supervisor, ids, now) = running(1, 1);
    supervisor.on_begin(ids[0], now, None);
    assert_eq!(actions(&mut supervisor, now + TIMEOUT), [Action::Abort(ids[0])]);
    let late = now + TIMEOUT + GRACE;
    assert_eq!(supervisor.deadline(), Some(late));
    let [Action::Abandon(abandoned), Action::Start(new)] = actions(&mut supervisor, late)[..]
    else {
        panic!("it is abandoned and replaced");
    };
    assert_eq!(abandoned, ids[0]);
    supervisor.on_ready(new, now);
    assert_eq!((supervisor.ready(), supervisor.stuck(late), supervisor.alive()), (1, 1, 2));
    assert!(!supervisor.on_done(ids[0], false), "its slot is taken, so it must exit");
    supervisor.on_exit(ids[0], late);
    assert_eq!((supervisor.ready(), supervisor.stuck(late), supervisor.alive()), (1, 0, 1));
    assert_eq!((supervisor.deadline(), supervisor.abandoned_total()), (None, 1));
}

#[test]
fn worker_that_never_exits_after_panic_is_abandoned() {
    let (mut supervisor, ids, now) = running(1, 1);
    supervisor.on_begin(ids[0], now, None);
    supervisor.on_done(ids[0], true);
    let late = now + TIMEOUT + GRACE;
    let due = actions(&mut supervisor, late);
    assert!(matches!(due[..], [Action::Abandon(id), Action::Start(_)] if id == ids[0]));
}

#[test]
fn worker_keeps_its_slot_while_the_bound_of_abandoned_workers_is_reached() {
    let (mut supervisor, ids, now) = running(3, 1);
    let begin = |supervisor: &mut Supervisor, i: usize| {
        supervisor.on_begin(ids[i], now + i as u32 * GRACE, None);
    };
    (0..3).for_each(|i| begin(&mut supervisor, i));
    let late = now + TIMEOUT * 2;
    let due = actions(&mut supervisor, late);
    let aborts = ids.iter().map(|id| Action::Abort(*id));
    assert_eq!(due[..3], aborts.collect::<Vec<_>>(), "every caller is answered");
    assert!(matches!(due[3..], [Action::Abandon(id), Action::Start(_)] if id == ids[0]));
    assert_eq!((supervisor.stuck(late), supervisor.alive(), supervisor.deadline()), (3, 4, None));

    // The overdue worker whose request ends goes on with the next one.
    assert!(supervisor.on_done(ids[1], false));
    assert_eq!(supervisor.stuck(late), 2);
    // The other one is abandoned as soon as an abandoned one exits.
    supervisor.on_exit(ids[0], late);
    let due = actions(&mut supervisor, late);
    assert!(matches!(due[..], [Action::Abandon(id), Action::Start(_)] if id == ids[2]));
}

#[test]
fn bound_of_zero_abandons_no_worker() {
    let (mut supervisor, ids, now) = running(1, 0);
    supervisor.on_begin(ids[0], now, None);
    assert_eq!(actions(&mut supervisor, now + TIMEOUT * 2), [Action::Abort(ids[0])]);
    assert_eq!(supervisor.deadline(), None);
}

#[test]
fn closed_pool_restarts_workers_until_its_queue_is_empty() {
    let (mut supervisor, ids, now) = running(1, 1);
    supervisor.close(now);
    crash(&mut supervisor, ids[0], now);
    let new = starts(&mut supervisor, now);
    assert_eq!(new.len(), 1, "the queue is not empty");
    supervisor.on_ready(new[0], now);
    crash(&mut supervisor, new[0], now);
    assert!(supervisor.deadline().is_some());
    supervisor.on_drained();
    assert!(supervisor.is_ended());
    assert_eq!((supervisor.poll(now + MAX_PAUSE), supervisor.deadline()), (None, None));
}

#[test]
fn pool_ends_only_when_abandoned_workers_have_exited() {
    let (mut supervisor, ids, now) = running(1, 1);
    supervisor.on_begin(ids[0], now, None);
    supervisor.close(now);
    supervisor.on_drained();
    let late = now + TIMEOUT * 2;
    let due = actions(&mut supervisor, late);
    assert_eq!(due, [Action::Abort(ids[0]), Action::Abandon(ids[0])], "and nothing is started");
    assert!(!supervisor.is_ended());
    supervisor.on_exit(ids[0], late);
    assert!(supervisor.is_ended());
}

#[test]
fn events_of_exited_worker_are_ignored() {
    let (mut supervisor, ids, now) = running(1, 1);
    crash(&mut supervisor, ids[0], now);
    let new = starts(&mut supervisor, now)[0];
    supervisor.on_ready(ids[0], now);
    assert_eq!(supervisor.ready(), 0, "the new one is not ready");
    supervisor.on_exit(ids[0], now);
    assert!(!supervisor.on_done(ids[0], false));
    assert_eq!(supervisor.alive(), 1);
    supervisor.on_ready(new, now);
    assert_eq!(supervisor.ready(), 1);
}

#[test]
fn worker_that_is_not_ready_in_time_is_stopped_and_its_slot_filled_again() {
    let now = Instant::now();
    let start_timeout = Some(Duration::from_secs(5));
    let mut supervisor = Supervisor::new(Config { start_timeout, ..config(2, 0) }, now);
    let ids = starts(&mut supervisor, now);
    supervisor.on_ready(ids[0], now);
    supervisor.on_ready(ids[1], now);
    crash(&mut supervisor, ids[0], now);
    let slow = starts(&mut supervisor, now)[0];
    let late = now + Duration::from_secs(5);
    assert_eq!(supervisor.deadline(), Some(late));
    assert_eq!(actions(&mut supervisor, late), [Action::TimeOut(slow)]);
    assert_eq!(supervisor.deadline(), None, "it is stopped once");
    supervisor.on_exit(slow, late);
    assert_eq!(supervisor.deadline(), Some(late + FIRST_PAUSE));
}

#[test]
fn worker_that_is_starting_is_stopped_when_the_pool_ends() {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(config(2, 0), now);
    let ids = starts(&mut supervisor, now);
    supervisor.on_exit(ids[0], now);
    assert_eq!(supervisor.startup(), Startup::Failed);
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(ids[1])]);
}

/// A supervisor whose slots are given up after three failures.
fn giving_up(workers: usize) -> (Supervisor, Vec<WorkerId>, Instant) {
    let (mut supervisor, ids, now) = running(workers, 0);
    supervisor.config.give_up = Some(GiveUp { failures: 3, pause: MAX_PAUSE * 6 });
    (supervisor, ids, now)
}

#[test]
fn pool_fails_when_all_slots_are_given_up_and_is_tried_again_after_a_pause() {
    let (mut supervisor, mut ids, mut now) = giving_up(2);
    for round in 0..3 {
        assert!(!supervisor.has_failed(), "after {round} failures");
        for id in &ids {
            supervisor.on_exit(*id, now);
        }
        now = supervisor.deadline().unwrap();
        ids = if round < 2 { starts(&mut supervisor, now) } else { Vec::new() };
    }
    assert!(supervisor.has_failed());
    let ids = starts(&mut supervisor, now);
    assert_eq!(ids.len(), 2);
    assert!(supervisor.has_failed(), "they are not ready");
    supervisor.on_exit(ids[0], now);
    assert_eq!(supervisor.deadline(), Some(now + MAX_PAUSE * 6));
    supervisor.on_ready(ids[1], now);
    assert!(!supervisor.has_failed());
}

#[test]
fn completed_request_ends_the_count_of_failures() {
    let (mut supervisor, mut ids, now) = giving_up(1);
    for _ in 0..10 {
        supervisor.on_begin(ids[0], now, None);
        assert!(supervisor.on_done(ids[0], false));
        supervisor.on_exit(ids[0], now);
        ids = starts(&mut supervisor, now);
        supervisor.on_ready(ids[0], now);
    }
    assert!(!supervisor.has_failed());
}

#[test]
fn endless_timeout_does_not_overflow() {
    let now = Instant::now();
    let endless = Config { request_timeout: Duration::MAX, grace: Duration::MAX, ..config(1, 1) };
    let mut supervisor = Supervisor::new(endless, now);
    let id = starts(&mut supervisor, now)[0];
    supervisor.on_ready(id, now);
    assert!(supervisor.on_begin(id, now, None).until > now + Duration::from_secs(3600 * 24 * 365));
}
