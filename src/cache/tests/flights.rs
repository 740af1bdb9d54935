//! Requests that share a fetch.

use super::*;
use crate::body::CHANNEL_CAPACITY;

/// Returns the next piece of a body as text.
async fn piece(body: &mut Body) -> Option<String> {
    let data = body.frame().await?.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

async fn send(site: &Site, path: &'static str) -> Response {
    site.clone().oneshot(get(path, &[])).await.unwrap()
}

/// Sends a request in a task of its own.
fn spawn(site: &Site, request: Request) -> tokio::task::JoinHandle<Result<Response, BoxError>> {
    tokio::spawn(site.clone().oneshot(request))
}

#[tokio::test(start_paused = true)]
async fn follower_reads_while_the_leader_fills() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    let mut leader = send(&site, "/").await.into_body();
    let sender = senders.lock().unwrap().pop().unwrap();
    sender.send("one ".into()).unwrap();
    assert_eq!(piece(&mut leader).await.unwrap(), "one ");
    let mut follower = send(&site, "/").await.into_body();
    assert_eq!(piece(&mut follower).await.unwrap(), "one ");
    sender.send("two".into()).unwrap();
    assert_eq!(piece(&mut follower).await.unwrap(), "two");
    assert_eq!(piece(&mut leader).await.unwrap(), "two");
    sender.finish(None);
    assert_eq!((piece(&mut leader).await, piece(&mut follower).await), (None, None));
    assert_eq!(fetch(&site, "/").await, "one two");
    let stats = layer.handle().stats();
    assert_eq!((stats.misses, stats.collapsed, stats.hits, origin.count()), (1, 1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_nothing_does_not_slow_the_fill() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let site = site(&CacheLayer::new(), &origin);
    let leader = send(&site, "/").await;
    let sender = senders.lock().unwrap().pop().unwrap();
    let piece = "x".repeat(CHANNEL_CAPACITY);
    for _ in 0..8 {
        sender.ready().await.unwrap();
        sender.send(piece.clone().into()).unwrap();
    }
    sender.finish(None);
    settle().await;
    assert_eq!(fetch(&site, "/").await.len(), 8 * CHANNEL_CAPACITY);
    assert_eq!(text(leader).await.len(), 8 * CHANNEL_CAPACITY);
    assert_eq!(origin.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn fill_continues_after_its_client_disconnects() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let site = site(&CacheLayer::new(), &origin);
    drop(send(&site, "/").await);
    let sender = senders.lock().unwrap().pop().unwrap();
    sender.send("whole".into()).unwrap();
    sender.finish(None);
    settle().await;
    assert_eq!(fetch(&site, "/").await, "whole");
}

#[tokio::test(start_paused = true)]
async fn follower_takes_over_when_the_leader_is_dropped_before_the_head() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]).delayed(SEC);
    let site = site(&CacheLayer::new(), &origin);
    let leader = spawn(&site, get("/", &[]));
    settle().await;
    let followers: Vec<_> = (0..3).map(|_| spawn(&site, get("/", &[]))).collect();
    settle().await;
    leader.abort();
    for follower in followers {
        assert_eq!(text(follower.await.unwrap().unwrap()).await, "2");
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn private_response_releases_followers_and_later_requests_do_not_wait() {
    let origin = Origin::with_fields(&[("cache-control", "private")]).delayed(SEC);
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    let burst = async |n: usize| {
        let began = tokio::time::Instant::now();
        let all: Vec<_> = (0..n).map(|_| spawn(&site, get("/", &[]))).collect();
        let mut texts = Vec::new();
        for response in all {
            texts.push(text(response.await.unwrap().unwrap()).await);
        }
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), n, "each has its own response");
        began.elapsed().as_secs()
    };
    assert_eq!(burst(5).await, 2, "the leader, then all others at once");
    assert_eq!(burst(5).await, 1, "all at once");
    tokio::time::advance(HIT_FOR_MISS).await;
    assert_eq!(burst(5).await, 2);
    assert_eq!(layer.handle().stats().collapsed, 0);
}

