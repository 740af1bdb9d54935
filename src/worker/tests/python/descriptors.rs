//! Python processes without free descriptors.

use std::env;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::sync::mpsc::error::TryRecvError;

use super::{
    super::processes::{ROLE, hook, in_role, kill, next},
    pool::parent,
    *,
};
use crate::conn::testing::Lines;

/// Sends bodies that need a descriptor to a worker that has none.
async fn send_bodies(site: &Site) {
    let before = collect_load(site).await;
    collect(site.get("/take-descriptors").await.unwrap()).await;
    for _ in 0..3 {
        let (sender, stream) = Body::channel(None);
        sender.send(Bytes::from_static(b"first")).unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(100_000).unwrap();
        let file = Body::file(FileSlice::new(file, 0, 100_000));
        for body in [stream, file] {
            let answer = timeout(LONG / 6, site.call(post("/read", body))).await;
            let error = answer.expect("it fails at once").unwrap_err();
            let ApplicationError::Raised { message } = cause(&error) else { panic!("{error}") };
            assert!(message.contains("descriptor"), "{message}");
        }
    }
    assert_eq!(collect_load(site).await, before, "it is the same process");
}

/// The response to `/load`, which names the process of a WSGI worker.
async fn collect_load(site: &Site) -> String {
    collect(site.get("/load").await.unwrap()).await
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_without_descriptors_fails_requests_that_need_one() {
    for builder in [
        wsgi("application").workers(1),
        wsgi("application").workers(1).threads(2),
        asgi("asgi_application").workers(1).threads(1),
    ] {
        let site = Site::start_with(builder.queue_timeout(LONG));
        send_bodies(&site).await;
        site.end().await;
    }
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn zygote_without_descriptors_forks_later() {
    if env::var_os(ROLE).is_some() {
        // The thread of the pool uses the global subscriber.
        let lines = Lines::default();
        tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(fork_without_descriptors(&lines));
    }
    let output = in_role("python::descriptors::zygote_without_descriptors_forks_later").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn fork_without_descriptors(lines: &Lines) {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let site = Site::start_with(wsgi("application").workers(1).on_ready(on_ready));
    let mut worker = next(&mut ready).await;
    let zygote = parent(worker.pid);
    let failures = || {
        let lines = lines.of("vestibule::worker");
        lines.iter().filter(|line| line.contains("cannot start a worker")).count()
    };
    // It needs three for the worker, and one for the reply.
    for room in 0..5 {
        let closed = async {
            // Standard input, output and error, and the control socket.
            while fs::read_dir(format!("/proc/{zygote}/fd")).unwrap().count() > 4 {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, closed).await.expect("it closes those of the last worker");
        let is_free = |fd: &u64| !fs::exists(format!("/proc/{zygote}/fd/{fd}")).unwrap();
        let first_above = (0..).filter(is_free).nth(room).unwrap();
        let before = failures();
        let limit = set_descriptors(zygote, Some(first_above));
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
        assert_eq!(started.is_some(), room == 4, "{room}");
        set_descriptors(zygote, limit);
        worker = match started {
            Some(worker) => worker,
            None => next(&mut ready).await,
        };
        assert_eq!(parent(worker.pid), zygote);
        assert_eq!(text(&site.get("/").await.unwrap()), "/");
    }
    site.end().await;
}

/// Sets the limit of descriptors of a process. Returns the previous one.
fn set_descriptors(pid: u32, limit: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(pid as i32);
    let new =
        Rlimit { current: limit, maximum: rustix::process::getrlimit(Resource::Nofile).maximum };
    prlimit(pid, Resource::Nofile, new).unwrap().current
}
