//! Tests of the queue by itself.

use tokio::sync::Semaphore;

use super::{job::Times, wake::WAKE_TIMEOUT, *};

fn push(queue: &mut Queue, permits: &Arc<Semaphore>, now: Instant) -> Arc<Job> {
    let permit = permits.clone().try_acquire_owned().unwrap();
    let times = Times { queued_at: now, queue_until: now + WAKE_TIMEOUT * 9, deadline: None };
    let job = Job::new(Request::default(), permit, times);
    queue.push(&job).unwrap();
    job
}

/// Returns a queue for which `workers` workers wait.
fn with_idle(workers: u64, now: Instant) -> (Queue, Vec<WorkerId>) {
    let mut queue = Queue::default();
    let ids: Vec<_> = (0..workers).map(WorkerId::of_number).collect();
    for id in &ids {
        assert!(poll(&mut queue, *id, now, false).is_pending());
    }
    (queue, ids)
}

fn poll(queue: &mut Queue, id: WorkerId, now: Instant, may_yield: bool) -> Poll<Next> {
    queue.poll_next(id, now, may_yield, &Context::from_waker(Waker::noop()))
}

#[test]
fn job_wakes_no_worker_while_one_is_on_its_way() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, ids) = with_idle(3, now);
    push(&mut queue, &permits, now);
    assert!(queue.wake_next(now).is_some());
    push(&mut queue, &permits, now);
    assert!(queue.wake_next(now).is_none());
    // The one that became idle last takes a job, and wakes the next.
    assert!(matches!(poll(&mut queue, ids[2], now, true), Poll::Ready(Next::Begin(..))));
    assert!(queue.wake_next(now).is_some());
    assert_eq!(queue.idle(), 1);
    assert!(matches!(poll(&mut queue, ids[1], now, true), Poll::Ready(Next::Begin(..))));
    assert!(queue.wake_next(now).is_none(), "there is no job for it");
}

#[cfg(feature = "process")]
#[test]
fn job_wakes_a_lane_of_the_process_that_runs_the_fewest() {
    let (permits, now) = (Arc::new(Semaphore::new(99)), Instant::now());
    let mut queue = Queue::default();
    let ids: Vec<_> = (0..9).map(WorkerId::of_number).collect();
    for id in &ids {
        queue.add_lane(*id, id.number() / 3);
        assert!(poll(&mut queue, *id, now, false).is_pending());
    }
    let allowance = Allowance { until: now, total: WAKE_TIMEOUT };
    let run = |queue: &mut Queue| {
        push(queue, &permits, now);
        assert!(queue.wake_next(now).is_some());
        let id = queue.coming.as_ref().unwrap().worker;
        let Poll::Ready(Next::Begin(job, _)) = poll(queue, id, now, false) else { panic!() };
        queue.set_in_flight(id, job, allowance);
        id
    };
    let first: Vec<_> = (0..6).map(|_| run(&mut queue).number()).collect();
    assert_eq!(first, [8, 5, 2, 7, 4, 1], "each process runs one before any runs two");
    // The process whose requests have ended gets the next ones.
    for id in [ids[5], ids[4]] {
        queue.finish(id, now);
        assert!(poll(&mut queue, id, now, false).is_pending());
    }
    assert_eq!([run(&mut queue), run(&mut queue)], [ids[4], ids[5]]);
    // An abandoned request counts until its worker has exited.
    queue.finish(ids[5], now);
    queue.abandon(ids[8]);
    queue.leave(ids[8]);
    assert_eq!(run(&mut queue), ids[3]);
    queue.exit(ids[8]);
    assert_eq!(run(&mut queue), ids[6]);
}

#[test]
fn job_wakes_another_worker_when_one_does_not_come() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, _) = with_idle(2, now);
    push(&mut queue, &permits, now);
    assert!(queue.wake_next(now).is_some());
    assert_eq!(queue.wake_again_at(), Some(now + WAKE_TIMEOUT));
    assert!(queue.wake_next(now + WAKE_TIMEOUT).is_some());
    assert_eq!(queue.wake_again_at(), None, "there is no other worker");
}

