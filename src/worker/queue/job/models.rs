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
        let was_queued = job.cancel();
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
    fn send_ahead(&self, _: &Request) -> bool {
        true
    }

    fn take_back(&self) -> bool {
        self.take()
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
        assert!(job.send_ahead(&(socket.clone() as _)));
        let worker = thread::spawn({
            let job = job.clone();
            move || {
                let has_read = socket.take();
                (has_read, job.begin_ahead().is_some())
            }
        });
        let was_queued = job.cancel();
        let (has_read, begun) = worker.join().unwrap();
        assert_eq!(has_read, !was_queued, "either the worker has read it, or it was cancelled");
        assert!(!has_read || begun, "what the worker has read is begun");
        assert_eq!(permits.available_permits(), usize::from(was_queued));
    });
}
