//! Tests of recycling and reloads.

use super::*;

const AGE: Duration = Duration::from_secs(3600);

/// A supervisor whose workers are all idle, with these limits.
fn recycling(workers: usize, recycle: Recycle) -> (Supervisor, Vec<WorkerId>, Instant) {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(Config { recycle, ..config(workers, 1) }, now);
    let ids = starts(&mut supervisor, now);
    ids.iter().for_each(|id| supervisor.on_ready(*id, now));
    (supervisor, ids, now)
}

const AFTER_TWO: Recycle = Recycle { requests: Some(2), at_a_time: 1, ..Recycle::NEVER };

fn serve(supervisor: &mut Supervisor, id: WorkerId, now: Instant) {
    assert_eq!(supervisor.claim(id), Claim::Take);
    supervisor.on_begin(id, now, None);
    assert!(supervisor.on_done(id, false), "it has its slot");
}

#[test]
fn nominated_worker_leaves_when_its_successor_is_ready() {
    let (mut supervisor, ids, now) = recycling(1, AFTER_TWO);
    serve(&mut supervisor, ids[0], now);
    assert_eq!((supervisor.take_nominated(), actions(&mut supervisor, now)), (false, vec![]));
    serve(&mut supervisor, ids[0], now);
    assert!(supervisor.take_nominated());
    let successor = starts(&mut supervisor, now)[0];
    // The worker continues meanwhile.
    serve(&mut supervisor, ids[0], now);
    assert_eq!((supervisor.ready(), supervisor.alive()), (1, 2));
    supervisor.on_ready(successor, now);
    assert_eq!((supervisor.claim(ids[0]), supervisor.claim(successor)), (Claim::Exit, Claim::Take));
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(ids[0])]);
    supervisor.on_exit(ids[0], now);
    assert_eq!((supervisor.ready(), supervisor.alive(), supervisor.recycled_total()), (1, 1, 1));
    assert_eq!(supervisor.deadline(), None);
}

#[test]
fn recycled_worker_ends_its_request_before_it_exits() {
    let (mut supervisor, ids, now) = recycling(1, AFTER_TWO);
    serve(&mut supervisor, ids[0], now);
    serve(&mut supervisor, ids[0], now);
    let successor = starts(&mut supervisor, now)[0];
    supervisor.on_begin(ids[0], now, None);
    supervisor.on_ready(successor, now);
    assert_eq!(actions(&mut supervisor, now), [], "it is not stopped");
    // Its request has the same limits as before.
    assert_eq!(actions(&mut supervisor, now + TIMEOUT), [Action::Abort(ids[0])]);
    assert!(!supervisor.on_done(ids[0], false), "it must exit");
    supervisor.on_exit(ids[0], now);
    assert_eq!(supervisor.alive(), 1);
}

#[test]
fn replaced_worker_has_its_drain_timeout_if_that_is_shorter() {
    for drain in [TIMEOUT / 4, TIMEOUT] {
        let now = Instant::now();
        let drain_timeout = Some(drain);
        let mut supervisor = Supervisor::new(Config { drain_timeout, ..config(1, 1) }, now);
        let old = starts(&mut supervisor, now)[0];
        supervisor.on_ready(old, now);
        supervisor.on_begin(old, now, None);
        let replaced = now + TIMEOUT / 2;
        assert!(supervisor.reload(TIMEOUT));
        let new = starts(&mut supervisor, replaced)[0];
        supervisor.on_ready(new, replaced);
        let (end, expected) = match drain < TIMEOUT {
            true => (replaced + drain, vec![Action::Abort(old), Action::Abandon(old)]),
            false => (now + TIMEOUT, vec![Action::Abort(old)]), // and then it has the grace period
        };
        assert_eq!(
            (actions(&mut supervisor, replaced), supervisor.deadline()),
            (vec![], Some(end))
        );
        assert_eq!(actions(&mut supervisor, end), expected);
    }
}

