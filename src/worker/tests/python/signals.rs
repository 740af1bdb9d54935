//! `SIGTERM` from others than the front.

use rustix::process::Signal;

use super::{
    super::processes::{hook, is_alive, kill, next},
    pool::parent,
    *,
};

/// systemd signals all processes of a service at once, while the front still completes its requests.
#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn signal_to_all_processes_ends_no_request() {
    for (builder, held) in [
        (wsgi("application").workers(1), "held-"),
        (wsgi("application").workers(1).threads(2), "held-"),
        (wsgi("application").workers(1).preload(false), "held-"),
        (asgi("asgi_application").workers(1), "held"),
    ] {
        let (on_ready, mut ready) = hook::<WorkerProcess>();
        let (on_exit, mut exits) = hook();
        let site = Site::start_with(builder.on_ready(on_ready).on_exit(on_exit));
        let worker = next(&mut ready).await;
        let call = tokio::spawn(site.pool.clone().oneshot(post("/hold", Body::empty())));
        site.made(held).await;
        let zygote = parent(worker.pid);
        for pid in [worker.pid, zygote].into_iter().filter(|pid| *pid != std::process::id()) {
            kill(pid, Signal::TERM);
        }
        fs::write(site.dir.path().join("go"), "").unwrap();
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
        // The front needs its workers until it has completed all requests.
        assert_eq!(site.get("/hold").await.unwrap().status(), 200);
        assert!(is_alive(worker.pid) && is_alive(zygote));
        assert_eq!(site.pool.stats().unexpected_exits, 0);
        site.end().await;
        let (exited, status) = next(&mut exits).await;
        assert_eq!(exited, worker);
        // The interpreter restores the default action when it ends, while the front sends its own SIGTERM.
        let is_orderly = [ExitStatus::Code(0), ExitStatus::Signal(15)].contains(&status);
        assert!(is_orderly, "{status:?}");
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn signal_ends_a_process_that_the_application_has_forked() {
    let site = Site::start("application");
    assert_eq!(text(&site.get("/fork-and-end").await.unwrap()), "7");
    site.end().await;
}
