//! Workers that become the process from which others are forked.

use std::{collections::HashSet, env, process::id};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    super::processes::{
        Load, ROLE, hook, is_alive, kill, kill_parent, next, read_numbers, spawn_role,
    },
    pool::parent,
    *,
};

/// Requests after which a worker becomes the mould.
const AFTER: u64 = 10;

fn reforking(workers: usize) -> ProcessesBuilder<Python> {
    wsgi("application").workers(workers).queue_timeout(LONG).refork_after(AFTER)
}

/// A worker as the application sees it.
struct Seen {
    pid: u32,
    parent: u32,
    /// The process that has filled the cache, or 0.
    filled_by: u32,
}

impl Site {
    /// Sends requests until so many moulds have been ready.
    async fn serve_until_reforked(&self, reforks: u64) {
        while self.pool.stats().reforks < reforks {
            assert_eq!(text(&self.get("/fill?warm").await.unwrap()), "filled");
        }
    }

    async fn wait_recycled(&self, workers: u64) {
        while self.pool.stats().recycled < workers {
            tokio::task::yield_now().await;
        }
    }

    async fn see(&self) -> Seen {
        let answer = text(&self.get("/cache?warm").await.unwrap());
        let mut numbers = answer.split(' ').map(|number| number.parse().unwrap());
        let mut number = || numbers.next().unwrap();
        Seen { pid: number(), parent: number(), filled_by: number() }
    }

    /// Sends requests until a worker prepares to become the mould. Returns its process id.
    async fn serve_until_preparing(&self) -> u32 {
        while !self.dir.path().join("preparing").exists() {
            self.get("/fill?warm").await.unwrap();
        }
        let pid = self.made("preparing").await.parse().unwrap();
        fs::remove_file(self.dir.path().join("preparing")).unwrap();
        pid
    }

    fn allow_refork(&self) {
        fs::write(self.dir.path().join("prepared"), "").unwrap();
    }
}