#[test]
fn job_wakes_worker_in_the_runtime_of_its_caller_and_waits_for_no_other() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, ids) = with_idle(3, now);
    push(&mut queue, &permits, now);
    assert!(queue.wake_near(now, |id| id == ids[0]).is_some());
    assert!(queue.take_idle(ids[0]).is_none(), "it was woken");
    assert_eq!((queue.idle(), queue.wake_again_at()), (2, None));
    // A caller in another runtime is not late with that worker.
    push(&mut queue, &permits, now);
    assert!(queue.wake_near(now, |id| id == ids[1]).is_none());
    assert_eq!(queue.wake_again_at(), Some(now + WAKE_TIMEOUT));
    assert!(matches!(poll(&mut queue, ids[0], now, false), Poll::Ready(Next::Begin(..))));
    assert!(queue.wake_next(now).is_some());
}

#[test]
fn job_that_returns_waits_for_no_worker_in_the_runtime_of_another_caller() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, ids) = with_idle(2, now);
    push(&mut queue, &permits, now);
    assert!(queue.wake_near(now, |id| id == ids[0]).is_some());
    assert_eq!(queue.wake_again_at(), None);
    let returned = queue.jobs[0].clone();
    queue.push_front(&returned);
    assert!(queue.wake_next(now).is_none());
    assert_eq!(queue.wake_again_at(), Some(now + WAKE_TIMEOUT));
}

#[test]
fn job_wakes_any_worker_if_none_is_in_the_runtime_of_its_caller() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, ids) = with_idle(2, now);
    push(&mut queue, &permits, now);
    assert!(queue.wake_near(now, |_| false).is_some());
    assert!(queue.take_idle(ids[1]).is_none(), "it became idle last");
    assert_eq!(queue.wake_again_at(), Some(now + WAKE_TIMEOUT));
}

#[test]
fn job_wakes_another_worker_when_one_leaves() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, ids) = with_idle(2, now);
    push(&mut queue, &permits, now);
    assert!(queue.wake_next(now).is_some());
    queue.leave(ids[1]);
    assert!(queue.wake_next(now).is_some());
}

#[test]
fn worker_without_a_job_yields_once_and_is_on_its_way_meanwhile() {
    let (permits, now) = (Arc::new(Semaphore::new(9)), Instant::now());
    let (mut queue, ids) = with_idle(2, now);
    let _ = queue.take_idle(ids[1]);
    assert!(matches!(poll(&mut queue, ids[1], now, true), Poll::Ready(Next::Yield)));
    push(&mut queue, &permits, now);
    assert!(queue.wake_next(now).is_none(), "a worker is awake");
    assert!(matches!(poll(&mut queue, ids[1], now, false), Poll::Ready(Next::Begin(..))));
    assert!(poll(&mut queue, ids[1], now, false).is_pending());
    assert_eq!(queue.idle(), 2);
}

#[test]
fn cancelled_job_that_expires_is_not_refused() {
    let permits = Arc::new(Semaphore::new(9));
    let now = Instant::now();
    let mut queue = Queue::default();
    let jobs: Vec<_> = (0..4).map(|_| push(&mut queue, &permits, now)).collect();
    let now = now + WAKE_TIMEOUT * 9;
    let was = jobs[1].cancel();
    assert_eq!(was, Cancelled::Queued);
    queue.on_cancelled(&jobs[1], was);
    let mut refused = 0;
    for job in queue.take_expired(now, 0) {
        // Cancelled after it was taken out of the queue, and before it is refused.
        if Arc::ptr_eq(&job, &jobs[2]) {
            let was = job.cancel();
            assert_eq!(was, Cancelled::Queued);
            queue.on_cancelled(&job, was);
        }
        job.refuse(job.expiry(), || refused += 1);
    }
    let mut stats = Stats::default();
    queue.add_to(&mut stats, Instant::now());
    assert_eq!((refused, stats.cancelled, stats.queued), (2, 2, 0));
    assert_eq!((queue.len(), permits.available_permits()), (0, 9));
}
