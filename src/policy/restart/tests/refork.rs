//! Tests of the choice of the mould.

use super::*;

const AFTER: u64 = 2;

/// A supervisor whose workers are all idle.
fn reforking(workers: usize) -> (Supervisor, Vec<WorkerId>, Instant) {
    let now = Instant::now();
    let recycle = Recycle { at_a_time: 1, ..Recycle::NEVER };
    let config = Config { recycle, refork_after: Some(AFTER), ..config(workers, 1) };
    let mut supervisor = Supervisor::new(config, now);
    let ids = starts(&mut supervisor, now);
    ids.iter().for_each(|id| supervisor.on_ready(*id, now));
    (supervisor, ids, now)
}

fn serve(supervisor: &mut Supervisor, id: WorkerId, now: Instant) {
    supervisor.on_begin(id, now, None);
    assert!(supervisor.on_done(id, false), "it has its slot");
}

/// Lets worker `id` complete enough requests, and replaces it by a worker that is ready. Returns that.
fn choose(supervisor: &mut Supervisor, id: WorkerId, now: Instant) -> WorkerId {
    for _ in 0..AFTER {
        assert!(!supervisor.claim_mould(id), "it has a slot");
        assert_eq!(actions(supervisor, now), []);
        serve(supervisor, id, now);
    }
    replace(supervisor, id, now)
}

/// Replaces worker `id`, which was nominated. Returns the new one.
fn replace(supervisor: &mut Supervisor, id: WorkerId, now: Instant) -> WorkerId {
    let [Action::Start(successor)] = actions(supervisor, now)[..] else { panic!("one successor") };
    assert!(!supervisor.claim_mould(id), "its successor is not ready");
    let ready = supervisor.ready();
    supervisor.on_ready(successor, now);
    assert_eq!(supervisor.ready(), ready);
    assert_eq!(actions(supervisor, now), [Action::Stop(id)]);
    successor
}

#[test]
fn worker_with_enough_requests_becomes_mould_and_others_are_replaced() {
    let (mut supervisor, ids, now) = reforking(3);
    let cold = choose(&mut supervisor, ids[1], now);
    assert!(!supervisor.claim_mould(ids[0]));
    assert!(supervisor.claim_mould(ids[1]));
    assert!(!supervisor.claim_mould(ids[1]), "it is claimed once");
    assert_eq!(actions(&mut supervisor, now), []);
    assert!(supervisor.on_mould_ready(ids[1]));
    supervisor.on_exit(ids[1], now);
    let mut old = vec![ids[0], cold, ids[2]];
    let mut new = Vec::new();
    for id in old.drain(..) {
        new.push(replace(&mut supervisor, id, now));
        supervisor.on_exit(id, now);
    }
    assert_eq!((supervisor.ready(), supervisor.reforks(), supervisor.alive()), (3, 1, 3));
    // Those of the mould are not replaced, however many requests they complete.
    for _ in 0..3 * AFTER {
        serve(&mut supervisor, new[0], now);
    }
    assert_eq!(actions(&mut supervisor, now), []);
}

#[test]
fn worker_that_was_starting_when_the_mould_became_ready_is_replaced() {
    let (mut supervisor, ids, now) = reforking(2);
    choose(&mut supervisor, ids[0], now);
    assert!(supervisor.claim_mould(ids[0]));
    // The other one ends, so that its slot is filled before the mould is ready.
    serve(&mut supervisor, ids[1], now);
    supervisor.on_exit(ids[1], now);
    let early = starts(&mut supervisor, now)[0];
    assert!(supervisor.on_mould_ready(ids[0]));
    supervisor.on_exit(ids[0], now);
    let [Action::Start(first)] = actions(&mut supervisor, now)[..] else { panic!("one successor") };
    supervisor.on_ready(early, now);
    supervisor.on_ready(first, now);
    let [Action::Stop(old)] = actions(&mut supervisor, now)[..] else { panic!("one leaves") };
    supervisor.on_exit(old, now);
    replace(&mut supervisor, early, now);
}

#[test]
fn next_worker_is_chosen_if_the_mould_ends_and_none_if_it_refuses() {
    let (mut supervisor, ids, now) = reforking(1);
    let second = choose(&mut supervisor, ids[0], now);
    supervisor.on_exit(ids[0], now); // before it was claimed
    let third = choose(&mut supervisor, second, now);
    assert!(supervisor.claim_mould(second));
    supervisor.on_exit(second, now); // before it was ready
    let fourth = choose(&mut supervisor, third, now);
    assert!(supervisor.claim_mould(third) && supervisor.on_mould_ready(third));
    supervisor.on_exit(third, now);
    let fifth = replace(&mut supervisor, fourth, now);
    supervisor.on_exit(fourth, now);
    supervisor.on_mould_end(fourth); // it was none
    serve(&mut supervisor, fifth, now);
    supervisor.on_mould_end(third);
    assert_eq!(actions(&mut supervisor, now), []);
    serve(&mut supervisor, fifth, now);
    let sixth = replace(&mut supervisor, fifth, now);
    assert!(supervisor.claim_mould(fifth));
    supervisor.on_mould_refused(fifth);
    supervisor.on_exit(fifth, now);
    for _ in 0..3 * AFTER {
        serve(&mut supervisor, sixth, now);
    }
    assert_eq!((actions(&mut supervisor, now), supervisor.reforks()), (vec![], 1));
}

#[test]
fn reload_discards_the_mould_of_the_generation_before() {
    let (mut supervisor, ids, now) = reforking(1);
    let second = choose(&mut supervisor, ids[0], now);
    assert!(supervisor.claim_mould(ids[0]) && supervisor.on_mould_ready(ids[0]));
    supervisor.on_exit(ids[0], now);
    assert!(supervisor.reload(TIMEOUT));
    let [Action::Start(new)] = actions(&mut supervisor, now)[..] else { panic!("one successor") };
    supervisor.on_ready(new, now);
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(second)]);
    supervisor.on_exit(second, now);
    supervisor.on_mould_end(ids[0]);
    choose(&mut supervisor, new, now);
    assert!(supervisor.claim_mould(new) && supervisor.on_mould_ready(new));
    assert_eq!(supervisor.reforks(), 2);
}

#[test]
fn closed_pool_makes_no_mould() {
    let (mut supervisor, ids, now) = reforking(1);
    choose(&mut supervisor, ids[0], now);
    supervisor.close(now);
    assert!(!supervisor.claim_mould(ids[0]));
}