#[test]
fn drain_timeout_holds_for_a_request_that_was_read_ahead() {
    let now = Instant::now();
    let drain = TIMEOUT / 4;
    let config = Config { drain_timeout: Some(drain), ..config(1, 1) };
    let mut supervisor = Supervisor::new(config, now);
    let old = starts(&mut supervisor, now)[0];
    supervisor.on_ready(old, now);
    supervisor.on_begin(old, now, None);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, now)[0];
    supervisor.on_ready(new, now);
    let later = now + drain / 2;
    assert!(!supervisor.on_done(old, false));
    assert_eq!(supervisor.on_begin(old, later, None).until, later + TIMEOUT, "its own limit");
    assert_eq!(
        (actions(&mut supervisor, later), supervisor.deadline()),
        (vec![], Some(now + drain))
    );
    let due = actions(&mut supervisor, now + drain);
    assert_eq!(due, [Action::Abort(old), Action::Abandon(old)]);
    supervisor.on_exit(old, now + drain);
    assert!(supervisor.drain_ends.is_empty());
}

#[test]
fn leaving_worker_that_is_stuck_is_abandoned_and_not_replaced() {
    let (mut supervisor, ids, now) = recycling(1, AFTER_TWO);
    serve(&mut supervisor, ids[0], now);
    serve(&mut supervisor, ids[0], now);
    let successor = starts(&mut supervisor, now)[0];
    supervisor.on_begin(ids[0], now, None);
    supervisor.on_ready(successor, now);
    let due = actions(&mut supervisor, now + TIMEOUT + GRACE);
    assert_eq!(due, [Action::Abort(ids[0]), Action::Abandon(ids[0])]);
    assert_eq!(supervisor.alive(), 2);
    supervisor.on_exit(ids[0], now);
    assert_eq!((supervisor.alive(), supervisor.ready()), (1, 1));
}

#[test]
fn recycling_replaces_so_many_workers_at_a_time() {
    let recycle = Recycle { age: Some(AGE), at_a_time: 2, ..Recycle::NEVER };
    let (mut supervisor, ids, now) = recycling(5, recycle);
    assert_eq!(supervisor.deadline(), Some(now + AGE));
    let old = now + AGE;
    let first = starts(&mut supervisor, old);
    assert_eq!(first.len(), 2);
    supervisor.on_ready(first[0], old);
    assert_eq!(actions(&mut supervisor, old), [Action::Stop(ids[0])]);
    assert_eq!(supervisor.alive(), 7, "the old one has not exited");
    supervisor.on_exit(ids[0], old);
    assert_eq!(starts(&mut supervisor, old).len(), 1);
}

#[test]
fn workers_that_finish_their_requests_delay_recycling_when_they_are_as_many_as_slots() {
    let (mut supervisor, mut in_slots, now) = recycling(2, AFTER_TWO);
    let mut busy = 0;
    for round in 0..2 {
        for (slot, worker) in in_slots.iter_mut().enumerate() {
            serve(&mut supervisor, *worker, now);
            serve(&mut supervisor, *worker, now);
            supervisor.on_begin(*worker, now, None);
            let successor = starts(&mut supervisor, now);
            if (round, slot) == (1, 1) {
                assert_eq!((successor.len(), busy, supervisor.alive()), (0, 3, 5));
                return;
            }
            assert_eq!(successor.len(), 1, "{busy} others finish their requests");
            supervisor.on_ready(successor[0], now);
            *worker = successor[0];
            busy += 1;
        }
    }
}

#[test]
fn reload_does_not_wait_for_requests_of_the_generation_before() {
    let (mut supervisor, ids, now) = running(2, 1);
    for id in &ids {
        supervisor.on_begin(*id, now, None);
    }
    for generation in 1..=2 {
        assert!(supervisor.reload(TIMEOUT));
        let new = starts(&mut supervisor, now);
        assert_eq!(new.len(), 2, "generation {generation}");
        new.iter().for_each(|id| supervisor.on_ready(*id, now));
        assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Ready));
        if generation == 1 {
            assert_eq!((actions(&mut supervisor, now), supervisor.alive()), (vec![], 4));
            supervisor.on_exit(new[1], now); // which has no effect on the next reload
            starts(&mut supervisor, now).iter().for_each(|id| supervisor.on_ready(*id, now));
        }
    }
}

