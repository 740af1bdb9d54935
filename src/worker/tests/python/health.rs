//! Checks of Python processes without requests.

use rustix::process::Signal;

use super::{
    super::{
        contract::{Placement, processes::InProcesses},
        processes::{hook, is_alive, kill, next, stop},
    },
    *,
};

const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until all lanes of a worker have been replaced.
async fn replaced(site: &Site, lanes: u64) {
    let replaced = async {
        while site.pool.stats().recycled < lanes {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, replaced).await.expect("it is replaced");
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn idle_python_process_that_hangs_is_replaced_before_it_gets_a_request() {
    let builders = [
        (wsgi("application"), "/echo?x", 1),
        (wsgi("application").preload(false), "/echo?x", 1),
        (wsgi("application").threads(2), "/echo?x", 2),
        (asgi("asgi_application").threads(2), "/other", 2),
    ];
    for (builder, path, lanes) in builders {
        let (on_ready, mut ready) = hook::<WorkerProcess>();
        let (on_exit, mut exits) = hook::<(WorkerProcess, ExitStatus)>();
        let builder = builder.workers(1).on_ready(on_ready).on_exit(on_exit);
        let builder = builder.health_check(INTERVAL).health_timeout(InProcesses::SHORT);
        let site = Site::start_bounded(builder, SHORT);
        let hung = next(&mut ready).await;
        stop(hung.pid);
        replaced(&site, lanes).await;
        assert_eq!(site.get(path).await.unwrap().status(), 200);
        while next(&mut exits).await.0 != hung {}
        assert!(!is_alive(hung.pid));
        assert_eq!((site.pool.stats().panics, site.pool.stats().abandoned), (0, 0));
        site.pool.shutdown(LONG).await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn event_loop_that_is_blocked_after_its_responses_is_replaced() {
    let builder = asgi("asgi_application").workers(1).threads(4);
    let builder = builder.health_check(INTERVAL).health_timeout(InProcesses::SHORT);
    let site = Site::start_bounded(builder, SHORT);
    assert_eq!(collect(site.get("/block-later").await.unwrap()).await, "answered");
    site.made("blocked").await;
    replaced(&site, 4).await;
    assert_eq!(collect(site.get("/other").await.unwrap()).await, "/other");
    site.end().await;
}

#[tokio::test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
async fn python_process_that_answers_again_after_a_failed_check_serves_on() {
    for (builder, lanes) in [
        (wsgi("application"), 1),
        (wsgi("application").threads(2), 2),
        (asgi("asgi_application").threads(2), 2),
    ] {
        let (on_ready, mut ready) = hook::<WorkerProcess>();
        let builder = builder.workers(1).preload(false).on_ready(on_ready).queue_timeout(LONG);
        let builder = builder.health_check(INTERVAL).health_timeout(InProcesses::SHORT);
        let site = Site::start_with(builder);
        let worker = next(&mut ready).await;
        fs::write(site.dir.path().join("hold-load"), "").unwrap();
        stop(worker.pid);
        // Its replacement takes long to load the application.
        while fs::read_to_string(site.dir.path().join("loaded")).unwrap().lines().count() < 2 {
            tokio::task::yield_now().await;
        }
        let waits = tokio::spawn(site.pool.clone().oneshot(get("/other")));
        kill(worker.pid, Signal::CONT);
        assert_eq!(collect(waits.await.unwrap().unwrap()).await, "/other");
        fs::remove_file(site.dir.path().join("hold-load")).unwrap();
        replaced(&site, lanes).await;
        assert_eq!(collect(site.get("/other").await.unwrap()).await, "/other");
        site.end().await;
    }
}
