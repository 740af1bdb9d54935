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
