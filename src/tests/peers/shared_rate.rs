//! A rate limit that several fronts share in Redis, which is killed, restarted, stopped and replaced by its
//! replica.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::Signal;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneService};

use super::{nginx::free_address, redis_server::RedisServer};
use crate::{
    Body, BoxError, Request, Response,
    layer::{RescueLayer, SharedRateLimitLayer},
    net::{Address, Drain, Listener},
    policy::pick::First,
    tests::support::within,
    upstream::TcpBalance,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A front with a limit for each path.
fn front(url: impl Into<String>, rate: u32, burst: u32) -> SharedRateLimitLayer {
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
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let fronts = [front(redis.url(), 1, 10), front(redis.url(), 1, 10)];
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

    redis.kill().await;
    let mut passed = 0;
    for _ in 0..20 {
        passed += usize::from(send(&fronts[0], "/c").await.status() == 200);
    }
    assert_eq!(passed, 10, "the limit of the front alone");
    let stats = fronts[0].stats();
    assert!(stats.is_paused && stats.failures >= 1 && stats.local == 10, "{stats:?}");

    let mut redis = RedisServer::start(dir.path(), "redis").await;
    // The first request after the pause asks again. Its connection may still be the broken one.
    let before = fronts[0].stats().allowed;
    for i in 0..5 {
        until(|| !fronts[0].stats().is_paused).await;
        assert_eq!(send(&fronts[0], &format!("/d{i}")).await.status(), 200);
        if fronts[0].stats().allowed > before {
            break;
        }
    }
    assert!(fronts[0].stats().allowed > before, "{:?}", fronts[0].stats());
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn client_is_not_refused_because_the_clock_of_redis_was_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let front = front(redis.url(), 1, 2);
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    // Times of another clock, and what no limit has written.
    for value in ["9999999999999999.000", "-1", "nan", "text"] {
        let key = format!("vestibule:rate:/{value}");
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value);
        set.query_async::<()>(&mut connection).await.unwrap();
        let before = front.stats().allowed;
        assert_eq!(send(&front, &format!("/{value}")).await.status(), 200);
        assert_eq!(front.stats().allowed, before + 1, "{value}: {:?}", front.stats());
    }
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn stopped_redis_under_load_is_no_error_for_any_client() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let limit = front(redis.url(), 1_000_000_000, 1_000_000);
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
    redis.signal(Signal::STOP);
    until(|| limit.stats().is_paused).await;
    let before = sent.load(Relaxed);
    until(|| sent.load(Relaxed) >= before + 1000).await;
    assert!(limit.stats().failures >= 1 && limit.stats().local > 500, "{:?}", limit.stats());
    redis.signal(Signal::CONT);
    let before = limit.stats().allowed;
    until(|| limit.stats().allowed >= before + 100).await;
    ends.store(true, Relaxed);
    for client in clients {
        within(client).await.unwrap();
    }
    redis.kill().await;
}

/// Waits until the replica has a key.
async fn replicated(replica: &RedisServer, key: &str) {
    within(async {
        while replica.call(&format!("EXISTS {key}")).await != ":1\r\n" {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn promoted_replica_knows_the_rates_that_its_primary_counted() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_address().await;
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let listens = ["--bind", &ip, "--port", &port];
    let mut primary = RedisServer::start_with(dir.path(), "primary", &listens).await;
    let follows = ["--port", "0", "--replicaof", &ip, &port];
    let mut replica = RedisServer::start_with(dir.path(), "replica", &follows).await;
    // A balancer of TCP in front of both, which uses the second when the first is gone.
    let servers = [primary.address(), replica.address()];
    let balance = TcpBalance::builder(servers).policy(First::new()).build().unwrap();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
    let Address::Tcp(addr) = listener.local_addr().unwrap() else { panic!("it is TCP") };
    let drain = Drain::new();
    let watched = drain.clone();
    let task = tokio::spawn(async move { balance.serve(listener, &watched).await });

    let fronts = [(); 2].map(|()| front(format!("redis://{addr}/"), 1, 4));
    for i in 0..4 {
        assert_eq!(send(&fronts[i % 2], "/a").await.status(), 200, "{i}");
    }
    assert_eq!(send(&fronts[0], "/a").await.status(), 429);
    replicated(&replica, "vestibule:rate:/a").await;

    primary.kill().await;
    // Until it is promoted the replica refuses to write: each front limits by itself.
    for i in 0..4 {
        assert_eq!(send(&fronts[0], "/b").await.status(), 200, "{i}");
    }
    assert_eq!(send(&fronts[0], "/b").await.status(), 429, "the limit of the front alone");
    assert_eq!(replica.call("REPLICAOF NO ONE").await, "+OK\r\n");
    // The first requests after a pause ask again, on new connections.
    for (i, front) in fronts.iter().enumerate() {
        let before = front.stats().allowed;
        for n in 0..20 {
            until(|| !front.stats().is_paused).await;
            assert_eq!(send(front, &format!("/c{i}{n}")).await.status(), 200);
            if front.stats().allowed > before {
                break;
            }
        }
        assert!(front.stats().allowed > before, "{:?}", front.stats());
    }
    // Both fronts had two requests for the path, of four: only the replica knows of all.
    for front in &fronts {
        let refused = front.stats().refused;
        assert_eq!(send(front, "/a").await.status(), 429);
        assert_eq!(front.stats().refused, refused + 1, "by Redis and not by the front itself");
    }
    drain.begin();
    replica.kill().await;
    within(drain.ended()).await;
    task.await.unwrap().unwrap();
}
