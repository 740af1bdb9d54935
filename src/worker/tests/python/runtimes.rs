//! Workers that are assigned to the runtimes that serve connections.

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::net::serving::{Serving, is_serving};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `load` in a runtime that serves connections, until the worker is assigned to it.
fn serve_load(runtime: &Runtime, site: &Site) -> String {
    runtime.block_on(async {
        let _serving = Serving::new();
        for _ in 0..2 {
            assert!(site.get("/load").await.is_ok());
        }
        text(&site.get("/load").await.unwrap())
    })
}

/// Declares that a runtime serves connections, and lets the worker be assigned to it.
fn begin_serving(runtime: &Runtime, site: &Site) -> Serving {
    runtime.block_on(async {
        let serving = Serving::new();
        for _ in 0..2 {
            assert!(site.get("/load").await.is_ok());
        }
        serving
    })
}

/// Returns the worker that answers a request.
fn load(
    site: &Arc<Site>,
    path: &'static str,
) -> impl Future<Output = Result<String, BoxError>> + use<> {
    let site = site.clone();
    async move { site.get(path).await.map(|response| text(&response)) }
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn worker_moves_to_a_serving_runtime_and_continues_when_that_ends() {
    let site = Site::start("application");
    let (first, second, other) = (runtime(), runtime(), runtime());
    let answer = serve_load(&first, &site);
    assert_eq!(first.metrics().num_alive_tasks(), 1, "that of the worker");
    drop(first);
    assert_eq!(other.block_on(async { text(&site.get("/load").await.unwrap()) }), answer);
    assert_eq!(serve_load(&second, &site), answer);
    assert_eq!(second.metrics().num_alive_tasks(), 1);
    second.block_on(site.end());
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn serving_runtime_ends_after_the_requests_of_others_that_it_exchanges() {
    let site = Arc::new(Site::start("application"));
    let (first, other) = (runtime(), runtime());
    let serving = begin_serving(&first, &site);
    let handle = first.handle().clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        first.block_on(async {
            stopped.await.unwrap();
            serving.end().await;
        });
        first.metrics().num_alive_tasks()
    });
    other.block_on(async {
        let held = tokio::spawn(load(&site, "/hold-one?x"));
        let next = tokio::spawn(load(&site, "/load"));
        site.made("held-x").await;
        stop.send(()).unwrap();
        while is_serving(&handle) {
            tokio::task::yield_now().await;
        }
        fs::write(site.dir.path().join("go-x"), "").unwrap();
        let worker = format!("/load {}", held.await.unwrap().unwrap());
        assert_eq!(next.await.unwrap().unwrap(), worker);
        assert_eq!(thread.join().unwrap(), 0, "the worker has left it");
        assert_eq!(text(&site.get("/load").await.unwrap()), worker);
        assert_eq!(site.pool.stats().panics, 0);
        site.pool.shutdown(LONG).await.unwrap();
    });
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn serving_runtime_does_not_wait_for_a_request_without_a_caller() {
    let site = Arc::new(Site::start("application"));
    let first = runtime();
    let serving = begin_serving(&first, &site);
    first.block_on(async {
        let held = tokio::spawn(load(&site, "/hold-one?x"));
        site.made("held-x").await;
        held.abort();
        assert!(held.await.unwrap_err().is_cancelled());
        timeout(LONG, serving.end()).await.expect("it does not wait");
        fs::write(site.dir.path().join("go-x"), "").unwrap();
        assert!(site.get("/load").await.is_ok());
        site.pool.shutdown(LONG).await.unwrap();
    });
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn request_that_is_lost_with_its_runtime_is_bad_gateway() {
    let site = Arc::new(Site::start_bounded(wsgi("application").workers(1), SHORT));
    let (first, other) = (runtime(), runtime());
    let serving = begin_serving(&first, &site);
    other.block_on(async {
        let held = tokio::spawn(load(&site, "/hold-one?x"));
        tokio::task::yield_now().await;
        let holds = site.clone();
        let ends = std::thread::spawn(move || {
            first.block_on(holds.made("held-x"));
            drop((first, serving));
        });
        ends.join().unwrap();
        assert_eq!(kind(&held.await.unwrap().unwrap_err()), Kind::BadGateway);
        site.pool.shutdown(LONG).await.unwrap();
    });
}

#[test]
#[cfg_attr(not(peer_python3), ignore = "needs python3")]
fn worker_that_has_a_request_of_an_ended_runtime_is_replaced() {
    let site = Site::start_bounded(wsgi("application").workers(1).queue_timeout(LONG), SHORT);
    let (first, second) = (runtime(), runtime());
    let answer = serve_load(&first, &site);
    first.block_on(async {
        tokio::select! {
            _ = site.get("/hold-one?x") => panic!("it is answered"),
            _ = site.made("held-x") => {}
        }
    });
    drop(first);
    let other = second.block_on(async { text(&site.get("/load").await.unwrap()) });
    assert_ne!(other, answer);
    second.block_on(site.pool.shutdown(LONG)).unwrap();
}