#[test]
fn time_of_reload_begins_when_its_last_worker_is_started() {
    let (mut supervisor, ids, now) = running(1, 1);
    let (mut busy, mut current) = (Vec::new(), ids[0]);
    for _ in 0..2 {
        supervisor.on_begin(current, now, None);
        busy.push(current);
        assert!(supervisor.reload(TIMEOUT));
        current = starts(&mut supervisor, now)[0];
        supervisor.on_ready(current, now);
        assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Ready));
    }
    // Two generations finish their requests, so the third one waits.
    assert!(supervisor.reload(TIMEOUT));
    let later = now + TIMEOUT - GRACE;
    assert_eq!((actions(&mut supervisor, later), supervisor.take_reloaded()), (vec![], None));
    assert!(!supervisor.on_done(busy[0], false));
    supervisor.on_exit(busy[0], later);
    let new = starts(&mut supervisor, later)[0];
    supervisor.on_exit(busy[1], later);
    assert_eq!(supervisor.deadline(), Some(later + TIMEOUT));
    assert_eq!(actions(&mut supervisor, later + TIMEOUT), [Action::Stop(new)]);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
}

#[test]
fn worker_above_its_memory_limit_is_nominated() {
    let recycle = Recycle { memory: Some(100), at_a_time: 1, ..Recycle::NEVER };
    let (mut supervisor, ids, now) = recycling(1, recycle);
    supervisor.on_memory(ids[0], 100);
    assert_eq!(actions(&mut supervisor, now), []);
    supervisor.on_memory(ids[0], 101);
    assert_eq!(starts(&mut supervisor, now).len(), 1);
}

#[test]
fn jitter_spreads_the_nominations_of_workers() {
    let recycle = Recycle { requests: Some(100), jitter: 50, ..Recycle::NEVER };
    let limit = |number| {
        let id = WorkerId { slot: 0, number, generation: 0 };
        (0..).find(|served| recycle.nominates(id, *served)).unwrap()
    };
    let limits: Vec<u64> = (0..100).map(limit).collect();
    assert!(limits.iter().all(|limit| (100..=150).contains(limit)), "{limits:?}");
    let distinct: std::collections::HashSet<_> = limits.iter().collect();
    assert!(distinct.len() > 30, "{limits:?}");
    let endless = Recycle { requests: Some(u64::MAX), jitter: u64::MAX, ..recycle };
    assert!(!endless.nominates(WorkerId { slot: 0, number: 0, generation: 0 }, 1));
}

#[test]
fn successor_that_exits_is_tried_again_after_growing_pauses() {
    let (mut supervisor, ids, mut now) = recycling(1, AFTER_TWO);
    serve(&mut supervisor, ids[0], now);
    serve(&mut supervisor, ids[0], now);
    for pause in [100, 200, 400] {
        let successor = starts(&mut supervisor, now)[0];
        supervisor.on_exit(successor, now);
        let at = supervisor.deadline().unwrap();
        assert_eq!((at - now).as_millis(), pause);
        now = at;
        assert_eq!((supervisor.ready(), supervisor.claim(ids[0])), (1, Claim::Take));
    }
}

#[test]
fn successor_takes_the_slot_of_a_worker_that_exits_meanwhile() {
    let (mut supervisor, ids, now) = recycling(1, AFTER_TWO);
    serve(&mut supervisor, ids[0], now);
    serve(&mut supervisor, ids[0], now);
    let successor = starts(&mut supervisor, now)[0];
    supervisor.on_exit(ids[0], now);
    assert_eq!(actions(&mut supervisor, now), [], "one is starting already");
    supervisor.on_ready(successor, now);
    assert_eq!((supervisor.ready(), supervisor.alive()), (1, 1));
}

