//! Invalidations over Redis, which is killed, restarted and stopped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::Signal;
use tower::{Layer, ServiceExt, service_fn};

use super::redis_server::RedisServer;
use crate::{
    Body, BoxError, Request, Response,
    cache::{CacheLayer, Key, Purge, PurgeChannel},
    tests::support::{TIMEOUT, within},
};

const TOKEN: &str = "a token of the test";

/// A front with a cache, whose origin counts requests.
struct Front {
    layer: CacheLayer,
    fetches: Arc<AtomicUsize>,
    channel: PurgeChannel,
}

impl Front {
    fn new(redis: &RedisServer, timeout: Duration) -> Self {
        let layer = CacheLayer::new();
        let channel = layer.handle().purge_channel(redis.url()).timeout(timeout).connect().unwrap();
        Self { layer, fetches: Arc::default(), channel }
    }

    /// Requests a path. Returns whether the origin was asked.
    async fn fetches(&self, path: &str) -> bool {
        let (before, count) = (self.fetches.load(Relaxed), self.fetches.clone());
        let site = self.layer.layer(service_fn(move |request: Request| {
            count.fetch_add(1, Relaxed);
            async move {
                let is_grouped = request.uri().path().starts_with("/g");
                let response = Response::builder()
                    .header("cache-control", "max-age=1000")
                    .header("cache-groups", if is_grouped { "\"g\"" } else { "\"other\"" });
                Ok::<_, BoxError>(response.body(Body::from("content"))?)
            }
        }));
        let request = Request::get(format!("http://a{path}")).body(Body::empty()).unwrap();
        assert_eq!(site.oneshot(request).await.unwrap().status(), 200);
        self.fetches.load(Relaxed) > before
    }

