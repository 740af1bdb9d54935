//! Tests of the supervisor's thread, with an executor whose workers are the test itself.

use std::{
    io,
    sync::{Arc, mpsc},
};

use tower::{Service, ServiceExt};

use super::{super::*, *};
use crate::{
    policy::{
        backoff::Backoff,
        restart::{Config, GiveUp, Recycle, Scale, WorkerId},
    },
    worker::{executor::Executor, pool::Pool},
};

#[derive(Debug, PartialEq)]
enum Command {
    Start(WorkerId),
    Abort(WorkerId),
    Abandon(WorkerId),
}

/// Reports the calls of the supervisor. Its workers are ready at once.
struct Recorder {
    pool: Arc<Pool>,
    commands: mpsc::Sender<Command>,
    starts: usize,
    /// Returns whether the start of this number (from 0) fails.
    fails: fn(usize) -> bool,
}

impl Executor for Recorder {
    fn start(&mut self, id: WorkerId) -> io::Result<()> {
        self.starts += 1;
        if (self.fails)(self.starts - 1) {
            return Err(io::Error::other("too many threads"));
        }
        self.pool.on_ready(id);
        self.commands.send(Command::Start(id)).map_err(io::Error::other)
    }

    fn abort(&mut self, id: WorkerId) {
        let _ = self.commands.send(Command::Abort(id));
    }

    fn abandon(&mut self, id: WorkerId) {
        let _ = self.commands.send(Command::Abandon(id));
    }
}

type Started = (Threads, Arc<Pool>, mpsc::Receiver<Command>);

fn start(workers: usize, fails: fn(usize) -> bool) -> Result<Started, Error> {
    let config = Config {
        workers,
        scale: Scale::FIXED,
        max_abandoned: 1,
        request_timeout: SHORT * 10,
        drain_timeout: None,
        grace: SHORT,
        backoff: Backoff::new(Duration::from_millis(1), SHORT),
        start_timeout: None,
        give_up: Some(GiveUp { failures: 6, pause: LONG }),
        stable_after: None,
        recycle: Recycle::NEVER,
        refork_after: None,
    };
    let pool = Pool::new(config, 1, LONG);
    let (tx, commands) = mpsc::channel();
    let executor = Recorder { pool: pool.clone(), commands: tx, starts: 0, fails };
    let supervisor = supervisor::start(&pool, executor)?;
    Ok((Threads::new(pool.clone(), supervisor), pool, commands))
}

fn started(commands: &mpsc::Receiver<Command>) -> WorkerId {
    match commands.recv_timeout(LONG) {
        Ok(Command::Start(id)) => id,
        other => panic!("{other:?} where a start is expected"),
    }
}

#[test]
fn start_returns_error_of_worker_that_cannot_be_started() {
    let error: BoxError = start(2, |n| n == 0).err().expect("it cannot start").into();
    assert_eq!(kind(&error), Kind::Internal);
    assert!(error.to_string().contains("too many threads"), "{error}");
}

#[tokio::test]
async fn worker_that_cannot_be_started_is_tried_again() {
    let (threads, pool, commands) = start(1, |n| (1..5).contains(&n)).unwrap();
    pool.on_exit(started(&commands));
    let replacement = started(&commands);
    assert_eq!(threads.stats().workers, 1);
    threads.close();
    assert!(pool.next(replacement).await.is_none());
    pool.on_exit(replacement);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn executor_aborts_and_abandons_stuck_worker() {
    let (mut threads, pool, commands) = start(1, |_| false).unwrap();
    let stuck = started(&commands);
    let answer = ServiceExt::<Request>::ready(&mut threads).await.unwrap().call(get("/"));
    let work = pool.next(stuck).await.expect("a request");
    assert_eq!(commands.recv_timeout(LONG), Ok(Command::Abort(stuck)));
    assert_eq!(kind(&answer.await.unwrap_err()), Kind::Timeout);
    assert_eq!(commands.recv_timeout(LONG), Ok(Command::Abandon(stuck)));
    let replacement = started(&commands);

    let next = ServiceExt::<Request>::ready(&mut threads).await.unwrap().call(get("/next"));
    let next_work = pool.next(replacement).await.expect("the next request");
    assert_eq!(next_work.request.uri(), "/next");
    assert!(!pool.done(stuck, false), "its slot is taken");
    work.job.answer(Ok(Response::new("late".into())));
    pool.on_exit(stuck);
    assert!(pool.done(replacement, false));
    next_work.job.answer(Ok(Response::new("in time".into())));
    assert_eq!(text(&next.await.unwrap()), "in time");

    threads.close();
    assert!(pool.next(replacement).await.is_none());
    pool.on_exit(replacement);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn request_of_worker_that_exits_is_answered() {
    let (mut threads, pool, commands) = start(1, |_| false).unwrap();
    let killed = started(&commands);
    let answer = ServiceExt::<Request>::ready(&mut threads).await.unwrap().call(get("/"));
    assert!(pool.next(killed).await.is_some());
    pool.on_exit(killed);
    assert_eq!(kind(&answer.await.unwrap_err()), Kind::Internal);
    assert!(ServiceExt::<Request>::ready(&mut threads).await.is_ok(), "its permit is free");
    let replacement = started(&commands);
    threads.close();
    assert!(pool.next(replacement).await.is_none());
    pool.on_exit(replacement);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn pool_whose_workers_keep_failing_refuses_requests_at_once() {
    let (mut threads, pool, commands) = start(1, |n| n > 0).unwrap();
    let queued = ServiceExt::<Request>::ready(&mut threads).await.unwrap().call(get("/queued"));
    pool.on_exit(started(&commands)); // and cannot be started again
    let error = queued.await.unwrap_err();
    assert_eq!((kind(&error), cause::<WorkersFailed>(&error)), (Kind::Overloaded, WorkersFailed));
    let next = ServiceExt::<Request>::ready(&mut threads).await.unwrap().call(get("/next"));
    assert_eq!(cause::<WorkersFailed>(&next.await.unwrap_err()), WorkersFailed);
    assert_eq!(threads.stats().refused, 2);
    threads.shutdown(LONG).await.unwrap();
}
