//! Loom models of jobs that are queued while workers fall asleep: none is left behind.

use std::{future::poll_fn, mem};

use tokio::sync::Semaphore;

use super::{job::Times, wake::WAKE_TIMEOUT, *};
use crate::sync::{
    Mutex,
    model::{block_on, model, thread},
};

/// Takes jobs as a worker does, until the queue is closed; returns how many.
fn work(queue: &Mutex<Queue>, worker: WorkerId, now: Instant) -> usize {
    let mut taken = 0;
    loop {
        let mut may_yield = true;
        let next = block_on(poll_fn(|cx| {
            loop {
                let mut locked = queue.lock().unwrap();
                let next = locked.poll_next(worker, now, mem::take(&mut may_yield), cx);
                let another = locked.wake_next(now);
                drop(locked);
                another.into_iter().for_each(Waker::wake);
                match next {
                    Poll::Ready(Next::Yield) => thread::yield_now(),
                    other => return other,
                }
            }
        }));
        match next {
            Next::Begin(..) => taken += 1,
            Next::Closed => return taken,
            Next::Expired(_) | Next::Yield => unreachable!("it was just queued"),
        }
    }
}

/// Queues `jobs` jobs for `workers` workers, and then closes the queue.
fn all_jobs_are_taken(jobs: usize, workers: u64) {
    model(move || {
        let now = Instant::now();
        let permits = Arc::new(Semaphore::new(jobs));
        let queue = Arc::new(Mutex::new(Queue::default()));
        let workers: Vec<_> = (0..workers)
            .map(|number| {
                let queue = queue.clone();
                thread::spawn(move || work(&queue, WorkerId::of_number(number), now))
            })
            .collect();
        for _ in 0..jobs {
            let permit = permits.clone().try_acquire_owned().unwrap();
            let queue_until = now + WAKE_TIMEOUT;
            let times = Times { queued_at: now, queue_until, deadline: None };
            let job = Job::new(Request::default(), permit, times);
            let mut locked = queue.lock().unwrap();
            locked.push(&job).unwrap();
            // The time does not advance, so no other worker is woken instead of one that was already woken.
            let woken = locked.wake_next(now);
            drop(locked);
            woken.into_iter().for_each(Waker::wake);
        }
        let mut locked = queue.lock().unwrap();
        locked.close();
        let idle = locked.take_all_idle();
        drop(locked);
        idle.into_iter().for_each(|(_, waker)| waker.wake());
        let taken: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!(taken, jobs);
    });
}

#[test]
fn job_reaches_worker_that_becomes_idle() {
    all_jobs_are_taken(2, 1);
}

#[test]
fn jobs_reach_workers_of_which_one_is_woken() {
    all_jobs_are_taken(2, 2);
}