/// Waits for the exit of this process.
async fn exit_of(pid: u32, exits: &mut UnboundedReceiver<(WorkerProcess, ExitStatus)>) {
    while next(exits).await.0.pid != pid {}
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_becomes_mould_and_its_workers_have_what_it_has_cached() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(reforking(2).on_ready(on_ready));
    let first = [next(&mut ready).await.pid, next(&mut ready).await.pid];
    let zygote = parent(first[0]);
    site.serve_until_reforked(1).await;
    // The mould and its successor, and the workers of the zygote.
    site.wait_recycled(3).await;
    let mut workers = HashSet::new();
    while workers.len() < 2 {
        let seen = site.see().await;
        assert!(first.contains(&seen.parent) && !first.contains(&seen.pid), "it is forked by one");
        assert_eq!(parent(seen.parent), zygote);
        assert_eq!(seen.filled_by, seen.parent, "it has the cache of the mould");
        workers.insert(seen.pid);
        let calls = (0..4).map(|_| site.pool.clone().oneshot(get("/load")));
        for call in calls.map(tokio::spawn).collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
    }
    assert_eq!((site.pool.stats().reforks, site.pool.stats().workers), (1, 2));
    let mould = site.see().await.parent;
    site.end().await;
    while is_alive(mould) || is_alive(zygote) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_has_time_to_become_mould_although_others_are_killed_at_once() {
    let builder = reforking(1).before_refork("application:hold_refork");
    let site = Site::start_bounded(builder, Duration::ZERO);
    let preparing = site.serve_until_preparing().await;
    site.allow_refork();
    site.serve_until_reforked(1).await;
    // The mould and its successor.
    site.wait_recycled(2).await;
    assert_eq!(site.see().await.parent, preparing);
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn mould_is_stopped_and_reaped_when_the_pool_ends() {
    let (on_exit, mut exits) = hook::<(WorkerProcess, ExitStatus)>();
    let site = Site::start_with(reforking(1).on_exit(on_exit));
    site.serve_until_reforked(1).await;
    // The mould and its successor.
    site.wait_recycled(2).await;
    let mould = site.see().await.parent;
    site.end().await;
    loop {
        let (process, status) = next(&mut exits).await;
        if process.pid == mould {
            assert_ne!(status, ExitStatus::Signal(9));
            break;
        }
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn reforks_and_killed_moulds_lose_no_request() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let (on_exit, mut exits) = hook();
    let site = Site::start_with(reforking(2).on_ready(on_ready).on_exit(on_exit));
    let mut workers = HashSet::new();
    let load = Load::start(&site.pool, || post("/load", Body::empty()));
    for reforks in 1..=4 {
        while site.pool.stats().reforks < reforks {
            tokio::task::yield_now().await;
        }
        // A mould was a worker. The parent of a worker whose mould was killed is another process of the system.
        let mould = loop {
            while let Ok(worker) = ready.try_recv() {
                workers.insert(worker.pid);
            }
            let seen = site.see().await;
            if workers.contains(&seen.parent) {
                break seen.parent;
            }
        };
        let mut forked = HashSet::new();
        while reforks % 2 == 0 && forked.len() < 2 {
            let seen = site.see().await; // until all others are replaced
            forked.extend((seen.parent == mould).then_some(seen.pid));
        }
        kill(mould, Signal::KILL);
        exit_of(mould, &mut exits).await;
    }
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_that_is_killed_before_it_is_the_mould_is_no_loss() {
    let (on_exit, mut exits) = hook();
    let builder = reforking(1).before_refork("application:hold_refork").on_exit(on_exit);
    let site = Site::start_with(builder);
    let preparing = site.serve_until_preparing().await;
    assert_eq!((site.pool.stats().workers, site.pool.stats().reforks), (1, 0));
    assert_eq!(text(&site.get("/").await.unwrap()), "/");
    kill(preparing, Signal::KILL);
    exit_of(preparing, &mut exits).await;
    assert_ne!(site.serve_until_preparing().await, preparing);
    site.allow_refork();
    site.serve_until_reforked(1).await;
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_of_killed_mould_is_replaced_by_one_of_the_zygote() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let (on_exit, mut exits) = hook();
    let site = Site::start_with(reforking(1).on_ready(on_ready).on_exit(on_exit));
    let zygote = parent(next(&mut ready).await.pid);
    site.serve_until_reforked(1).await;
    site.wait_recycled(2).await;
    let warm = site.see().await;
    assert_eq!(parent(warm.parent), zygote);
    kill(warm.parent, Signal::KILL);
    exit_of(warm.parent, &mut exits).await;
    // It continues. The next one is forked by the zygote, which had loaded the application.
    assert_eq!(site.see().await.pid, warm.pid);
    kill(warm.pid, Signal::KILL);
    let seen = loop {
        let seen = site.see().await;
        if seen.pid != warm.pid {
            break seen;
        }
    };
    assert_eq!((seen.parent, seen.filled_by), (zygote, 0));
    site.serve_until_reforked(2).await;
    site.pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn reload_during_and_after_refork_starts_from_new_zygote_and_loses_no_request() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let builder = reforking(2).before_refork("application:hold_refork").on_ready(on_ready);
    let site = Site::start_with(builder);
    let old = parent(next(&mut ready).await.pid);
    let load = Load::start(&site.pool, || post("/load", Body::empty()));
    site.serve_until_preparing().await;
    let pool = site.pool.clone();
    let reload = tokio::spawn(async move { pool.reload().await });
    site.allow_refork();
    reload.await.unwrap().unwrap();
    // A worker of the new generation may have become the mould meanwhile.
    let seen = site.see().await;
    let is_forked_again = parent(seen.parent) != id();
    let new = if is_forked_again { parent(seen.parent) } else { seen.parent };
    assert!(parent(new) == id() && new != old, "the old one would fork the old code");
    let reforks = site.pool.stats().reforks;
    while site.pool.stats().reforks == reforks {
        tokio::task::yield_now().await;
    }
    site.pool.reload().await.unwrap();
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_with_thread_or_connection_is_not_forked_and_none_is_asked_again() {
    for (path, function) in
        [("/thread", None), ("/connect", None), ("/load", Some("application:refuse_refork"))]
    {
        let (on_exit, mut exits) = hook::<(WorkerProcess, ExitStatus)>();
        let mut builder = reforking(1).on_exit(on_exit);
        if let Some(function) = function {
            builder = builder.before_refork(function);
        }
        let site = Site::start_with(builder);
        for _ in 0..AFTER {
            site.get(path).await.unwrap();
        }
        assert_eq!(next(&mut exits).await.0.number, 0, "{path}");
        for _ in 0..3 * AFTER {
            site.get(path).await.unwrap();
        }
        let stats = site.pool.stats();
        assert_eq!((stats.reforks, stats.recycled, stats.workers), (0, 1, 1), "{path}");
        site.end().await;
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_without_proc_serves_and_is_not_forked_again() {
    let site = Site::start_with(reforking(1).env("HIDE_PROC", "1"));
    while site.pool.stats().recycled < 1 {
        site.get("/load").await.unwrap();
    }
    for _ in 0..3 * AFTER {
        site.get("/load").await.unwrap();
    }
    let stats = site.pool.stats();
    assert_eq!((stats.reforks, stats.recycled, stats.workers), (0, 1, 1));
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn mould_whose_copies_do_not_become_ready_is_given_up() {
    let site = Site::start_with(reforking(2));
    while site.pool.stats().reforks == 0 {
        site.get("/uncopyable").await.unwrap();
    }
    // The workers that the supervisor replaces have successors of the zygote, whose parent is this process.
    site.wait_recycled(3).await;
    for _ in 0..3 * AFTER {
        assert_eq!(parent(site.see().await.parent), id());
    }
    let stats = site.pool.stats();
    assert_eq!((stats.reforks, stats.workers), (1, 2));
    site.end().await;
}

#[test]
fn refork_is_refused_where_a_worker_cannot_be_forked() {
    let refused = |builder: ProcessesBuilder<Python>| {
        let error = builder.workers(1).start().unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        error.source().unwrap().to_string()
    };
    let of = |builder: ProcessesBuilder<Python>| builder.refork_after(1);
    assert!(refused(of(asgi("application"))).contains("needs wsgi() with one thread"));
    assert!(refused(of(wsgi("application").threads(2))).contains("needs wsgi() with one thread"));
    assert!(refused(of(wsgi("application").preload(false))).contains("needs preload(true)"));
    let function = wsgi("application").before_refork("a:b");
    assert!(refused(function).contains("needs refork_after()"));
    let function = of(wsgi("application")).before_refork("a.b");
    assert!(refused(function).contains("needs module:function, not a.b"));
    let recycled = of(wsgi("application")).recycle_after(1, 100);
    assert!(refused(recycled).contains("needs recycle_after() above it, not 1"));
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn mould_and_its_workers_end_with_a_killed_parent() {
    if env::var_os(ROLE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let site = Site::start_with(reforking(1));
            site.serve_until_reforked(1).await;
            site.wait_recycled(2).await;
            let seen = site.see().await;
            println!("processes {} {} {}", seen.pid, seen.parent, parent(seen.parent));
            std::thread::park_timeout(LONG);
        });
    }
    let name = "python::refork::mould_and_its_workers_end_with_a_killed_parent";
    let (mut program, _files) = spawn_role(name);
    let pids = read_numbers(&mut program, "processes ", 3);
    kill_parent(program, pids);
}
