//! Zygotes of reloads that fail, and zygotes that do not answer.

use rustix::process::Signal;

use super::{
    super::processes::{hook, is_alive, kill, next, stop},
    pool::parent,
    *,
};

/// An ASGI application that writes down its zygote, and whose startup fails in a worker if the test wants that.
const APPLICATION: &str = r#"
import os

with open("zygotes", "a") as zygotes:
    zygotes.write("%d\n" % os.getpid())


async def application(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    result = "failed" if os.path.exists("fail") else "complete"
    await send({"type": "lifespan.startup." + result})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"#;

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn failed_reload_leaves_no_zygote() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("app.py"), APPLICATION).unwrap();
    let builder = asgi("app:application").workers(1).threads(1).directory(dir.path());
    let pool = builder.env("PYTHONDONTWRITEBYTECODE", "1").start().unwrap();
    fs::write(dir.path().join("fail"), "").unwrap();
    for _ in 0..2 {
        let error: BoxError = pool.reload().await.unwrap_err().into();
        assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::Exited);
    }
    let zygotes = fs::read_to_string(dir.path().join("zygotes")).unwrap();
    let zygotes: Vec<u32> = zygotes.lines().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(zygotes.len(), 3);
    let ended = async {
        while zygotes[1..].iter().any(|pid| is_alive(*pid)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, ended).await.expect("they are stopped");
    assert!(is_alive(zygotes[0]), "it forks the workers of the current generation");
    pool.shutdown(LONG).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn worker_is_replaced_although_its_stopped_zygote_does_not_reap_it() {
    let (on_ready, mut ready) = hook::<WorkerProcess>();
    let (on_exit, mut exits) = hook();
    let builder = wsgi("application").workers(1).on_ready(on_ready).on_exit(on_exit);
    let site = Site::start_bounded(builder, SHORT);
    let first = next(&mut ready).await;
    let zygote = parent(first.pid);
    stop(zygote);
    kill(first.pid, Signal::KILL);
    assert_eq!(next(&mut exits).await, (first, ExitStatus::Unknown));
    let second = next(&mut ready).await;
    assert_ne!(parent(second.pid), zygote);
    let expected = format!("/load {}", second.pid);
    assert_eq!(text(&site.get("/load").await.unwrap()), expected);
    site.pool.shutdown(LONG).await.unwrap();
    assert!(!is_alive(zygote));
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn zygote_reaps_workers_although_their_stop_timeout_is_zero() {
    let builder = wsgi("application").workers(1).recycle_after(1, 0);
    let site = Site::start_bounded(builder, Duration::ZERO);
    while site.pool.stats().recycled < 9 {
        site.get("/load").await.unwrap();
    }
    // On a busy machine it may take longer than the minimum, 1 s, and is replaced. It would be for each worker.
    let loaded = fs::read_to_string(site.dir.path().join("loaded")).unwrap();
    assert!(loaded.lines().count() < 4, "{loaded}");
    site.pool.shutdown(LONG).await.unwrap();
}
