//! Workers that are assigned to the runtimes that serve connections.

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::net::serving::Serving;

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
