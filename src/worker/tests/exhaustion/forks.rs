//! Tests of forks of workers without descriptors.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use tokio::{sync::mpsc::error::TryRecvError, time::timeout};
use tower::ServiceExt;

use super::{
    super::{
        super::*,
        processes::{hook, kill, next},
        python::Site,
        *,
    },
    as_nobody, line, run, run_with, set_soft_limit,
};
use crate::conn::testing::Lines;

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn worker_that_is_forked_with_the_last_descriptors_is_reaped() {
    let test = "forks::worker_that_is_forked_with_the_last_descriptors_is_reaped";
    run(test, fork_with_the_last_descriptors);
}

async fn fork_with_the_last_descriptors(lines: Lines) {
    let (on_ready, mut ready) = hook();
    let site = Site::start_with(wsgi("application").workers(1).on_ready(on_ready));
    let mut worker = next(&mut ready).await;
    let (_, zygote) = state_and_parent(worker.pid).expect("it runs");
    let limit = getrlimit(Resource::Nofile).current;
    let failures = || {
        let lines = lines.of("vestibule::worker");
        lines.iter().filter(|line| line.contains("cannot start a worker")).count()
    };
    for room in 0..12 {
        let is_free = |fd: &u64| !fs::exists(format!("/proc/self/fd/{fd}")).unwrap();
        let first_above = (0..).filter(is_free).nth(room).unwrap();
        let before = failures();
        set_soft_limit(Resource::Nofile, Some(first_above));
        kill(worker.pid, Signal::KILL);
        let attempt = async {
            loop {
                match ready.try_recv() {
                    Ok(worker) => return Some(worker),
                    Err(TryRecvError::Disconnected) => panic!("the pool has ended"),
                    Err(TryRecvError::Empty) if failures() > before => return None,
                    Err(TryRecvError::Empty) => tokio::task::yield_now().await,
                }
            }
        };
        let started = timeout(LONG, attempt).await.expect("the worker is replaced, or that fails");
        set_soft_limit(Resource::Nofile, limit);
        worker = match started {
            Some(worker) => worker,
            None => next(&mut ready).await,
        };
        // After several failures in succession, the pool would pause.
        assert_eq!(text(&site.get("/").await.unwrap()), "/");
    }
    let all_reaped = async {
        while processes().any(|pid| state_and_parent(pid) == Some(('Z', zygote))) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG / 6, all_reaped).await.expect("no ended worker is left");
    site.end().await;
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn zygote_whose_worker_is_unknown_is_replaced() {
    run("forks::zygote_whose_worker_is_unknown_is_replaced", lose_the_descriptor_of_a_worker);
}

async fn lose_the_descriptor_of_a_worker(lines: Lines) {
    let (on_ready, mut ready) = hook();
    let site = Site::start_with(wsgi("application").workers(1).on_ready(on_ready));
    let worker = next(&mut ready).await;
    let (_, zygote) = state_and_parent(worker.pid).expect("it runs");
    fs::write(site.dir.path().join("hold-fork"), "").unwrap();
    kill(worker.pid, Signal::KILL);
    site.made("holding-fork").await;
    // The zygote has the command to fork. Its reply has a pidfd.
    let limit = getrlimit(Resource::Nofile).current;
    set_soft_limit(Resource::Nofile, Some(3));
    fs::remove_file(site.dir.path().join("holding-fork")).unwrap();
    line(&lines, "worker", "cannot start a worker").await;
    set_soft_limit(Resource::Nofile, limit);
    let worker = next(&mut ready).await;
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    let (_, successor) = state_and_parent(worker.pid).expect("it runs");
    assert_ne!(successor, zygote);
    assert_eq!(state_and_parent(zygote), None, "it was reaped");
    // The unknown worker has ended.
    let is_of_site = |pid: &u32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == site.dir.path())
    };
    let others_ended = async {
        while processes().filter(is_of_site).any(|pid| ![worker.pid, successor].contains(&pid)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG / 6, others_ended).await.expect("no other process of the site runs");
    site.end().await;
}

#[test]
#[cfg_attr(
    not(all(peer_root, peer_python3)),
    ignore = "needs python3, and root, to become a user with a limit of processes"
)]
fn zygote_without_processes_forks_later_and_leaks_no_descriptors() {
    let test = "forks::zygote_without_processes_forks_later_and_leaks_no_descriptors";
    run_with(test, as_nobody, fork_without_processes);
}

async fn fork_without_processes(lines: Lines) {
    let (on_ready, mut ready) = hook();
    let builder = wsgi("application").workers(1).queue_timeout(LONG).on_ready(on_ready);
    let site = Site::start_with(builder);
    let worker = next(&mut ready).await;
    let (_, zygote) = state_and_parent(worker.pid).expect("it runs");
    let limit = |current| {
        let maximum = getrlimit(Resource::Nproc).maximum;
        let zygote = Pid::from_raw(zygote as i32);
        prlimit(zygote, Resource::Nproc, Rlimit { current, maximum }).unwrap().current
    };
    let failures = || {
        let lines = lines.of("vestibule::worker");
        let failed = lines.into_iter().filter(|line| line.contains("cannot start a worker"));
        failed.collect::<Vec<_>>()
    };
    let failed = async |n: usize| {
        let reached = async {
            while failures().len() < n {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, reached).await.expect("it is tried again");
        let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        open(std::process::id()) + open(zygote)
    };
    let before = limit(Some(0));
    let began = Instant::now();
    kill(worker.pid, Signal::KILL);
    let few = failed(2).await;
    let waits = tokio::spawn({
        let pool = site.pool().clone();
        async move { pool.oneshot(get("/")).await }
    });
    let many = failed(5).await;
    // The pauses before the last three are 100, 200 and 400 ms at least.
    assert!(began.elapsed() >= Duration::from_millis(700), "it pauses between attempts");
    assert!(many <= few + 4, "{few} descriptors have become {many}");
    // EAGAIN of fork(2).
    assert!(failures().iter().all(|line| line.contains("Resource temporarily unavailable")));
    limit(before);
    let worker = next(&mut ready).await;
    assert_eq!(state_and_parent(worker.pid).expect("it runs").1, zygote, "it has forked it");
    assert_eq!(text(&waits.await.unwrap().unwrap()), "/");
    site.end().await;
}

/// The ids of all processes.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// The state of a process and its parent (proc(5)); `None` if it has been reaped.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