    async fn until(&self, what: impl Fn(crate::cache::PurgeChannelStats) -> bool) {
        within(async {
            while !what(self.channel.stats()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Two fronts that are subscribed, and send messages also on a machine that is busy for seconds.
async fn fronts(redis: &RedisServer) -> [Front; 2] {
    fronts_with(redis, TIMEOUT).await
}

async fn fronts_with(redis: &RedisServer, timeout: Duration) -> [Front; 2] {
    let fronts = [Front::new(redis, timeout), Front::new(redis, timeout)];
    for front in &fronts {
        front.until(|stats| stats.is_subscribed).await;
        assert_eq!(front.channel.stats().resets, 1, "it may have missed messages before its start");
    }
    fronts
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn invalidation_of_one_front_is_carried_out_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let [a, b] = fronts(&redis).await;
    let paths = ["/k?x=%26", "/p/1", "/g", "/other"];
    let key = Key::new("http", "a", "/k", Some("x=%26")).unwrap();
    for (i, path) in paths.into_iter().enumerate() {
        for path in paths {
            for front in [&a, &b] {
                front.fetches(path).await;
                assert!(!front.fetches(path).await);
            }
        }
        match i {
            0 => a.channel.delete(&key, Purge::Hard).await.unwrap(),
            1 => a.channel.delete_prefix("http://a/p/", Purge::Hard).await.unwrap(),
            2 => a.channel.invalidate("g", Purge::Soft).await.unwrap(),
            _ => {
                // By request, at another front.
                let request = Request::post("/purge?url=http://a/other");
                let request = request.header("authorization", format!("Bearer {TOKEN}"));
                let service = a.channel.purge_service(TOKEN);
                let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
                assert_eq!(response.status(), 204);
            }
        }
        b.until(|stats| stats.received == i as u64 + 1).await;
        for front in [&a, &b] {
            for other in paths {
                assert_eq!(front.fetches(other).await, other == path, "{other} after {path}");
            }
        }
    }
    // Its own messages are not carried out again.
    assert_eq!((a.channel.stats().received, a.channel.stats().sent), (0, 4));
    assert_eq!((a.channel.stats().resets, b.channel.stats().resets), (1, 1));
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn front_that_has_missed_messages_invalidates_everything_and_others_keep_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let [a, b] = fronts(&redis).await;
    a.channel.invalidate("g", Purge::Hard).await.unwrap();
    b.until(|stats| stats.received == 1).await;
    assert!(b.fetches("/x").await);

    // A connection that broke without a message in the meantime: nothing is invalidated.
    let connected = |stats: crate::cache::PurgeChannelStats| stats.is_subscribed;
    redis.call("CLIENT KILL TYPE pubsub").await;
    b.until(|stats| !connected(stats)).await;
    assert!(!b.fetches("/x").await, "it is served meanwhile");
    b.until(connected).await;
    assert_eq!(b.channel.stats().resets, 1);
    assert!(!b.fetches("/x").await);

    // With one: everything is stale.
    redis.call("CLIENT KILL TYPE pubsub").await;
    b.until(|stats| !connected(stats)).await;
    within(async { while a.channel.invalidate("h", Purge::Hard).await.is_err() {} }).await;
    // Both if it was sent between the subscription and the look for missed ones.
    b.until(|stats| connected(stats) && stats.resets + stats.received >= 3).await;
    assert!(b.channel.stats().resets == 1 || b.fetches("/x").await);

    // A restart without its data.
    let (before, resets) = (b.fetches("/y").await, b.channel.stats().resets);
    assert!(before);
    redis.kill().await;
    b.until(|stats| !connected(stats)).await;
    assert!(a.channel.invalidate("g", Purge::Hard).await.is_err());
    assert!(a.channel.stats().failed >= 1);
    let service = a.channel.purge_service(TOKEN);
    let request = Request::post("/purge?all").header("authorization", format!("Bearer {TOKEN}"));
    let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 503, "the caller learns that the others do not know");
    assert!(!b.fetches("/y").await, "it is served without Redis");
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    b.until(connected).await;
    assert!(b.channel.stats().resets > resets);
    assert!(b.fetches("/y").await);
    a.until(connected).await;
    // The connection for messages is made again, too.
    let received = b.channel.stats().received;
    within(async { while a.channel.invalidate("other", Purge::Hard).await.is_err() {} }).await;
    b.until(|stats| stats.received > received).await;
    assert!(b.fetches("/y").await);
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn redis_without_a_last_message_may_have_lost_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let [_a, b] = fronts(&redis).await;
    assert!(b.fetches("/x").await);
    // Another front may have sent a message before Redis was restarted.
    redis.kill().await;
    b.until(|stats| !stats.is_subscribed).await;
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    b.until(|stats| stats.is_subscribed).await;
    assert_eq!(b.channel.stats().resets, 2);
    assert!(b.fetches("/x").await);
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn replica_that_became_the_primary_may_have_lost_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let [a, b] = fronts(&redis).await;
    a.channel.invalidate("g", Purge::Hard).await.unwrap();
    b.until(|stats| stats.received == 1).await;
    assert!(b.fetches("/x").await);
    // As a replica that had the last message that this front knows, and is promoted.
    redis.call("REPLICAOF 127.0.0.1 1").await;
    redis.call("REPLICAOF NO ONE").await;
    redis.call("CLIENT KILL TYPE pubsub").await;
    b.until(|stats| stats.resets == 2 && stats.is_subscribed).await;
    assert!(b.fetches("/x").await);
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn first_invalidation_after_a_restart_of_redis_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let [a, _b] = fronts(&redis).await;
    a.channel.invalidate("g", Purge::Hard).await.unwrap();
    redis.kill().await;
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    a.channel.invalidate("g", Purge::Hard).await.unwrap(); // over a connection that was broken meanwhile
    assert_eq!((a.channel.stats().sent, a.channel.stats().failed), (2, 0));
    redis.kill().await;
}

#[tokio::test]
#[cfg_attr(not(peer_redis), ignore = "redis-server is not installed")]
async fn stopped_redis_is_noticed_and_missed_messages_are_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start(dir.path(), "redis").await;
    let [a, b] = fronts_with(&redis, Duration::from_secs(1)).await;
    assert!(b.fetches("/x").await);
    redis.signal(Signal::STOP);
    let failed = a.channel.invalidate("other", Purge::Hard).await;
    assert!(failed.is_err(), "Redis has not answered in time");
    assert!(!b.fetches("/x").await, "it is served meanwhile");
    b.until(|stats| !stats.is_subscribed).await;
    redis.signal(Signal::CONT);
    within(async { while a.channel.invalidate("other", Purge::Hard).await.is_err() {} }).await;
    b.until(|stats| stats.is_subscribed).await;
    within(async {
        while !b.fetches("/x").await {
            tokio::task::yield_now().await
        }
    })
    .await;
    redis.kill().await;
}
