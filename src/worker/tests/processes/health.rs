//! Checks of processes without requests.

use super::*;

const INTERVAL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn idle_process_that_hangs_is_replaced_before_it_gets_a_request() {
    for lanes in [1, 2] {
        let (on_ready, mut ready) = hook::<WorkerProcess>();
        let options = |b: ProcessesBuilder| {
            let b = b.workers(1).concurrency(lanes).stop_timeout(SHORT).on_ready(on_ready);
            b.health_timeout(InProcesses::SHORT).health_check(INTERVAL)
        };
        let pool = InProcesses::start_with(vec![], options).unwrap();
        let hung = next(&mut ready).await;
        stop(hung.pid);
        next(&mut ready).await;
        while pool.stats().recycled < lanes as u64 {
            tokio::task::yield_now().await;
        }
        assert_ne!(text(&pool.get("/next").await.unwrap()), "/next 0");
        pool.shutdown().await;
        assert!(!is_alive(hung.pid));
        assert_eq!((pool.stats().panics, pool.stats().abandoned), (0, 0));
    }
}

#[tokio::test]
async fn closed_pool_does_not_wait_for_a_check() {
    let options = |b: ProcessesBuilder| {
        let b = b.workers(1).health_check(INTERVAL).stop_timeout(SHORT);
        b.health_timeout(LONG * 10)
    };
    let mut pool = InProcesses::start_with(vec![Build::Hang], options).unwrap();
    assert_eq!(pool.entered().await, "*");
    pool.shutdown().await;
}

#[tokio::test]
async fn process_that_hangs_before_it_takes_its_slot_is_replaced_in_it() {
    let builds = vec![Build::Succeed, Build::Succeed, Build::Hang, Build::Hold];
    let options = |b: ProcessesBuilder| {
        let b = b.workers(2).health_check(INTERVAL).health_timeout(SHORT).stop_timeout(SHORT);
        b.start_timeout(LONG)
    };
    let mut pool = InProcesses::start_with(builds, options).unwrap();
    let processes = pool.processes().clone();
    let reload = tokio::spawn(async move { processes.reload().await });
    for _ in 0..2 {
        assert_eq!(pool.entered().await, "*"); // the second check comes when the first has failed
    }
    pool.release("/build");
    reload.await.unwrap().unwrap();
    let replaced = async {
        while pool.stats().recycled < 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, replaced).await.expect("it is replaced");
    pool.shutdown().await;
}

#[tokio::test]
async fn process_that_answers_again_after_a_failed_check_serves_on() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let builds = vec![Build::Succeed, Build::Hold];
    let options = |b: ProcessesBuilder| {
        let b = b.workers(1).health_check(INTERVAL).health_timeout(InProcesses::SHORT);
        b.queue_timeout(LONG).on_ready(on_ready)
    };
    let mut pool = InProcesses::start_with(builds, options).unwrap();
    let worker = next(&mut ready).await;
    stop(worker.pid);
    pool.built(1).await; // its replacement takes long to be ready
    let waits = pool.begin("/waits").await;
    kill(worker.pid, Signal::CONT);
    assert_eq!(text(&waits.await.unwrap()), "/waits 0");
    pool.release("/build");
    while pool.stats().recycled < 1 {
        tokio::task::yield_now().await;
    }
    // On a busy machine, its replacement may fail a check, too.
    assert_ne!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.shutdown().await;
}

#[tokio::test]
async fn process_that_fails_its_path_serves_until_it_is_replaced() {
    let builds = vec![Build::Succeed, Build::Hold];
    let options = |b: ProcessesBuilder| b.workers(1).ready_path("/health").health_check(INTERVAL);
    let mut pool = InProcesses::start_with(builds, options).unwrap();
    pool.get("/sick").await.unwrap();
    pool.built(1).await;
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.release("/build");
    while pool.stats().recycled < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.shutdown().await;
}

#[tokio::test]
async fn pool_with_a_process_that_hangs_can_be_closed() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let builds = vec![Build::Succeed, Build::Hold];
    let options = |b: ProcessesBuilder| {
        let b = b.workers(1).health_check(INTERVAL).health_timeout(SHORT);
        b.stop_timeout(SHORT).on_ready(on_ready)
    };
    let mut pool = InProcesses::start_with(builds, options).unwrap();
    stop(next(&mut ready).await.pid);
    pool.built(1).await;
    pool.shutdown().await;
}