#[test]
fn reload_gives_all_slots_to_the_new_generation_at_once() {
    let (mut supervisor, ids, now) = running(2, 1);
    assert!(supervisor.reload(TIMEOUT));
    assert!(!supervisor.reload(TIMEOUT), "one at a time");
    let new = starts(&mut supervisor, now);
    assert_eq!(new.iter().map(|id| id.generation()).collect::<Vec<_>>(), [1, 1]);
    supervisor.on_ready(new[0], now);
    assert_eq!((supervisor.claim(new[0]), supervisor.claim(ids[0])), (Claim::Wait, Claim::Take));
    assert_eq!((actions(&mut supervisor, now), supervisor.take_reloaded()), (vec![], None));
    supervisor.on_begin(ids[1], now, None);
    supervisor.on_ready(new[1], now);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Ready));
    assert_eq!((supervisor.generation(), supervisor.ready(), supervisor.alive()), (1, 2, 4));
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(ids[0])], "the other one is busy");
    assert!(!supervisor.on_done(ids[1], false));
    ids.iter().for_each(|id| supervisor.on_exit(*id, now));
    assert_eq!((supervisor.alive(), supervisor.deadline()), (2, None));
    // Workers that are started later belong to the new generation.
    crash(&mut supervisor, new[0], now);
    assert_eq!(starts(&mut supervisor, now)[0].generation(), 1);
}

#[test]
fn reload_is_rolled_back_when_a_new_worker_exits() {
    let (mut supervisor, ids, now) = running(2, 1);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, now);
    supervisor.on_ready(new[0], now);
    supervisor.on_exit(new[1], now);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Exited));
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(new[0])]);
    assert_eq!(supervisor.claim(new[0]), Claim::Exit);
    supervisor.on_exit(new[0], now);
    assert_eq!((supervisor.generation(), supervisor.ready(), supervisor.alive()), (0, 2, 2));
    ids.iter().for_each(|id| serve(&mut supervisor, *id, now));
    // The next reload has a new generation number.
    assert!(supervisor.reload(TIMEOUT));
    assert_eq!(starts(&mut supervisor, now)[0].generation(), 2);
}

#[test]
fn reload_is_rolled_back_when_its_time_is_over() {
    let (mut supervisor, _, now) = running(2, 1);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, now);
    supervisor.on_ready(new[0], now);
    assert_eq!(supervisor.deadline(), Some(now + TIMEOUT));
    let due = actions(&mut supervisor, now + TIMEOUT);
    assert_eq!(due, [Action::Stop(new[0]), Action::Stop(new[1])]);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
    supervisor.on_ready(new[1], now);
    assert_eq!((supervisor.generation(), supervisor.ready()), (0, 2));
}

#[test]
fn reload_is_rolled_back_when_no_worker_can_be_started_in_its_time() {
    let (mut supervisor, _, now) = running(2, 1);
    assert!(supervisor.reload(TIMEOUT));
    let blocked = starts(&mut supervisor, now);
    let end = now + TIMEOUT;
    assert_eq!(actions(&mut supervisor, end).len(), 2);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
    // They do not exit.
    assert!(supervisor.reload(TIMEOUT));
    assert_eq!(
        (starts(&mut supervisor, end), supervisor.deadline()),
        (vec![], Some(end + TIMEOUT))
    );
    assert_eq!(actions(&mut supervisor, end + TIMEOUT), []);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
    // One of them exits, so that one of two is started.
    let later = end + TIMEOUT;
    supervisor.on_exit(blocked[0], later);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, later);
    assert_eq!((new.len(), supervisor.take_reloaded()), (1, None));
    assert_eq!(actions(&mut supervisor, later + TIMEOUT), [Action::Stop(new[0])]);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
}

#[test]
fn reload_is_rolled_back_when_a_worker_of_the_generation_before_does_not_exit() {
    let (mut supervisor, ids, now) = running(2, 1);
    assert!(supervisor.reload(TIMEOUT));
    starts(&mut supervisor, now).into_iter().for_each(|id| supervisor.on_ready(id, now));
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Ready));
    let stopped = [Action::Stop(ids[0]), Action::Stop(ids[1])];
    assert_eq!(actions(&mut supervisor, now), stopped);
    supervisor.on_exit(ids[0], now);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, now);
    assert_eq!((new.len(), supervisor.deadline()), (1, Some(now + TIMEOUT)));
    assert_eq!(actions(&mut supervisor, now + TIMEOUT), [Action::Stop(new[0])]);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
}

