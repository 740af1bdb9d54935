//! Tests of pools whose size follows the demand.

use super::*;

const IDLE: Duration = Duration::from_secs(60);

/// A supervisor of `workers` to `max`, all of whose workers are idle.
fn elastic(workers: usize, max: usize, spare: usize) -> (Supervisor, Vec<WorkerId>, Instant) {
    let now = Instant::now();
    let scale = Scale { max, spare, idle_timeout: IDLE };
    let mut supervisor = Supervisor::new(Config { scale, ..config(workers, 0) }, now);
    let ids = ready(&mut supervisor, now);
    assert_eq!(supervisor.startup(), Startup::Ready);
    (supervisor, ids, now)
}

/// Starts the workers that are due and makes them ready.
fn ready(supervisor: &mut Supervisor, now: Instant) -> Vec<WorkerId> {
    let ids = starts(supervisor, now);
    ids.iter().for_each(|id| supervisor.on_ready(*id, now));
    ids
}

/// Polls at each deadline until `until`; returns all actions.
fn run(supervisor: &mut Supervisor, until: Instant) -> Vec<Action> {
    let mut all = Vec::new();
    while let Some(now) = supervisor.deadline().filter(|at| *at <= until) {
        all.extend(actions(supervisor, now));
    }
    all
}

#[test]
fn pool_grows_while_requests_wait_and_at_most_doubles_at_a_time() {
    let (mut supervisor, _, now) = elastic(1, 8, 0);
    supervisor.on_demand(1);
    assert_eq!(starts(&mut supervisor, now), [], "there is an idle worker for it");
    supervisor.on_demand(100);
    assert_eq!(ready(&mut supervisor, now).len(), 1);
    assert_eq!(ready(&mut supervisor, now).len(), 2);
    assert_eq!(ready(&mut supervisor, now).len(), 4);
    assert_eq!(ready(&mut supervisor, now).len(), 0);
    assert_eq!((supervisor.ready(), supervisor.alive()), (8, 8));
}

#[test]
fn pool_grows_no_further_than_its_queue_needs() {
    let (mut supervisor, ids, now) = elastic(4, 100, 0);
    for id in &ids {
        supervisor.on_begin(*id, now, None);
    }
    supervisor.on_demand(3);
    let started = starts(&mut supervisor, now);
    assert_eq!(started.len(), 3);
    assert_eq!(starts(&mut supervisor, now), [], "they are on their way");
}

#[test]
fn spare_workers_are_idle_beside_busy_ones() {
    let (mut supervisor, ids, now) = elastic(2, 8, 2);
    assert_eq!(actions(&mut supervisor, now), []);
    assert!(!supervisor.may_grow(2, 0) && supervisor.may_grow(1, 0));
    supervisor.on_begin(ids[0], now, None);
    assert_eq!(ready(&mut supervisor, now).len(), 1);
    supervisor.on_begin(ids[1], now, None);
    assert_eq!(ready(&mut supervisor, now).len(), 1);
    assert_eq!(supervisor.ready(), 4);
}

#[test]
fn pool_grows_while_its_workers_hang_although_they_have_no_requests() {
    let (mut supervisor, ids, now) = elastic(2, 8, 0);
    supervisor.on_demand(2);
    assert_eq!(starts(&mut supervisor, now), [], "two are idle");
    assert!(ids.iter().all(|id| supervisor.on_hung(*id)) && !supervisor.on_hung(ids[0]));
    assert_eq!(ready(&mut supervisor, now).len(), 2);
    assert_eq!(starts(&mut supervisor, now), [], "two others are idle");
    // One answers again, and takes a request.
    supervisor.on_begin(ids[0], now, None);
    supervisor.on_done(ids[0], false);
    supervisor.on_demand(3);
    assert_eq!(starts(&mut supervisor, now), []);
    supervisor.on_demand(4);
    assert_eq!(starts(&mut supervisor, now).len(), 1);
}

#[test]
fn idle_workers_are_ended_down_to_the_minimum() {
    let (mut supervisor, _, now) = elastic(2, 6, 0);
    supervisor.on_demand(4);
    while !ready(&mut supervisor, now).is_empty() {}
    assert_eq!(supervisor.ready(), 4);
    supervisor.on_demand(0);
    assert_eq!(actions(&mut supervisor, now), []);
    let ended = run(&mut supervisor, now + IDLE * 2);
    assert_eq!((ended.len(), supervisor.ready()), (2, 2));
    assert!(ended.iter().all(|action| matches!(action, Action::Stop(_))));
    assert_eq!(supervisor.deadline(), None, "a pool at its minimum is not checked");
}

#[test]
fn worker_that_is_used_is_not_ended_for_one_that_is_idle() {
    let (mut supervisor, first, now) = elastic(1, 3, 0);
    supervisor.on_demand(2);
    let second = ready(&mut supervisor, now);
    supervisor.on_demand(0);
    actions(&mut supervisor, now);
    // The first worker begins a request from time to time.
    let later = now + IDLE * 3 / 4;
    supervisor.on_begin(first[0], later, None);
    assert!(supervisor.on_done(first[0], false));
    assert_eq!(run(&mut supervisor, now + IDLE), [Action::Stop(second[0])]);
}

#[test]
fn spare_workers_are_kept_and_looked_for_no_more() {
    let (mut supervisor, _, now) = elastic(1, 4, 2);
    ready(&mut supervisor, now);
    assert_eq!(supervisor.ready(), 2);
    assert_eq!(run(&mut supervisor, now + IDLE * 10), []);
    assert_eq!((supervisor.ready(), supervisor.deadline()), (2, None));
    assert!(!supervisor.may_shrink(2) && supervisor.may_shrink(3));
}

#[test]
fn idle_worker_is_not_ended_while_too_few_are_ready() {
    let (mut supervisor, ids, now) = elastic(2, 3, 0);
    supervisor.on_demand(3);
    let third = ready(&mut supervisor, now);
    supervisor.on_demand(0);
    // Two of three crash, and their replacements take longer than the idle timeout to start.
    ids.iter().for_each(|id| crash(&mut supervisor, *id, now));
    let replacements = starts(&mut supervisor, now);
    assert_eq!(run(&mut supervisor, now + IDLE * 2), []);
    let late = now + IDLE * 2;
    replacements.iter().for_each(|id| supervisor.on_ready(*id, late));
    assert_eq!(run(&mut supervisor, late + IDLE), [Action::Stop(third[0])]);
    assert_eq!(supervisor.ready(), 2);
}

#[test]
fn pool_keeps_its_size_during_a_reload() {
    let (mut supervisor, _, now) = elastic(1, 3, 0);
    assert!(supervisor.reload(TIMEOUT));
    supervisor.on_demand(5);
    let successors = starts(&mut supervisor, now);
    assert_eq!(successors.len(), 1);
    supervisor.on_ready(successors[0], now);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Ready));
    let due = actions(&mut supervisor, now);
    assert!(matches!(due[..], [Action::Stop(_), Action::Start(_)]), "{due:?}");
}
