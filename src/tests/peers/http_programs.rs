//! Servers in other languages as worker processes, with their usual options.

use std::fs;

use http_body_util::BodyExt;
use tokio::{sync::watch, task::JoinSet};
use tower::ServiceExt;

use crate::{
    Body, BoxError, Request,
    tests::support::{TIMEOUT, within},
    worker::{self, Processes, ProcessesBuilder},
};

const NODE: &str = "require('http').createServer((request, response) => {
    let body = '';
    request.on('data', data => body += data).on('end', () => response.end(`${request.url} ${body}`));
}).listen({ fd: 3 })";

const PUMA: &str = "run lambda { |env|
    [200, { 'content-type' => 'text/plain' }, [\"#{env['PATH_INFO']} #{env['rack.input'].read}\"]]
}";

/// Sends a request whose response has its path and its body.
async fn echo(pool: Processes, n: usize) -> Result<(), BoxError> {
    let request = Request::post(format!("/{n}")).header("host", "a");
    let request = request.body(Body::from(format!("body {n}"))).unwrap();
    let response = pool.oneshot(request).await?;
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await?.to_bytes();
    assert_eq!(body, format!("/{n} body {n}"));
    Ok(())
}

/// Checks concurrent requests while the processes are reloaded and recycled.
async fn check(builder: ProcessesBuilder) {
    let pool = builder.workers(2).concurrency(4).recycle_after(500, 100).start().unwrap();
    assert_eq!(pool.stats().workers, 8);
    let (stop, stopped) = watch::channel(false);
    let mut load = JoinSet::new();
    for _ in 0..16 {
        let (pool, stopped) = (pool.clone(), stopped.clone());
        load.spawn(async move {
            for n in 0.. {
                if *stopped.borrow() {
                    break;
                }
                echo(pool.clone(), n).await.unwrap();
            }
        });
    }
    for _ in 0..2 {
        within(pool.reload()).await.unwrap();
    }
    within(async {
        while pool.stats().recycled < 8 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.send(true).unwrap();
    within(load.join_all()).await;
    assert_eq!((pool.stats().panics, pool.stats().unexpected_exits), (0, 0));
    within(pool.shutdown(TIMEOUT)).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_node), ignore = "apt-get install nodejs")]
async fn node_on_the_inherited_socket_is_reloaded_without_a_failed_request() {
    check(worker::process(worker::Command::new("node").args(["-e", NODE]))).await;
}

#[tokio::test]
#[cfg_attr(not(peer_puma), ignore = "apt-get install puma")]
async fn puma_on_its_own_socket_is_reloaded_without_a_failed_request() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.ru"), PUMA).unwrap();
    let puma = worker::Command::new("puma").args(["--bind", "unix://{socket}", "--threads", "4:4"]);
    check(worker::process(puma.current_dir(dir.path())).socket_path()).await;
}
