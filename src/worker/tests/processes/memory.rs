//! Workers whose memory exceeds its limit.

use super::{super::contract::python::*, *};

/// Above the memory of an application, and below that of one that has taken 64 MiB.
const LIMIT: u64 = 60 << 20;

type Exits = mpsc::UnboundedReceiver<(WorkerProcess, ExitStatus)>;

/// Checks that a worker is measured after its response, and not during its request: a pool of two workers, of which one has
/// a long request, and the other is replaced twice meanwhile.
async fn busy_worker_is_replaced_after_its_response<P: Placement>(mut pool: P, mut exits: Exits) {
    let long = pool.begin("/memory-hold").await;
    assert_eq!(pool.entered().await, "/memory-hold");
    for _ in 0..2 {
        pool.get("/memory").await.unwrap();
        while exits.try_recv().is_err() {
            assert_eq!(pool.get("/").await.unwrap().status(), 200);
        }
    }
    assert_eq!((pool.stats().recycled, pool.builds()), (2, 4), "the busy one has no successor");
    pool.release("/memory-hold");
    assert_eq!(long.await.unwrap().status(), 200);
    next(&mut exits).await;
    assert_eq!((pool.stats().recycled, pool.builds()), (3, 5));
    pool.shutdown().await;
    assert_eq!(pool.stats().panics, 0);
}

#[tokio::test]
async fn memory_of_a_process_is_not_measured_during_its_request() {
    let (on_exit, exits) = hook();
    let options = |b: ProcessesBuilder| b.workers(2).recycle_memory(LIMIT).on_exit(on_exit);
    let pool = InProcesses::start_with(vec![], options).unwrap();
    busy_worker_is_replaced_after_its_response(pool, exits).await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn memory_of_a_python_process_is_not_measured_during_its_request() {
    let (on_exit, exits) = hook();
    let options = |b: ProcessesBuilder<Python>| b.workers(2).recycle_memory(LIMIT).on_exit(on_exit);
    let pool = InPython::<Loaded>::start_with(vec![], options).unwrap();
    busy_worker_is_replaced_after_its_response(pool, exits).await;
}

/// Checks that a process of several lanes, which is measured after the response of one of them, completes the requests of
/// the others.
async fn other_lanes_complete_their_requests<P: Placement>(mut pool: P, lanes: u64) {
    let long = pool.begin("/memory-hold").await;
    assert_eq!(pool.entered().await, "/memory-hold");
    while pool.stats().recycled < lanes {
        assert_eq!(pool.get("/").await.unwrap().status(), 200);
    }
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.release("/memory-hold");
    assert_eq!(text(&long.await.unwrap()), "/memory-hold 0");
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().panics), (2, 0));
}

#[tokio::test]
async fn process_above_its_limit_completes_the_requests_of_its_other_lanes() {
    let options = |b: ProcessesBuilder| b.workers(1).concurrency(2).recycle_memory(LIMIT);
    let pool = InProcesses::start_with(vec![], options).unwrap();
    other_lanes_complete_their_requests(pool, 2).await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn python_process_above_its_limit_completes_the_requests_of_its_other_lanes() {
    let options = |b: ProcessesBuilder<Python>| b.workers(1).recycle_memory(LIMIT);
    let pool = InPython::<Threaded>::start_with(vec![], options).unwrap();
    other_lanes_complete_their_requests(pool, Threaded::LANES as u64).await;
    let pool = InPython::<AsgiTasks>::start_with(vec![], options).unwrap();
    other_lanes_complete_their_requests(pool, AsgiTasks::LANES as u64).await;
}
