//! Loom models of a job that its caller, a worker and the supervisor access concurrently.

use std::future::poll_fn;

use tokio::sync::Semaphore;

use super::*;
use crate::{
    Body,
    sync::model::{block_on, model, thread},
};

/// Returns a job, and the semaphore of its permit.
fn job() -> (Arc<Job>, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(1));
    let permit = permits.clone().try_acquire_owned().unwrap();
    let now = Instant::now();
    let times = Times { queued_at: now, queue_until: now, deadline: None };
    (Job::new(Request::new(Body::empty()), permit, times), permits)
}

#[test]
fn job_is_either_begun_or_cancelled() {
    model(|| {
        let (job, permits) = job();
        let worker = thread::spawn({
            let job = job.clone();
            move || job.begin().is_some()
        });
        let was_queued = job.cancel() == Cancelled::Queued;
        let begun = worker.join().unwrap();
        assert!(begun != was_queued, "either the worker has begun it, or it was cancelled");
        assert_eq!(permits.available_permits(), usize::from(was_queued));
    });
}

#[test]
fn first_answer_reaches_waiting_caller() {
    model(|| {
        let (job, _permits) = job();
        let answers: Vec<_> = [200, 504]
            .into_iter()
            .map(|status| {
                let job = job.clone();
                thread::spawn(move || {
                    let answer = Response::builder().status(status).body(Body::empty()).unwrap();
                    job.answer(Ok(answer));
                })
            })
            .collect();
        let answer = block_on(poll_fn(|cx| job.poll(cx))).unwrap();
        assert!([200, 504].contains(&answer.status().as_u16()));
        answers.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn permit_of_refused_job_is_returned_once() {
    model(|| {
        let (job, permits) = job();
        let supervisor = thread::spawn({
            let job = job.clone();
            move || job.refuse(queue_timeout(), || {})
        });
        job.cancel();
        supervisor.join().unwrap();
        assert_eq!(permits.available_permits(), 1);
    });
}

/// The socket of a worker that was sent a request ahead: who takes it out has it.
struct Socket(Mutex<bool>);

impl Socket {
    fn take(&self) -> bool {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Lookahead for Socket {
    fn send_ahead(&self, _: &Request, _: Instant) -> Result<u32, NotSent> {
        Ok(0)
    }

    fn begin_ahead(&self, _: u32, _: Instant) {}

    fn take_back(&self, last: u32) -> Vec<u32> {
        if self.take() { vec![last] } else { Vec::new() }
    }

    fn has_read_current(&self) -> bool {
        true
    }

    fn has_begun(&self) -> bool {
        !*self.0.lock().unwrap()
    }
}

#[test]
fn job_that_is_ahead_is_either_begun_or_cancelled() {
    model(|| {
        let (job, permits) = job();
        let socket = Arc::new(Socket(Mutex::new(true)));
        let id = job.send_ahead(&*socket, Instant::now()).unwrap();
        // The lock of the pool: a job is taken back or begun under it.
        let pool = Arc::new(Mutex::new(()));
        let worker = thread::spawn({
            let (job, socket, pool) = (job.clone(), socket.clone(), pool.clone());
            move || {
                if !socket.take() {
                    return (false, false);
                }
                let _pool = pool.lock().unwrap();
                (true, job.begin_ahead().is_some())
            }
        });
        let was = job.cancel();
        if was == Cancelled::Ahead {
            let _pool = pool.lock().unwrap();
            if !socket.take_back(id).is_empty() {
                assert!(!job.take_back(), "its caller has left");
            }
        }
        let (has_read, begun) = worker.join().unwrap();
        assert_eq!(has_read, begun, "what the worker has read is begun");
        assert_ne!(was, Cancelled::Queued);
        assert_eq!(permits.available_permits(), usize::from(!has_read));
    });
}
