//! Tests of forked workers, and of several workers in one process.

use std::env;

use rustix::process::Signal;

use super::{
    super::processes::{
        Load, ROLE, hook, in_role, is_alive, kill, kill_parent, next, read_numbers, spawn_role,
        stop,
    },
    *,
};
use crate::{conn::testing::Lines, peer::RequestId};

/// Returns the parent of a process.
pub(super) fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn application_is_loaded_once_for_each_generation_of_forked_workers() {
    let loads = |site: &Site| {
        let text = fs::read_to_string(site.dir.path().join("loaded")).unwrap();
        text.lines().count()
    };
    let site = Site::start_with(wsgi("application").workers(3));
    assert_eq!(loads(&site), 1);
    site.pool.reload().await.unwrap();
    assert_eq!(loads(&site), 2);
    site.end().await;
    let site = Site::start_with(wsgi("application").workers(3).preload(false));
    assert_eq!(loads(&site), 3);
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn killed_worker_is_forked_again_and_loses_no_request_that_can_be_sent_again() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let (on_exit, mut exits) = hook();
    let builder = wsgi("application").workers(2).on_ready(on_ready).on_exit(on_exit);
    let site = Site::start_with(builder);
    let mut victim = next(&mut ready).await;
    next(&mut ready).await;
    let load = Load::start(&site.pool, || get("/load"));
    for _ in 0..10 {
        let served = site.pool.stats().served;
        while site.pool.stats().served < served + 20 {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        kill(victim.pid, Signal::KILL);
        assert_eq!(next(&mut exits).await, (victim, ExitStatus::Signal(9)));
        victim = next(&mut ready).await;
        println!("replaced within {:?}", began.elapsed());
    }
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn spawn_hook_is_called_once_for_each_forked_worker_before_it_is_ready() {
    let (on_event, mut events) = hook::<(&str, WorkerProcess)>();
    let on_event = Arc::new(on_event);
    let (on_spawn, on_ready) = (on_event.clone(), on_event);
    let builder =
        wsgi("application").workers(1).on_spawn(move |worker| on_spawn(("spawn", worker)));
    let site = Site::start_with(builder.on_ready(move |worker| on_ready(("ready", worker))));
    let mut before = None;
    for number in 0..3 {
        let ("spawn", worker) = next(&mut events).await else { panic!("it was spawned first") };
        assert_eq!(next(&mut events).await, ("ready", worker));
        assert_eq!((worker.number, worker.generation), (number, 0));
        assert_eq!(text(&site.get("/load").await.unwrap()), format!("/load {}", worker.pid));
        let zygote = parent(worker.pid);
        assert_eq!(*before.get_or_insert(zygote), zygote, "the hook is not called for this one");
        kill(worker.pid, Signal::KILL);
    }
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn workers_outlive_their_zygote_until_they_are_replaced() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(wsgi("application").workers(1).on_ready(on_ready));
    let first = next(&mut ready).await;
    let zygote = parent(first.pid);
    kill(zygote, Signal::KILL);
    while is_alive(zygote) {
        tokio::task::yield_now().await;
    }
    let expected = format!("/load {}", first.pid);
    assert_eq!(text(&site.get("/load").await.unwrap()), expected);
    kill(first.pid, Signal::KILL);
    let second = next(&mut ready).await;
    assert_ne!(parent(second.pid), zygote);
    let expected = format!("/load {}", second.pid);
    assert_eq!(text(&site.get("/load").await.unwrap()), expected);
    site.pool.shutdown(LONG).await.unwrap();
    assert!(!is_alive(second.pid));
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn stopped_worker_fails_its_request_and_is_killed_and_forked_again() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let (on_exit, mut exits) = hook();
    let builder = wsgi("application").workers(1).on_ready(on_ready).on_exit(on_exit);
    let builder = builder.request_timeout(Duration::from_secs(1));
    let site = Site::start_bounded(builder, SHORT);
    let stopped = next(&mut ready).await;
    stop(stopped.pid);
    assert_eq!(kind(&site.get("/load").await.unwrap_err()), Kind::Timeout);
    let forked = next(&mut ready).await;
    let expected = format!("/load {}", forked.pid);
    assert_eq!(text(&site.get("/load").await.unwrap()), expected);
    assert_eq!(next(&mut exits).await, (stopped, ExitStatus::Signal(9)));
    site.pool.shutdown(LONG).await.unwrap();
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn workers_and_their_zygote_end_with_a_killed_parent() {
    if env::var_os(ROLE).is_some() {
        // The signals of a terminal do not reach it, so only its end stops the others.
        let hook = |worker: WorkerProcess| println!("worker {} {}", worker.pid, parent(worker.pid));
        let _site = Site::start_with(wsgi("application").workers(2).on_ready(hook));
        std::thread::park_timeout(LONG);
        return;
    }
    let name = "python::pool::workers_and_their_zygote_end_with_a_killed_parent";
    let (mut program, _files) = spawn_role(name);
    let pids = read_numbers(&mut program, "worker ", 3);
    kill_parent(program, pids);
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn recycled_and_reloaded_workers_lose_no_request() {
    let builder = wsgi("application").workers(2).recycle_after(20, 10);
    let site = Site::start_with(builder);
    let load = Load::start(&site.pool, || post("/load", Body::empty()));
    while site.pool.stats().recycled < 6 {
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        site.pool.reload().await.unwrap();
    }
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    site.end().await;
}

/// Holds `n` concurrent requests; returns their responses after they are released.
async fn hold(site: &Site, n: usize) -> Vec<String> {
    let requests = (0..n).map(|i| {
        let (pool, request) = (site.pool.clone(), get(&format!("/hold?{i}")));
        tokio::spawn(pool.oneshot(request))
    });
    let requests: Vec<_> = requests.collect();
    for i in 0..n {
        site.made(&format!("held-{i}")).await;
    }
    fs::write(site.dir.path().join("go"), "").unwrap();
    let mut answers = Vec::new();
    for request in requests {
        answers.push(text(&request.await.unwrap().unwrap()));
    }
    answers
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn threads_of_a_worker_run_requests_concurrently() {
    for preload in [true, false] {
        let builder = wsgi("application").workers(1).threads(3).preload(preload);
        let site = Site::start_with(builder);
        assert_eq!(site.pool.stats().workers, 3);
        let answers = hold(&site, 3).await;
        assert!(answers[0].starts_with("True "), "{answers:?}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        site.end().await;
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn process_with_stuck_thread_is_replaced_and_its_other_threads_serve_until_then() {
    let builder = wsgi("application").workers(1).threads(2);
    let site = Site::start_with(builder.request_timeout(Duration::from_secs(3)));
    let error = site.get("/hold?0").await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    // The response may arrive before the worker is counted.
    while site.pool.stats().abandoned < 1 {
        tokio::task::yield_now().await;
    }
    fs::remove_file(site.dir.path().join("held-0")).unwrap();
    while site.pool.stats().recycled < 1 || site.pool.stats().workers < 2 {
        tokio::task::yield_now().await;
    }
    let answers = hold(&site, 2).await;
    assert_eq!(answers[0], answers[1], "both are in the process that has replaced it");
    site.end().await;
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn printed_line_names_a_request_only_if_no_other_can_have_printed_it() {
    const TEST: &str =
        "python::pool::printed_line_names_a_request_only_if_no_other_can_have_printed_it";
    if env::var_os(ROLE).is_some() {
        // The thread that reads the output uses the global subscriber.
        let lines = Lines::default();
        tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(print_in_requests(&lines));
    }
    let output = in_role(TEST).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn print_in_requests(lines: &Lines) {
    for threads in [1, 2] {
        let site = Site::start_with(wsgi("application").workers(1).threads(threads));
        let calls = (0..threads).map(|n| {
            let mut request = get(&format!("/print?{n}-of-{threads}"));
            request.extensions_mut().insert(RequestId::new(17, n as u32));
            tokio::spawn(site.pool.clone().oneshot(request))
        });
        let calls: Vec<_> = calls.collect();
        for n in 0..threads {
            let printed = format!("printed in {n}-of-{threads}");
            let line = loop {
                let found = lines.of("vestibule::worker::output");
                match found.into_iter().find(|line| line.contains(&printed)) {
                    Some(line) => break line,
                    None => tokio::task::yield_now().await,
                }
            };
            let id = format!("request_id={}", RequestId::new(17, n as u32));
            assert_eq!(line.contains(&id), threads == 1, "{line}");
            assert!(threads == 1 || !line.contains("request_id"), "{line}");
        }
        fs::write(site.dir.path().join("go"), "").unwrap();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        site.end().await;
    }
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn thousand_crashes_leave_no_descriptors_and_no_memory() {
    if env::var_os(ROLE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(crash_a_thousand_times());
    }
    let name = "python::pool::thousand_crashes_leave_no_descriptors_and_no_memory";
    let output = in_role(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn crash_a_thousand_times() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let builder = wsgi("application").workers(1).queue_timeout(LONG).on_ready(on_ready);
    let site = Site::start_with(builder);
    let zygote = parent(next(&mut ready).await.pid);
    let mut before = None;
    for crash in 0..1000 {
        let error = site.call(post("/crash", Body::empty())).await.unwrap_err();
        assert_eq!(kind(&error), Kind::BadGateway);
        // A request in between, without which the pauses between restarts grow.
        let worker = next(&mut ready).await;
        assert_eq!(text(&site.get("/load").await.unwrap()), format!("/load {}", worker.pid));
        if crash == 200 {
            before = Some(usage(zygote));
        }
    }
    let ((fds, memory), after) = (before.unwrap(), usage(zygote));
    assert!(after.0 <= fds + 5, "{fds} descriptors have become {}", after.0);
    assert!(after.1 <= memory + (16 << 10), "{memory} KiB have become {}", after.1);
    assert_eq!((site.pool.stats().panics, parent(zygote)), (1000, std::process::id()));
    site.pool.shutdown(LONG).await.unwrap();
}

/// Descriptors and resident memory in KiB of this process and another, without the pages of their programs.
fn usage(other: u32) -> (usize, usize) {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let memory: usize = memory.trim().trim_end_matches(" kB").parse().unwrap();
        (fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), memory)
    };
    let (ours, theirs) = (of(std::process::id()), of(other));
    (ours.0 + theirs.0, ours.1 + theirs.1)
}