#[test]
fn reload_is_rolled_back_when_one_of_its_workers_is_late() {
    let (mut supervisor, _, now) = running(2, 1);
    supervisor.config.start_timeout = Some(TIMEOUT);
    assert!(supervisor.reload(TIMEOUT));
    let Some(Action::Start(first)) = supervisor.poll(now) else { panic!("it is due") };
    let Some(Action::Start(second)) = supervisor.poll(now + GRACE) else { panic!("it is due") };
    let due = actions(&mut supervisor, now + TIMEOUT);
    assert_eq!(due, [Action::TimeOut(first), Action::Stop(second)], "the log says why it is late");
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::TimedOut));
}

#[test]
fn close_ends_a_reload_and_stops_its_workers() {
    let (mut supervisor, ids, now) = running(1, 1);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, now)[0];
    supervisor.close(now);
    assert_eq!(supervisor.take_reloaded(), Some(Reloaded::Closed));
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(new)]);
    supervisor.on_drained();
    supervisor.on_exit(ids[0], now);
    assert!(!supervisor.is_ended());
    supervisor.on_exit(new, now);
    assert!(supervisor.is_ended());
    assert!(!supervisor.reload(TIMEOUT));
}

#[test]
fn restart_ends_workers_before_it_starts_others() {
    let (mut supervisor, ids, now) = running(2, 0);
    assert!(supervisor.restart(now));
    assert_eq!(
        actions(&mut supervisor, now),
        ids.iter().map(|id| Action::Stop(*id)).collect::<Vec<_>>()
    );
    assert_eq!((supervisor.alive(), supervisor.ready()), (2, 0));
    supervisor.on_exit(ids[1], now);
    let new = starts(&mut supervisor, now);
    assert_eq!((new.len(), new[0].generation()), (1, 1));
    assert_eq!(supervisor.alive(), 2, "never more than there are slots");
    assert_eq!(supervisor.unexpected_exits(), 0);
    supervisor.close(now);
    assert!(!supervisor.restart(now));
}

#[test]
fn restart_starts_workers_that_wait_for_their_pause() {
    let (mut supervisor, ids, now) = running(1, 0);
    crash(&mut supervisor, ids[0], now);
    let id = starts(&mut supervisor, now)[0];
    supervisor.on_exit(id, now);
    assert_eq!(starts(&mut supervisor, now), []);
    assert!(supervisor.restart(now));
    assert_eq!(starts(&mut supervisor, now).len(), 1);
}

#[test]
fn worker_that_exits_before_its_restart_is_restarted_once() {
    let (mut supervisor, ids, now) = running(1, 0);
    assert!(supervisor.restart(now));
    supervisor.on_exit(ids[0], now);
    let new = starts(&mut supervisor, now);
    assert_eq!((new.len(), new[0].generation(), supervisor.unexpected_exits()), (1, 1, 0));
    supervisor.on_ready(new[0], now);
    assert_eq!(actions(&mut supervisor, now), [], "the new one is not stopped");
}

#[test]
fn worker_that_was_ready_for_long_is_restarted_at_once() {
    let stable_after = Duration::from_secs(10);
    let mut now = Instant::now();
    let config = Config { stable_after: Some(stable_after), ..config(1, 0) };
    let mut supervisor = Supervisor::new(config, now);
    for ran in [stable_after, stable_after, stable_after - FIRST_PAUSE] {
        let id = starts(&mut supervisor, now)[0];
        supervisor.on_ready(id, now);
        now += ran;
        supervisor.on_exit(id, now);
    }
    assert_eq!(starts(&mut supervisor, now), [], "the third has run too short");
    assert_eq!(supervisor.deadline(), Some(now + FIRST_PAUSE));
    assert_eq!(supervisor.unexpected_exits(), 3);
}
