//! A rate limit that several fronts share in Redis, which is killed, restarted and stopped.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{net::UnixStream, process::Child};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

use super::{listening, program};
use crate::{
    Body, BoxError, Request, Response,
    layer::{RescueLayer, SharedRateLimitLayer},
    tests::support::within,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A Redis on a Unix socket in a directory.
async fn start(dir: &Path) -> Child {
    let socket = dir.join("redis");
    let mut command = program("redis-server");
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"]).arg(dir);
    command.arg("--unixsocket").arg(&socket).stdout(std::process::Stdio::null());
    let mut child = command.spawn().expect("redis-server is installed");
    listening(&mut child, async || UnixStream::connect(&socket).await.is_ok()).await;
    child
}

/// A front with a limit for each path.
fn front(dir: &Path, rate: u32, burst: u32) -> SharedRateLimitLayer {
    let url = format!("redis+unix://{}", dir.join("redis").display());
    // A busy machine may take longer than the default.
    let builder = SharedRateLimitLayer::builder(url, rate, HOUR, burst);
    let builder = builder.timeout(Duration::from_secs(1));
    builder.per_key(|head| Some(head.uri.path().to_owned())).unwrap()
}

async fn send(limit: &SharedRateLimitLayer, path: &str) -> Response {
    let app = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty())));
    let site = BoxCloneService::new(RescueLayer::new().layer(limit.layer(app)));
    site.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()
}

async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn fronts_share_a_rate_and_each_limits_by_itself_without_redis() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = start(dir.path()).await;
    let fronts = [front(dir.path(), 1, 10), front(dir.path(), 1, 10)];
    for i in 0..10 {
        assert_eq!(send(&fronts[i % 2], "/a").await.status(), 200, "{i}");
    }
    for front in &fronts {
        let refused = send(front, "/a").await;
        assert_eq!(refused.status(), 429);
        let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((3590..=3600).contains(&seconds), "{seconds}");
        assert_eq!((front.stats().allowed, front.stats().refused), (5, 1));
    }
    assert_eq!(send(&fronts[0], "/b").await.status(), 200, "another client");

    redis.start_kill().unwrap();
    within(redis.wait()).await.unwrap();
    let mut passed = 0;
    for _ in 0..20 {
        passed += usize::from(send(&fronts[0], "/c").await.status() == 200);
    }
    assert_eq!(passed, 10, "the limit of the front alone");
    let stats = fronts[0].stats();
    assert!(stats.is_paused && stats.failures >= 1 && stats.local == 10, "{stats:?}");

    let mut redis = start(dir.path()).await;
    // The first request after the pause calls Redis. The connection may still be the broken one.
    let before = fronts[0].stats().allowed;
    for i in 0..5 {
        until(|| !fronts[0].stats().is_paused).await;
        assert_eq!(send(&fronts[0], &format!("/d{i}")).await.status(), 200);
        if fronts[0].stats().allowed > before {
            break;
        }
    }
    assert!(fronts[0].stats().allowed > before, "{:?}", fronts[0].stats());
    redis.start_kill().unwrap();
    within(redis.wait()).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn stopped_redis_under_load_is_no_error_for_any_client() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = start(dir.path()).await;
    let pid = Pid::from_raw(redis.id().unwrap().try_into().unwrap()).unwrap();
    let limit = front(dir.path(), 1_000_000_000, 1_000_000);
    let (ends, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..50)
        .map(|client| {
            let (limit, ends, sent) = (limit.clone(), ends.clone(), sent.clone());
            tokio::spawn(async move {
                while !ends.load(Relaxed) {
                    assert_eq!(send(&limit, &format!("/{client}")).await.status(), 200);
                    sent.fetch_add(1, Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    until(|| limit.stats().allowed > 100).await;
    kill_process(pid, Signal::STOP).unwrap();
    until(|| limit.stats().is_paused).await;
    let before = sent.load(Relaxed);
    until(|| sent.load(Relaxed) >= before + 1000).await;
    assert!(limit.stats().failures >= 1 && limit.stats().local > 500, "{:?}", limit.stats());
    kill_process(pid, Signal::CONT).unwrap();
    let before = limit.stats().allowed;
    until(|| limit.stats().allowed >= before + 100).await;
    ends.store(true, Relaxed);
    for client in clients {
        within(client).await.unwrap();
    }
    redis.start_kill().unwrap();
    within(redis.wait()).await.unwrap();
}