#[tokio::test(start_paused = true)]
async fn follower_of_a_slow_leader_is_forwarded_after_a_time() {
    let origin =
        Origin::new(|_, n| Ok(response(&[("cache-control", "max-age=60")], n.to_string())))
            .delayed(60 * SEC);
    let site = site(&CacheLayer::builder().fill_timeout(2 * SEC).build(), &origin);
    let leader = spawn(&site, get("/", &[]));
    settle().await;
    let mut follower = spawn(&site, get("/", &[]));
    settle().await;
    tokio::time::advance(SEC).await;
    settle().await;
    assert_eq!(origin.count(), 1);
    tokio::time::advance(SEC).await;
    settle().await;
    assert_eq!(origin.count(), 2);
    assert_eq!(text((&mut follower).await.unwrap().unwrap()).await, "2");
    assert_eq!(text(leader.await.unwrap().unwrap()).await, "1");
}

#[tokio::test(start_paused = true)]
async fn followers_of_other_variants_share_a_fetch_of_their_own() {
    let origin =
        Origin::with_fields(&[("cache-control", "max-age=60"), ("vary", "x")]).delayed(SEC);
    let site = site(&CacheLayer::new(), &origin);
    let all: Vec<_> =
        (0..30).map(|i| (i, spawn(&site, get("/", &[("x", ["a", "b", "c"][i % 3])])))).collect();
    let mut by_variant = [const { String::new() }; 3];
    for (i, response) in all {
        let text = text(response.await.unwrap().unwrap()).await;
        let known = &mut by_variant[i % 3];
        assert!(known.is_empty() || *known == text);
        *known = text;
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_requests_for_an_expired_response_cause_one_fetch() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=1")]).delayed(SEC / 10);
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    assert_eq!(fetch(&site, "/").await, "1");
    tokio::time::advance(SEC).await;
    let all: Vec<_> = (0..10_000).map(|_| spawn(&site, get("/", &[]))).collect();
    for response in all {
        assert_eq!(text(response.await.unwrap().unwrap()).await, "2");
    }
    assert_eq!(origin.count(), 2);
    let stats = layer.handle().stats();
    assert_eq!((stats.fetches, stats.followers), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn fetch_that_began_before_an_invalidation_is_not_stored() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60"), ("surrogate-key", "g")])
        .delayed(SEC);
    let layer = CacheLayer::new();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let key = Key::new("http", "site.example", "/", None).unwrap();
    let invalidations: [&dyn Fn(); 4] = [
        &|| cache.delete(&key, Purge::Hard),
        &|| cache.delete_prefix("http://site", Purge::Hard),
        &|| cache.invalidate("g", Purge::Hard),
        &|| cache.delete_all(Purge::Hard),
    ];
    for (i, invalidate) in invalidations.into_iter().enumerate() {
        let before = spawn(&site, get("/", &[]));
        settle().await;
        invalidate();
        // A later request does not follow the earlier fetch.
        assert_eq!(fetch(&site, "/").await, (2 * i + 2).to_string());
        assert_eq!(text(before.await.unwrap().unwrap()).await, (2 * i + 1).to_string());
        assert_eq!(fetch(&site, "/").await, (2 * i + 2).to_string());
        cache.delete_all(Purge::Hard);
    }
}

#[tokio::test(start_paused = true)]
async fn truncated_content_is_not_stored() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60"), ("content-length", "3")]);
    let site = site(&CacheLayer::new(), &origin);
    let leader = send(&site, "/").await;
    let follower = send(&site, "/").await;
    let sender = senders.lock().unwrap().pop().unwrap();
    sender.send("a".into()).unwrap();
    drop(sender);
    for response in [leader, follower] {
        assert!(response.into_body().collect().await.is_err());
    }
    let short = send(&site, "/").await;
    let sender = senders.lock().unwrap().pop().unwrap();
    sender.send("ab".into()).unwrap();
    sender.finish(None);
    assert!(short.into_body().collect().await.is_err());
    let third = send(&site, "/").await;
    let sender = senders.lock().unwrap().pop().unwrap();
    sender.send("abc".into()).unwrap();
    sender.finish(None);
    assert_eq!(text(third).await, "abc");
    settle().await;
    assert_eq!(fetch(&site, "/").await, "abc");
    assert_eq!(origin.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn too_large_content_is_read_at_the_pace_of_its_slowest_client() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let layer = CacheLayer::builder().max_object(100_000).build();
    let site = site(&layer, &origin);
    let (leader, follower) = (send(&site, "/").await, send(&site, "/").await);
    let sender = senders.lock().unwrap().pop().unwrap();
    let piece = "x".repeat(50_000);
    let mut sent = 0;
    loop {
        settle().await;
        let is_ready = tokio::time::timeout(SEC, sender.ready()).await;
        if is_ready.is_err() {
            break;
        }
        sender.send(piece.clone().into()).unwrap();
        sent += 1;
        assert!(sent < 20, "the origin is read although no client reads");
    }
    let read = tokio::spawn(text(leader));
    settle().await;
    assert!(tokio::time::timeout(SEC, sender.ready()).await.is_err(), "the follower reads nothing");
    let other = tokio::spawn(text(follower));
    sender.ready().await.unwrap();
    sender.finish(None);
    assert_eq!(
        (read.await.unwrap().len(), other.await.unwrap().len()),
        (sent * 50_000, sent * 50_000)
    );
    let next = send(&site, "/").await;
    assert_eq!((origin.count(), layer.handle().stats().keys), (2, 0));
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn response_to_credentials_is_stored_unless_it_was_invalidated_meanwhile() {
    let origin = Origin::with_fields(&[("cache-control", "public, max-age=60")]).delayed(SEC);
    let layer = CacheLayer::new();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    // Such a request neither follows another one nor is followed before its head.
    let with_credentials = |path: &str| spawn(&site, get(path, &[("authorization", "Basic dTpw")]));
    let key = |path: &str| Key::new("http", "site.example", path, None).unwrap();
    let invalidations: [(&dyn Fn(), &str); 3] = [
        (&|| cache.delete(&key("/"), Purge::Hard), "2"),
        (&|| cache.delete_prefix("http://other.example/", Purge::Hard), "4"),
        (&|| {}, "5"),
    ];
    for (invalidate, want) in invalidations {
        let before = with_credentials("/");
        settle().await;
        invalidate();
        before.await.unwrap().unwrap();
        assert_eq!(fetch(&site, "/").await, want);
        cache.delete_all(Purge::Hard);
    }
    let stats = cache.stats();
    assert_eq!((stats.fetches, stats.uncollapsed, origin.count()), (0, 2, 5));
    // One in 256 other keys has the same hash.
    for i in 0..20 {
        let before = with_credentials(&format!("/{i}"));
        settle().await;
        cache.delete(&key("/other"), Purge::Hard);
        before.await.unwrap().unwrap();
    }
    assert!(cache.stats().keys > 10, "{:?}", cache.stats());
}

#[tokio::test(start_paused = true)]
async fn complete_content_is_stored_without_a_task() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let answer = origin.answer.clone();
    let kept = senders.clone();
    let origin = Origin::new(move |request, n| {
        let response = answer(request, n);
        let sender = kept.lock().unwrap().pop().unwrap();
        sender.send("one ".into()).unwrap();
        sender.send("two".into()).unwrap();
        if request.uri().path() == "/complete" {
            sender.finish(None)
        } else {
            kept.lock().unwrap().push(sender)
        }
        response
    });
    let site = site(&CacheLayer::new(), &origin);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let response = send(&site, "/complete").await;
    assert_eq!((tasks(), response.body().len()), (before, Some(7)));
    assert_eq!(text(response).await, "one two");
    assert_eq!(fetch(&site, "/complete").await, "one two");
    let response = send(&site, "/incomplete").await;
    assert_eq!((tasks(), response.body().len()), (before + 1, None));
    senders.lock().unwrap().pop().unwrap().finish(None);
    assert_eq!(text(response).await, "one two");
    assert_eq!(fetch(&site, "/incomplete").await, "one two");
    assert_eq!((tasks(), origin.count()), (before, 2));
}

#[tokio::test]
async fn content_of_empty_pieces_holds_up_neither_its_response_nor_others() {
    let origin = Origin::new(|_, _| {
        let pieces = std::iter::repeat_with(|| Ok::<_, BoxError>(bytes::Bytes::new()));
        let body = Body::from_stream(tokio_stream::iter(pieces));
        Ok(response(&[("cache-control", "max-age=60")], body))
    });
    let site = site(&CacheLayer::new(), &origin);
    let endless = send(&site, "/").await;
    assert_eq!(
        (endless.status(), send(&site, "/other").await.status()),
        (StatusCode::OK, StatusCode::OK)
    );
}

#[test]
fn requests_of_several_threads_share_a_fetch_however_short_it_is() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 500;
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let site = site(&CacheLayer::new(), &origin);
    let barrier = std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                let runtime = runtime.unwrap();
                for round in 0..ROUNDS {
                    barrier.wait();
                    runtime.block_on(fetch(&site, &format!("/{round}")));
                }
            });
        }
    });
    assert_eq!(origin.count(), ROUNDS);
}
