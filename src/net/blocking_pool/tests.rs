//! Tests of the pool's threads and jobs.

use std::sync::{
    Barrier,
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc,
};

use super::*;

fn call(
    pool: &BlockingPool,
    work: impl FnOnce() + Send + 'static,
) -> oneshot::Receiver<io::Result<()>> {
    pool.call(work)
}

fn running(pool: &BlockingPool) -> usize {
    pool.threads.lock().running
}

#[tokio::test]
async fn pool_runs_all_jobs_on_a_bounded_number_of_threads() {
    let pool = BlockingPool::default();
    // The barrier opens only when all threads run at the same time.
    let together = Arc::new(Barrier::new(MAX_THREADS));
    let mut answers = Vec::new();
    for _ in 0..10 * MAX_THREADS {
        let together = together.clone();
        answers.push(call(&pool, move || {
            together.wait();
        }));
        assert!(running(&pool) <= MAX_THREADS);
    }
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    // Idle threads take further jobs.
    for _ in 0..10 * MAX_THREADS {
        call(&pool, || ()).await.unwrap().unwrap();
    }
    assert!(running(&pool) <= MAX_THREADS);
}

#[tokio::test]
async fn threads_end_with_their_pool_and_after_the_waiting_jobs() {
    let pool = BlockingPool::default();
    let threads = pool.threads.clone();
    let (go_on, waits) = mpsc::channel::<()>();
    let mut answers = vec![call(&pool, move || {
        let _ = waits.recv();
    })];
    answers.extend((0..2 * MAX_THREADS).map(|_| call(&pool, || ())));
    drop(pool);
    drop(go_on);
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    while Arc::strong_count(&threads) > 1 {
        thread::yield_now();
    }
    assert_eq!(threads.lock().running, 0);
}

#[tokio::test]
async fn panic_ends_its_own_job_only() {
    let pool = BlockingPool::default();
    let hold = Arc::new(Barrier::new(MAX_THREADS + 1));
    let mut held = Vec::new();
    for _ in 0..MAX_THREADS {
        let hold = hold.clone();
        held.push(call(&pool, move || {
            hold.wait();
            panic!("a fault of the file system")
        }));
    }
    drop(call(&pool, || unreachable!("the job is unwanted")));
    let last = call(&pool, || ());
    hold.wait();
    for answer in held {
        assert!(answer.await.is_err());
    }
    last.await.unwrap().unwrap();
}

#[tokio::test]
async fn unwanted_jobs_are_dropped_while_all_threads_hang() {
    let pool = BlockingPool::default();
    let hold = Arc::new(Barrier::new(MAX_THREADS + 1));
    let held: Vec<_> = (0..MAX_THREADS)
        .map(|_| hold.clone())
        .map(|hold| {
            call(&pool, move || {
                hold.wait();
            })
        })
        .collect();
    let (file, wanted) = (Arc::new(()), Arc::new(()));
    let hold_on = |what: &Arc<()>| {
        let what = what.clone();
        move || drop(what)
    };
    let last = call(&pool, hold_on(&wanted));
    for _ in 0..100 * PRUNE_THRESHOLD {
        drop(call(&pool, hold_on(&file)));
    }
    let kept = Arc::strong_count(&file);
    assert!(kept <= 2 * PRUNE_THRESHOLD, "{kept}");
    assert_eq!(Arc::strong_count(&wanted), 2);
    hold.wait();
    for answer in held {
        answer.await.unwrap().unwrap();
    }
    last.await.unwrap().unwrap();
}

#[test]
fn job_fails_if_no_thread_can_be_started_for_it() {
    let pool = BlockingPool::without_threads();
    for _ in 0..2 {
        let mut answer = call(&pool, || unreachable!("there is no thread"));
        let error = answer.try_recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(error.to_string().starts_with("cannot start a thread: "), "{error}");
    }
    assert_eq!(running(&pool), 0);
}

#[tokio::test]
async fn job_waits_for_another_thread_if_none_can_be_started_for_it() {
    let starts_one = |body| {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if COUNT.fetch_add(1, Relaxed) > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        thread::Builder::new().spawn(body).map(drop)
    };
    let pool = BlockingPool::with_threads_by(starts_one);
    let (go_on, waits) = mpsc::channel::<()>();
    let first = call(&pool, move || {
        let _ = waits.recv();
    });
    let others: Vec<_> = (0..3).map(|_| call(&pool, || ())).collect();
    drop(go_on);
    for answer in [first].into_iter().chain(others) {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(running(&pool), 1);
}

#[test]
fn pool_runs_jobs_without_a_runtime_and_while_unwinding() {
    struct InDrop(BlockingPool, mpsc::Sender<bool>);
    impl Drop for InDrop {
        fn drop(&mut self) {
            let ran = call(&self.0, || ()).blocking_recv().unwrap().is_ok();
            self.1.send(ran).unwrap();
        }
    }
    for (pool, runs) in [(BlockingPool::default(), true), (BlockingPool::without_threads(), false)]
    {
        let (ran, has_run) = mpsc::channel();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _in_drop = InDrop(pool, ran);
            panic!("a fault of the application");
        }));
        assert!(panicked.is_err());
        assert_eq!(has_run.recv().unwrap(), runs);
    }
}
