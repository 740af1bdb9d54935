//! Tests of requests that are ahead, with workers whose sockets are flags.

use std::{
    collections::VecDeque,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use tokio::sync::Semaphore;

use super::{
    super::{
        Next, Stats,
        job::{Cancelled, Times},
    },
    *,
};

/// A worker that reads requests from its socket, in order.
#[derive(Default)]
struct Socket(Mutex<Sent>);

#[derive(Default)]
struct Sent {
    next_id: u32,
    /// Ids of requests that are ahead: those that the worker has read come first.
    ahead: VecDeque<u32>,
    read: usize,
    has_unread_current: bool,
    has_lost_current: bool,
    /// Whether it refuses all requests as unsuitable.
    is_choosy: bool,
    /// How often it was asked to take a request.
    asked: usize,
}

/// How many requests a worker takes ahead.
const DEPTH: usize = 2;

impl Lookahead for Socket {
    fn send_ahead(&self, _: &Request, _: Instant) -> Result<u32, NotSent> {
        let mut sent = self.0.lock().unwrap();
        sent.asked += 1;
        if sent.is_choosy {
            return Err(NotSent::Unsuitable);
        }
        if sent.ahead.len() == DEPTH {
            return Err(NotSent::Full);
        }
        sent.next_id += 1;
        let id = sent.next_id;
        sent.ahead.push_back(id);
        Ok(id)
    }

    fn begin_ahead(&self, id: u32, _: Instant) {
        let mut sent = self.0.lock().unwrap();
        assert_eq!(sent.ahead.pop_front(), Some(id), "the pool knows what the worker begins");
        sent.read = sent.read.saturating_sub(1);
    }

    fn take_back(&self, last: u32) -> Vec<u32> {
        let mut sent = self.0.lock().unwrap();
        sent.has_lost_current |= std::mem::take(&mut sent.has_unread_current);
        let unread = sent.ahead.iter().skip(sent.read).copied().collect::<Vec<_>>();
        // If `last` was read, only the message behind it shows that.
        let end = unread.first().map_or(last, |first| last.max(*first));
        let taken = unread.into_iter().filter(|id| *id <= end).collect::<Vec<_>>();
        sent.ahead.retain(|id| !taken.contains(id));
        taken
    }

    fn has_read_current(&self) -> bool {
        !self.0.lock().unwrap().has_unread_current
    }

    fn has_begun(&self) -> bool {
        self.0.lock().unwrap().read > 0
    }
}

impl Socket {
    /// The worker reads the next request.
    fn read(&self) {
        self.0.lock().unwrap().read += 1;
    }

    /// The worker does not read the request that it was sent before those ahead.
    fn leave_current_unread(&self) {
        self.0.lock().unwrap().has_unread_current = true;
    }

    fn has_lost_current(&self) -> bool {
        self.0.lock().unwrap().has_lost_current
    }
}

struct Pool {
    queue: Queue,
    sockets: Vec<Arc<Socket>>,
    permits: Arc<Semaphore>,
    now: Instant,
}

const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

fn id(number: usize) -> WorkerId {
    WorkerId::of_number(number as u64)
}

impl Pool {
    /// Returns a queue with this number of busy workers.
    fn new(workers: usize) -> Self {
        let mut queue = Queue::default();
        let sockets: Vec<Arc<Socket>> = (0..workers).map(|_| Arc::default()).collect();
        for (number, socket) in sockets.iter().enumerate() {
            queue.add_lookahead(id(number), socket.clone());
        }
        Self { queue, sockets, permits: Arc::new(Semaphore::new(99)), now: Instant::now() }
    }

    /// Queues a job, and sends it ahead if that is possible.
    fn push(&mut self) -> Arc<Job> {
        let permit = self.permits.clone().try_acquire_owned().unwrap();
        let queue_until = self.now + QUEUE_TIMEOUT;
        let times = Times { queued_at: self.now, queue_until, deadline: None };
        let job = Job::new(Request::default(), permit, times);
        self.queue.push(&job).unwrap();
        self.queue.send_ahead(self.now, |_| true);
        job
    }

    /// Returns the job that an idle worker gets.
    fn next(&mut self, worker: usize) -> Option<Arc<Job>> {
        let cx = Context::from_waker(Waker::noop());
        match self.queue.poll_next(id(worker), self.now, false, &cx) {
            Poll::Ready(Next::Begin(job, _)) => Some(job),
            Poll::Ready(_) => panic!("neither a job nor none"),
            Poll::Pending => None,
        }
    }

    /// The caller of a job leaves.
    fn cancel(&mut self, job: &Arc<Job>) {
        let was = job.cancel();
        assert_eq!(was, Cancelled::Ahead);
        self.queue.on_cancelled(job, was);
    }

    /// What a worker begins that has ended a request.
    fn begin_ahead(&mut self, worker: usize) -> Option<Arc<Job>> {
        Some(self.queue.begin_ahead(id(worker), self.now)?.0)
    }
}

fn is_same(job: Option<Arc<Job>>, other: &Arc<Job>) -> bool {
    job.is_some_and(|job| Arc::ptr_eq(&job, other))
}

#[test]
fn busy_workers_are_sent_jobs_ahead_in_turn_until_they_have_enough() {
    let mut pool = Pool::new(2);
    let jobs = [(); 5].map(|()| pool.push());
    assert_eq!(jobs.each_ref().map(|job| job.is_ahead()), [true, true, true, true, false]);
    assert_eq!(pool.queue.queued(), 5, "all wait");
    assert!(is_same(pool.begin_ahead(0), &jobs[0]));
    assert!(is_same(pool.begin_ahead(1), &jobs[1]));
    assert!(is_same(pool.begin_ahead(1), &jobs[3]));
    assert!(is_same(pool.next(1), &jobs[4]));
    assert!(is_same(pool.begin_ahead(0), &jobs[2]));
    assert!(pool.begin_ahead(0).is_none());
}

#[test]
fn full_worker_is_asked_once_until_it_begins_another_job() {
    let mut pool = Pool::new(3);
    let _jobs = [(); 12].map(|()| pool.push());
    let asked = |pool: &Pool| pool.sockets.iter().map(|s| s.0.lock().unwrap().asked).sum::<usize>();
    assert_eq!(asked(&pool), 3 * DEPTH + 3);
    assert!(pool.begin_ahead(1).is_some());
    pool.queue.send_ahead(pool.now, |_| true);
    assert_eq!(asked(&pool), 3 * DEPTH + 5, "it takes one, and refuses the next one");
    assert_eq!(pool.queue.queued(), 11);
    pool.queue.on_begun(id(2));
    pool.queue.send_ahead(pool.now, |_| true);
    assert_eq!(asked(&pool), 3 * DEPTH + 6);
}

#[test]
fn job_that_is_not_suitable_is_offered_to_one_worker() {
    let mut pool = Pool::new(3);
    pool.sockets.iter().for_each(|socket| socket.0.lock().unwrap().is_choosy = true);
    let job = pool.push();
    let asked: usize = pool.sockets.iter().map(|s| s.0.lock().unwrap().asked).sum();
    assert!(!job.is_ahead() && asked == 1);
    pool.sockets.iter().for_each(|socket| socket.0.lock().unwrap().is_choosy = false);
    pool.queue.send_ahead(pool.now, |_| true);
    assert!(job.is_ahead(), "no worker counts as full");
}

#[test]
fn job_behind_one_that_was_read_meanwhile_is_queued_again() {
    let mut pool = Pool::new(1);
    let [first, second] = [(); 2].map(|()| pool.push());
    pool.sockets[0].read();
    pool.cancel(&first);
    assert!(first.is_ahead() && !second.is_ahead());
    assert!(is_same(pool.begin_ahead(0), &first), "the worker runs it");
    assert!(pool.begin_ahead(0).is_none(), "the worker does not have the second one");
    assert!(is_same(pool.next(0), &second));
}

#[test]
fn job_that_was_answered_while_ahead_is_not_begun() {
    let mut pool = Pool::new(1);
    let job = pool.push();
    pool.sockets[0].read();
    job.answer(Err("the pool ends".into()));
    assert!(pool.begin_ahead(0).is_none());
    let ahead = pool.sockets[0].0.lock().unwrap().ahead.len();
    assert_eq!(ahead, 1, "no other exchange takes its response");
}

#[test]
fn no_job_is_sent_ahead_while_a_worker_is_idle() {
    let mut pool = Pool::new(2);
    assert!(pool.next(1).is_none());
    let job = pool.push();
    assert!(!job.is_ahead());
    assert!(pool.queue.wake_next(pool.now).is_some());
    let behind = pool.push();
    assert!(!behind.is_ahead(), "one is on its way");
    assert!(is_same(pool.next(1), &job));
    pool.queue.send_ahead(pool.now, |_| true);
    assert!(behind.is_ahead());
}

#[test]
fn idle_worker_takes_the_oldest_job_that_is_ahead_and_not_begun() {
    let mut pool = Pool::new(3);
    let jobs = [pool.push(), pool.push(), pool.push()];
    pool.sockets[0].read();
    assert!(is_same(pool.next(2), &jobs[1]));
    assert!(is_same(pool.next(2), &jobs[2]));
    assert!(pool.next(2).is_none(), "the first is begun");
    assert!(is_same(pool.begin_ahead(0), &jobs[0]));
}

#[test]
fn job_ahead_of_a_slow_worker_goes_before_later_ones() {
    let mut pool = Pool::new(2);
    let [slow, _, third] = [pool.push(), pool.push(), pool.push()];
    assert!(pool.begin_ahead(1).is_some());
    pool.now += MAX_AHEAD;
    assert!(is_same(pool.next(1), &slow));
    assert!(is_same(pool.next(1), &third));
}

#[test]
fn cancelled_job_is_taken_back_and_begun_one_goes_on() {
    let mut pool = Pool::new(2);
    let [unread, read] = [pool.push(), pool.push()];
    pool.sockets[1].read();
    pool.cancel(&unread);
    pool.cancel(&read);
    assert!(pool.begin_ahead(0).is_none());
    assert_eq!(pool.permits.available_permits(), 98, "the worker has one of them");
    assert!(is_same(pool.begin_ahead(1), &read));
    assert!(!read.is_running(), "its caller has left");
    drop(read.take_permit());
    assert_eq!(pool.permits.available_permits(), 99);
    let mut stats = Stats::default();
    pool.queue.add_to(&mut stats, Instant::now());
    assert_eq!((stats.cancelled, stats.queued), (1, 0));
}

#[test]
fn expired_job_is_taken_back_and_begun_one_does_not_expire() {
    let mut pool = Pool::new(2);
    let [unread, read] = [pool.push(), pool.push()];
    pool.sockets[1].read();
    assert_eq!(pool.queue.next_expiry(0), Some(pool.now + QUEUE_TIMEOUT));
    pool.now += QUEUE_TIMEOUT;
    let expired = pool.queue.take_expired(pool.now, 0);
    assert!(expired.len() == 1 && is_same(expired.into_iter().next(), &unread));
    assert_eq!(pool.queue.next_expiry(0), None);
    assert!(is_same(pool.begin_ahead(1), &read));
}

#[test]
fn leaving_worker_leaves_its_job_to_others_unless_it_has_begun_it() {
    let mut pool = Pool::new(2);
    let [unread, read] = [pool.push(), pool.push()];
    pool.sockets[1].read();
    pool.queue.leave(id(0));
    assert!(!pool.queue.release_ahead(id(1)));
    assert!(is_same(pool.next(2), &unread));
    pool.queue.close();
    assert!(!pool.queue.is_drained());
    assert!(pool.queue.end_ahead(id(1), pool.now + QUEUE_TIMEOUT).is_empty());
    assert!(is_same(pool.next(2), &read), "it is idempotent, so that it may be repeated");
    assert!(pool.queue.is_drained());
}

#[test]
fn job_that_two_exited_workers_had_begun_is_not_queued_again() {
    let mut pool = Pool::new(2);
    pool.push();
    for worker in [0, 1] {
        pool.sockets[worker].read();
        pool.queue.leave(id(worker));
        let lost = pool.queue.end_ahead(id(worker), pool.now + QUEUE_TIMEOUT).pop();
        assert_eq!(lost.is_some(), worker == 1);
        pool.queue.send_ahead(pool.now, |_| true);
    }
    assert_eq!((pool.queue.len(), pool.queue.ahead()), (0, 0));
}

#[test]
fn job_of_an_exited_worker_has_a_new_queue_timeout() {
    let mut pool = Pool::new(2);
    let job = pool.push();
    pool.sockets[0].read();
    pool.now += QUEUE_TIMEOUT;
    pool.queue.leave(id(0));
    assert!(pool.queue.end_ahead(id(0), pool.now + QUEUE_TIMEOUT).is_empty());
    assert!(pool.queue.take_expired(pool.now, 0).is_empty());
    assert_eq!(pool.queue.next_expiry(0), Some(pool.now + QUEUE_TIMEOUT));
    assert!(is_same(pool.next(1), &job));
}

#[test]
fn jobs_before_one_that_is_taken_back_are_queued_again_in_order() {
    let mut pool = Pool::new(1);
    let [first, second, third] = [(); 3].map(|()| pool.push());
    pool.cancel(&second);
    assert!(!first.is_ahead() && !third.is_ahead());
    assert_eq!(pool.permits.available_permits(), 97);
    assert!(is_same(pool.next(0), &first));
    assert!(is_same(pool.next(0), &third));
    assert!(pool.next(0).is_none(), "the second one is never run");
}

#[test]
fn idle_worker_waits_a_moment_for_a_worker_that_has_not_read_its_current_job() {
    let mut pool = Pool::new(2);
    pool.sockets[0].leave_current_unread();
    let ahead = pool.push();
    assert!(pool.next(1).is_none());
    assert_eq!(pool.queue.wake_again_at(), Some(pool.now + MAX_AHEAD));
    assert!(pool.queue.wake_next(pool.now).is_none(), "it has still not read it");
    pool.sockets[0].0.lock().unwrap().has_unread_current = false;
    assert!(pool.queue.wake_next(pool.now).is_some());
    assert!(is_same(pool.next(1), &ahead));
    assert!(!pool.sockets[0].has_lost_current());
}

#[test]
fn worker_that_does_not_read_loses_all_its_jobs() {
    let mut pool = Pool::new(2);
    pool.sockets[0].leave_current_unread();
    let ahead = pool.push();
    pool.now += MAX_AHEAD;
    assert!(is_same(pool.next(1), &ahead));
    assert!(pool.sockets[0].has_lost_current());
}
