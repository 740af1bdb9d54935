//! Tests of processes that several workers share.

use super::*;

/// A supervisor whose idle workers share processes, two each.
fn sharing(workers: usize, at_a_time: usize) -> (Supervisor, Vec<WorkerId>, Instant) {
    let now = Instant::now();
    let recycle = Recycle { requests: Some(2), at_a_time, ..Recycle::NEVER };
    let mut supervisor = Supervisor::new(Config { recycle, ..config(workers, workers) }, now);
    let ids = starts(&mut supervisor, now);
    for (at, id) in ids.iter().enumerate() {
        supervisor.on_joined(*id, at as u64 / 2);
        supervisor.on_ready(*id, now);
    }
    (supervisor, ids, now)
}

/// Starts the workers that are due in a process, makes them ready, and lets those that are stopped exit.
fn replace(supervisor: &mut Supervisor, process: u64, now: Instant) -> Vec<WorkerId> {
    let mut started = Vec::new();
    while let Some(action) = supervisor.poll(now) {
        match action {
            Action::Start(id) => {
                assert!(!supervisor.is_closing(process));
                supervisor.on_joined(id, process);
                supervisor.on_ready(id, now);
                started.push(id);
            }
            Action::Stop(id) => supervisor.on_exit(id, now),
            Action::Abort(_) | Action::Abandon(_) => {}
            Action::TimeOut(id) => panic!("{id:?} is ready"),
        }
    }
    started
}

#[test]
fn stuck_worker_closes_its_process_and_the_others_of_it_are_replaced() {
    let (mut supervisor, ids, now) = sharing(4, 1);
    supervisor.on_begin(ids[0], now, None);
    let late = now + TIMEOUT + GRACE;
    assert_eq!(supervisor.poll(late), Some(Action::Abort(ids[0])));
    assert!(!supervisor.is_closing(0));
    assert_eq!(supervisor.poll(late), Some(Action::Abandon(ids[0])));
    // Before its replacement is started, which must not join it.
    assert!(supervisor.is_closing(0) && !supervisor.is_closing(1));
    assert_eq!(supervisor.claim(ids[1]), Claim::Take, "it serves until its replacement is ready");
    assert_eq!(replace(&mut supervisor, 2, late).len(), 2);
    assert_eq!((supervisor.ready(), supervisor.claim(ids[1])), (4, Claim::Exit));
    assert_eq!((supervisor.claim(ids[2]), supervisor.claim(ids[3])), (Claim::Take, Claim::Take));
    supervisor.on_exit(ids[0], late);
    assert_eq!((supervisor.alive(), supervisor.is_closing(0)), (4, false));
}

#[test]
fn recycled_worker_takes_the_others_of_its_process_with_it() {
    let (mut supervisor, ids, now) = sharing(4, 1);
    for _ in 0..2 {
        supervisor.on_begin(ids[3], now, None);
        assert!(supervisor.on_done(ids[3], false));
    }
    let new = replace(&mut supervisor, 2, now);
    assert_eq!((new.len(), supervisor.ready(), supervisor.alive()), (2, 4, 4));
    assert_eq!((supervisor.claim(ids[2]), supervisor.claim(ids[3])), (Claim::Exit, Claim::Exit));
}

#[test]
fn worker_that_becomes_ready_in_a_closed_process_is_replaced() {
    let (mut supervisor, ids, now) = sharing(4, 2);
    supervisor.on_exit(ids[0], now);
    let Some(Action::Start(first)) = supervisor.poll(now) else { panic!("it is replaced") };
    supervisor.on_joined(first, 2);
    let Some(Action::Start(second)) = supervisor.poll(now) else { panic!("the other one too") };
    supervisor.on_joined(second, 2);
    supervisor.on_exit(first, now);
    supervisor.on_ready(second, now);
    assert!(supervisor.is_closing(2));
    let later = now + FIRST_PAUSE;
    assert_eq!(replace(&mut supervisor, 3, later).len(), 2);
    assert_eq!((supervisor.ready(), supervisor.alive(), supervisor.is_closing(2)), (4, 4, false));
}

#[test]
fn failed_reload_leaves_shared_processes_open() {
    let (mut supervisor, ids, now) = sharing(2, 1);
    assert!(supervisor.reload(TIMEOUT));
    let new = starts(&mut supervisor, now);
    new.iter().for_each(|id| supervisor.on_joined(*id, 1));
    supervisor.on_exit(new[0], now);
    assert_eq!(actions(&mut supervisor, now), [Action::Stop(new[1])]);
    supervisor.on_exit(new[1], now);
    assert_eq!((supervisor.is_closing(0), supervisor.claim(ids[0])), (false, Claim::Take));
    assert_eq!(starts(&mut supervisor, now), []);
}

#[test]
fn idle_workers_are_stopped_with_all_others_of_their_process() {
    let (scale, now) = (Scale { max: 6, spare: 0, idle_timeout: TIMEOUT }, Instant::now());
    let mut supervisor = Supervisor::new(Config { scale, ..config(2, 0) }, now);
    let mut ids = Vec::new();
    supervisor.on_demand(4);
    loop {
        let started = starts(&mut supervisor, now);
        if started.is_empty() {
            break;
        }
        for id in started {
            supervisor.on_joined(id, ids.len() as u64 / 2);
            supervisor.on_ready(id, now);
            ids.push(id);
        }
    }
    assert_eq!(ids.len(), 4);
    supervisor.on_demand(0);
    assert_eq!(starts(&mut supervisor, now), []);
    // One worker of each process is used.
    let check = now + TIMEOUT / 2;
    for id in [ids[1], ids[2]] {
        supervisor.on_begin(id, check, None);
        supervisor.on_done(id, false);
    }
    let until = now + TIMEOUT;
    assert_eq!(actions(&mut supervisor, check), []);
    assert_eq!((actions(&mut supervisor, until), supervisor.ready()), (vec![], 4));
    // The workers of one process are used again.
    for id in [ids[0], ids[1]] {
        supervisor.on_begin(id, until, None);
        supervisor.on_done(id, false);
    }
    let stopped = actions(&mut supervisor, now + TIMEOUT * 3 / 2);
    assert_eq!(stopped, [Action::Stop(ids[2]), Action::Stop(ids[3])]);
    assert_eq!((supervisor.ready(), supervisor.is_closing(0)), (2, false));
}
