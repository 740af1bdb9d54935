//! Reloads and recycling.

use std::{os::unix::fs::symlink, path::Path};

use super::*;

#[tokio::test]
async fn reload_replaces_workers_without_a_failed_request() {
    let pool = InProcesses::start_with(vec![], |b| b.workers(2)).unwrap();
    let load = Load::start(pool.processes(), || post("/load"));
    for generation in 1..=3 {
        pool.processes().reload().await.unwrap();
        assert_eq!(pool.stats().generation, generation);
    }
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().panics), (8, 0));
}

#[tokio::test]
async fn failed_reload_keeps_the_old_workers() {
    let builds = vec![Build::Succeed, Build::Succeed, Build::Fail];
    let pool = InProcesses::start_with(builds, |b| b.workers(2)).unwrap();
    let load = Load::start(pool.processes(), || post("/load"));
    let error: BoxError = pool.processes().reload().await.unwrap_err().into();
    assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::Exited);
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((pool.stats().workers, pool.stats().generation), (2, 0));
    // The next one succeeds.
    pool.processes().reload().await.unwrap();
    pool.shutdown().await;
    let error: BoxError = pool.processes().reload().await.unwrap_err().into();
    assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::Refused);
}

#[tokio::test]
async fn link_to_a_directory_is_resolved_once_for_each_generation() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for release in ["1", "2"] {
        std::fs::create_dir(root.join(release)).unwrap();
    }
    let current = root.join("current");
    symlink("1", &current).unwrap();
    let change = |command: Command| command.current_dir(&current);
    let pool = InProcesses::start_command(vec![], change, |b| b.workers(1)).unwrap();
    let is_in = async |release: &str| {
        let response = pool.get("/cwd").await.unwrap();
        assert_eq!(Path::new(&text(&response)), root.join(release));
    };
    is_in("1").await;
    std::fs::remove_file(&current).unwrap();
    symlink("2", &current).unwrap();
    // A worker that is restarted runs the same release.
    assert!(pool.begin("/panic").await.await.is_err());
    is_in("1").await;
    pool.processes().reload().await.unwrap();
    is_in("2").await;
    pool.shutdown().await;
}

#[tokio::test]
async fn recycled_workers_lose_no_request() {
    let options = |b: ProcessesBuilder| b.workers(2).recycle_after(20, 10);
    let pool = InProcesses::start_with(vec![], options).unwrap();
    let load = Load::start(pool.processes(), || post("/load"));
    while pool.stats().recycled < 6 {
        tokio::task::yield_now().await;
    }
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    pool.shutdown().await;
    assert_eq!(pool.stats().panics, 0);
}

#[tokio::test]
async fn worker_above_its_memory_limit_is_replaced_after_a_response() {
    let options = |b: ProcessesBuilder| b.workers(1).recycle_memory(60 << 20);
    let pool = InProcesses::start_with(vec![], options).unwrap();
    assert_eq!(text(&pool.get("/small").await.unwrap()), "/small 0");
    pool.get("/memory").await.unwrap();
    while pool.stats().recycled == 0 {
        assert!(pool.get("/").await.is_ok());
    }
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.shutdown().await;
}

#[tokio::test]
async fn reload_is_rolled_back_when_its_workers_are_not_ready_in_time() {
    let builds = vec![Build::Succeed, Build::Succeed, Build::Hold, Build::Succeed];
    let options = |b: ProcessesBuilder| {
        b.workers(2).start_timeout(Duration::from_secs(2)).stop_timeout(SHORT)
    };
    let pool = InProcesses::start_with(builds, options).unwrap();
    let load = Load::start(pool.processes(), || post("/load"));
    let error: BoxError = pool.processes().reload().await.unwrap_err().into();
    assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::TimedOut);
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((pool.stats().workers, pool.stats().generation), (2, 0));
    pool.processes().reload().await.unwrap();
    pool.shutdown().await;
}

#[tokio::test]
async fn worker_is_replaced_at_its_age() {
    let options = |b: ProcessesBuilder| b.workers(1).recycle_age(InProcesses::SHORT);
    let pool = InProcesses::start_with(vec![], options).unwrap();
    while pool.stats().recycled == 0 {
        tokio::task::yield_now().await;
    }
    assert_ne!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.shutdown().await;
    assert_eq!(pool.stats().panics, 0);
}

#[tokio::test]
async fn spare_workers_are_started_before_a_request_waits_for_them() {
    let options = |b: ProcessesBuilder| b.workers(1).max_workers(3).spare_workers(1);
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    let mut held = Vec::new();
    for (path, workers) in [("/hold1", 2), ("/hold2", 3)] {
        held.push(pool.begin(path).await);
        assert_eq!(pool.entered().await, path);
        while pool.stats().workers < workers {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!((pool.stats().busy, pool.stats().queued, pool.builds()), (2, 0, 3));
    pool.release("/hold1");
    pool.release("/hold2");
    for answer in held {
        answer.await.unwrap();
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn replaced_worker_is_stopped_at_its_drain_timeout() {
    let options = |b: ProcessesBuilder| b.workers(1).drain_timeout(SHORT).stop_timeout(SHORT);
    let mut pool = InProcesses::start_with(vec![], options).unwrap();
    let held = pool.begin("/hold").await;
    pool.entered().await;
    pool.processes().reload().await.unwrap();
    let error = held.await.unwrap_err();
    assert_eq!((kind(&error), cause::<DrainTimeout>(&error)), (Kind::Timeout, DrainTimeout));
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    while pool.stats().abandoned == 0 {
        tokio::task::yield_now().await; // the caller got its error first
    }
    pool.shutdown().await;
}
