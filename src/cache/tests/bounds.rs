//! Tests of each bound, at the bound.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;
use http::HeaderValue;

use super::*;
use crate::Budget;

#[tokio::test(start_paused = true)]
async fn store_keeps_to_its_capacity_and_returns_memory_to_the_budget() {
    let origin =
        Origin::new(|_, _| Ok(response(&[("cache-control", "max-age=60")], "x".repeat(10_000))));
    let budget = Budget::default();
    let layer =
        CacheLayer::builder().capacity(200_000).max_object(10_000).budget(budget.clone()).build();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    for i in 0..200 {
        fetch(&site, &format!("/{i}")).await;
        let stats = cache.stats();
        assert!(stats.bytes <= 200_000 && stats.keys <= 18, "{stats:?}");
        assert!(budget.usage().memory <= 200_000);
    }
    assert!(cache.stats().keys >= 8, "{:?}", cache.stats());
    cache.delete_all(Purge::Hard);
    cache.swept().await;
    assert_eq!((cache.stats().bytes, budget.usage().memory), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn stored_fields_do_not_keep_the_buffer_of_their_connection_in_memory() {
    struct Buffer {
        bytes: &'static [u8],
        _held: Arc<()>,
    }
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            self.bytes
        }
    }
    let buffers = Arc::new(());
    let held = buffers.clone();
    let origin = Origin::new(move |_, n| {
        let buffer = Buffer { bytes: b"max-age=9\"etag\"content", _held: held.clone() };
        let buffer = Bytes::from_owner(buffer);
        let value = |range| HeaderValue::from_maybe_shared(buffer.slice(range)).unwrap();
        let mut response = Response::new(Body::from(buffer.slice(15..)));
        if n == 2 {
            response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        response.headers_mut().insert("cache-control", value(0..9));
        response.headers_mut().insert("etag", value(9..15));
        Ok(response)
    });
    let site = site(&CacheLayer::new(), &origin);
    // The second one is validated, and the last one a hit.
    for seconds in [0, 9, 0] {
        tokio::time::advance(seconds * SEC).await;
        let response = site.clone().oneshot(get("/", &[])).await.unwrap();
        assert_eq!(response.headers()["etag"], "\"etag\"");
        assert_eq!(text(response).await, "content");
        assert_eq!(Arc::strong_count(&buffers), 2, "those of the test and of the origin");
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn content_above_the_largest_object_is_not_stored() {
    let origin = Origin::new(|r, _| {
        let len: usize = r.uri().path()[1..].parse().unwrap();
        Ok(response(&[("cache-control", "max-age=60")], "x".repeat(len)))
    });
    let layer = CacheLayer::builder().max_object(10_000).build();
    let site = site(&layer, &origin);
    for path in ["/10000", "/10000", "/10001", "/10001"] {
        fetch(&site, path).await;
    }
    assert_eq!((origin.count(), layer.handle().stats().not_stored), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn new_variant_beyond_the_bound_replaces_the_oldest_one() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60"), ("vary", "x")]);
    let layer = CacheLayer::builder().max_variants(2).build();
    let site = site(&layer, &origin);
    let send =
        async |x: &str| text(site.clone().oneshot(get("/", &[("x", x)])).await.unwrap()).await;
    for (x, want) in [("a", "1"), ("b", "2"), ("a", "1"), ("c", "3"), ("b", "2"), ("a", "4")] {
        assert_eq!(send(x).await, want, "{x}");
    }
}

#[tokio::test(start_paused = true)]
async fn store_accepts_nothing_while_the_budget_is_above_its_soft_limit() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let budget = Budget::builder().soft_limit(1000).hard_limit(2000).build();
    let site = site(&CacheLayer::builder().budget(budget.clone()).build(), &origin);
    let mut lease = budget.memory_lease();
    lease.set(1000);
    assert_eq!((fetch(&site, "/").await, fetch(&site, "/").await), ("1".into(), "2".into()));
    lease.set(0);
    assert_eq!((fetch(&site, "/").await, fetch(&site, "/").await), ("3".into(), "3".into()));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_bounds_of_fetches_and_followers_are_forwarded() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]).delayed(SEC);
    let layer = CacheLayer::builder().max_fetches(1).max_followers(2).build();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let spawn = |path: &str| tokio::spawn(site.clone().oneshot(get(path, &[])));
    let same: Vec<_> = (0..5).map(|_| spawn("/")).collect();
    settle().await;
    let stats = cache.stats();
    assert_eq!((stats.fetches, stats.followers, stats.uncollapsed), (1, 2, 2));
    let other = spawn("/other");
    settle().await;
    assert_eq!((cache.stats().uncollapsed, origin.count()), (3, 4));
    for response in same.into_iter().chain([other]) {
        assert_eq!(response.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    settle().await;
    let stats = cache.stats();
    assert_eq!((stats.fetches, stats.followers, stats.keys), (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn content_that_arrives_too_slowly_is_not_stored_and_is_read_while_clients_read_it() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let layer = CacheLayer::builder().max_fill_time(10 * SEC).build();
    let site = site(&layer, &origin);
    let send = async || site.clone().oneshot(get("/", &[])).await.unwrap();
    let mut body = send().await.into_body();
    let sender = senders.lock().unwrap().pop().unwrap();
    for second in 0..15 {
        sender.send("x".into()).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        settle().await;
        assert_eq!(layer.handle().stats().fetches, usize::from(second < 10) as u64, "at {second}");
        tokio::time::advance(SEC).await;
    }
    drop(send().await);
    assert_eq!(origin.count(), 2, "a later request does not follow the fetch");
    let is_closed = async || {
        let closed = std::future::poll_fn(|cx| sender.poll_closed(cx));
        tokio::time::timeout(SEC, closed).await.is_ok()
    };
    assert!(!is_closed().await);
    // The origin need not send another byte.
    drop(body);
    assert!(is_closed().await);
}

/// A content of pieces of a byte that does not end, and the number of its polls.
struct Pieces {
    left: usize,
    polls: Arc<AtomicUsize>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.polls.fetch_add(1, Relaxed);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok("x".into())))
            }
            None => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn read_of_a_too_large_content_does_not_poll_the_origin_while_there_is_capacity() {
    let polls = Arc::<AtomicUsize>::default();
    let counted = polls.clone();
    let origin = Origin::new(move |_, _| {
        let pieces = Pieces { left: 10, polls: counted.clone() };
        Ok(response(&[("cache-control", "max-age=60")], Body::from_stream(pieces)))
    });
    let site = site(&CacheLayer::builder().max_object(5).build(), &origin);
    let mut body = site.oneshot(get("/", &[])).await.unwrap().into_body();
    settle().await;
    let before = polls.load(Relaxed);
    for _ in 0..10 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        settle().await;
    }
    assert_eq!(polls.load(Relaxed), before);
}

#[tokio::test(start_paused = true)]
async fn small_pieces_are_counted_with_their_overhead_until_they_are_stored() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let budget = Budget::default();
    let layer = CacheLayer::builder().budget(budget.clone()).build();
    let response = site(&layer, &origin).oneshot(get("/", &[])).await.unwrap();
    let sender = senders.lock().unwrap().pop().unwrap();
    for _ in 0..5000 {
        sender.send("x".into()).unwrap();
        settle().await;
    }
    assert!(budget.usage().memory > 5000 * 90, "{:?}", budget.usage());
    sender.finish(None);
    assert_eq!(text(response).await.len(), 5000);
    settle().await;
    assert_eq!(budget.usage().memory, 5000, "the stored copy");
}

#[tokio::test(start_paused = true)]
async fn content_counts_in_the_budget_until_its_clients_have_read_it() {
    for (max_object, is_whole) in [(10_000, true), (10_000, false), (9_000, true)] {
        let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
        let budget = Budget::default();
        let layer = CacheLayer::builder().max_object(max_object).budget(budget.clone()).build();
        let response = site(&layer, &origin).oneshot(get("/", &[])).await.unwrap();
        let sender = senders.lock().unwrap().pop().unwrap();
        for _ in 0..10 {
            sender.send("x".repeat(1000).into()).unwrap();
            settle().await;
        }
        if is_whole {
            sender.finish(None);
        } else {
            drop(sender);
        }
        settle().await;
        layer.handle().delete_all(Purge::Hard);
        layer.handle().swept().await;
        let memory = budget.usage().memory;
        assert!((10_000..12_000).contains(&memory), "{max_object} {is_whole}: {memory}");
        let mut body = response.into_body();
        let mut len = 0;
        while let Some(Ok(frame)) = body.frame().await {
            len += frame.into_data().unwrap().len();
        }
        assert_eq!(len, 10_000);
        drop(body);
        assert_eq!(budget.usage().memory, 0, "{max_object} {is_whole}");
    }
}

#[tokio::test(start_paused = true)]
async fn small_pieces_of_a_too_large_content_are_bounded_in_number() {
    let polls = Arc::<AtomicUsize>::default();
    let counted = polls.clone();
    let origin = Origin::new(move |_, _| {
        let pieces = Pieces { left: 20_000, polls: counted.clone() };
        Ok(response(&[("cache-control", "max-age=60")], Body::from_stream(pieces)))
    });
    let site = site(&CacheLayer::builder().max_object(5).build(), &origin);
    let mut body = site.oneshot(get("/", &[])).await.unwrap().into_body();
    let mut before = 0;
    while before != polls.load(Relaxed) {
        before = polls.load(Relaxed);
        settle().await;
    }
    assert!(before < 5000, "{before} pieces wait for the reader");
    for _ in 0..20_000 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    }
}

#[tokio::test(start_paused = true)]
async fn content_beyond_its_announced_length_is_an_error() {
    let origin = Origin::new(|_, _| {
        let pieces = ["ab", "c", "d"].map(|piece| Ok::<_, BoxError>(Bytes::from(piece)));
        let fields = [("cache-control", "max-age=60"), ("content-length", "3")];
        Ok(response(&fields, Body::from_stream(tokio_stream::iter(pieces))))
    });
    let site = site(&CacheLayer::new(), &origin);
    for _ in 0..2 {
        let mut body = site.clone().oneshot(get("/", &[])).await.unwrap().into_body();
        for want in ["ab", "c"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), want);
        }
        assert!(body.frame().await.unwrap().is_err());
    }
    assert_eq!(origin.count(), 2);
}
