//! Which requests get the response to another request that is in progress.

use super::*;
use crate::cache::flight::MAX_FLIGHTS_OF_KEY;

/// Sends a request in a task of its own.
fn spawn(site: &Site, request: Request) -> tokio::task::JoinHandle<String> {
    let response = site.clone().oneshot(request);
    tokio::spawn(async move { text(response.await.unwrap()).await })
}

/// Sends a request of each of these clients at once. Returns the seconds until all have their responses.
async fn burst(site: &Site, clients: &[&str], want: impl Fn(&str) -> String) -> u64 {
    let began = tokio::time::Instant::now();
    let all: Vec<_> = clients
        .iter()
        .map(|client| (client, spawn(site, get("/account", &[("cookie", client)]))))
        .collect();
    for (client, response) in all {
        assert_eq!(response.await.unwrap(), want(client));
    }
    began.elapsed().as_secs()
}

/// Returns the page of the client that has sent the request.
fn account(request: &Request) -> String {
    format!("account of {}", request.headers()["cookie"].to_str().unwrap())
}

/// The fields of responses that must not be used for another request without validation.
const NEVER_FRESH: [&[(&str, &str)]; 5] = [
    &[("etag", "\"1\"")],
    &[("etag", "\"1\""), ("cache-control", "no-cache")],
    &[("etag", "\"1\""), ("cache-control", "max-age=0")],
    &[("etag", "\"1\""), ("cache-control", "max-age=60, no-cache")],
    &[("etag", "\"1\""), ("cache-control", "max-age=60, s-maxage=0")],
];

#[tokio::test(start_paused = true)]
async fn response_without_a_lifetime_is_not_shared_with_requests_that_wait_for_it() {
    for fields in NEVER_FRESH {
        let origin =
            Origin::new(move |request, _| Ok(response(fields, account(request)))).delayed(SEC);
        let layer = CacheLayer::new();
        let site = site(&layer, &origin);
        let want = |client: &str| format!("account of {client}");
        assert_eq!(burst(&site, &["a", "b", "c"], want).await, 2, "the first, then the others");
        assert_eq!(burst(&site, &["b", "c", "a"], want).await, 1, "all at once: {fields:?}");
        assert_eq!(layer.handle().stats().collapsed, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn response_without_a_lifetime_is_not_shared_while_its_content_is_received() {
    for fields in NEVER_FRESH {
        let (origin, senders) = channels(fields);
        let origin = origin.delayed(SEC);
        let site = site(&CacheLayer::new(), &origin);
        let waiting = spawn(&site, get("/", &[("cookie", "b")]));
        let leader = spawn(&site, get("/", &[("cookie", "a")]));
        tokio::time::sleep(2 * SEC).await;
        assert_eq!(origin.count(), 2, "each has its own response: {fields:?}");
        let late = spawn(&site, get("/", &[("cookie", "c")]));
        tokio::time::sleep(2 * SEC).await;
        assert_eq!(origin.count(), 3, "{fields:?}");
        for (n, sender) in senders.lock().unwrap().drain(..).enumerate() {
            sender.send(n.to_string().into()).unwrap();
            sender.finish(None);
        }
        let mut texts = [waiting.await.unwrap(), leader.await.unwrap(), late.await.unwrap()];
        texts.sort();
        assert_eq!(texts, ["0", "1", "2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn validated_response_without_a_lifetime_is_not_shared_with_requests_that_wait_for_it() {
    for control in ["no-cache", "max-age=0", "private=\"x\""] {
        let origin = Origin::new(move |request, n| {
            let page = account(request);
            let etag = format!("\"{}\"", page.replace(' ', "-"));
            let is_same = request.headers().get("if-none-match").is_some_and(|v| *v == *etag);
            let mut fields = vec![("cache-control", control), ("etag", &*etag)];
            if is_same {
                fields.push(("status", "304"));
            }
            assert!(n > 1 || !is_same);
            Ok(response(&fields, if is_same { String::new() } else { page }))
        })
        .delayed(SEC);
        let layer = CacheLayer::builder().hit_for_miss(SEC).build();
        let site = site(&layer, &origin);
        let want = |client: &str| format!("account of {client}");
        burst(&site, &["a"], want).await;
        tokio::time::advance(SEC).await;
        assert_eq!(burst(&site, &["a", "b", "c"], want).await, 2, "{control}");
        let stats = layer.handle().stats();
        assert_eq!((stats.validated, stats.collapsed), (1, 0), "{control}");
    }
}

#[tokio::test(start_paused = true)]
async fn response_with_a_lifetime_is_shared_with_requests_that_wait_for_it() {
    let builder = CacheLayer::builder;
    let heuristic = Heuristic { percent: 10, max: 60 * SEC };
    for (layer, fields) in [
        (builder(), &[("cache-control", "max-age=1")][..]),
        (builder(), &[("cache-control", "max-age=60, must-revalidate")]),
        (builder(), &[("cache-control", "s-maxage=60")]),
        (builder(), &[("cache-control", "max-age=0, stale-while-revalidate=60")]),
        (builder().default_lifetime(SEC), &[]),
        (builder().negative_lifetime(SEC), &[("status", "404")]),
        (builder().heuristic(heuristic), &[("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")]),
    ] {
        let fields = [&[("etag", "\"1\"")][..], fields].concat();
        // Longer than the shortest lifetime: the delay counts as age.
        let origin = Origin::new(move |_, n| Ok(response(&fields, n.to_string())));
        let origin = origin.delayed(2 * SEC);
        let site = site(&layer.build(), &origin);
        assert_eq!(burst(&site, &["a", "b", "c"], |_| "1".into()).await, 2);
        assert_eq!(origin.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn request_does_not_join_a_fetch_whose_response_has_expired_meanwhile() {
    let (origin, senders) = channels(&[("cache-control", "max-age=10")]);
    let site = site(&CacheLayer::new(), &origin);
    let first = spawn(&site, get("/", &[]));
    for (at, count) in [(0, 1), (3, 1), (6, 1), (9, 1), (12, 2), (15, 2)] {
        settle().await;
        senders.lock().unwrap().iter().for_each(|sender| sender.send("x".into()).unwrap());
        settle().await;
        drop(site.clone().oneshot(get("/", &[])).await.unwrap());
        assert_eq!(origin.count(), count, "after {at} seconds");
        tokio::time::advance(3 * SEC).await;
    }
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn request_does_not_join_a_fetch_whose_content_has_stalled() {
    let (origin, senders) = channels(&[("cache-control", "max-age=60")]);
    let site = site(&CacheLayer::builder().fill_timeout(5 * SEC).build(), &origin);
    let send = async || site.clone().oneshot(get("/", &[])).await.unwrap();
    let leader = send().await;
    for _ in 0..3 {
        tokio::time::advance(4 * SEC).await;
        senders.lock().unwrap()[0].send("x".into()).unwrap();
        settle().await;
    }
    drop(send().await);
    assert_eq!(origin.count(), 1, "it makes progress");
    tokio::time::advance(5 * SEC).await;
    let second = send().await;
    assert_eq!(origin.count(), 2);
    let third = send().await;
    assert_eq!(origin.count(), 2, "it follows the second one");
    for sender in senders.lock().unwrap().drain(..) {
        sender.send("end".into()).unwrap();
        sender.finish(None);
    }
    let texts = [text(leader).await, text(second).await, text(third).await];
    assert_eq!(texts, ["xxxend", "end", "end"]);
}

#[tokio::test(start_paused = true)]
async fn requests_for_different_variants_do_not_wait_for_each_other() {
    let fields = &[("cache-control", "max-age=60"), ("vary", "Cookie")];
    let origin = Origin::new(move |request, _| Ok(response(fields, account(request))));
    let origin = origin.delayed(SEC);
    let layer = CacheLayer::builder().max_variants(100).build();
    let site = site(&layer, &origin);
    let want = |client: &str| format!("account of {client}");
    assert_eq!(burst(&site, &["a"], want).await, 1);
    let names: Vec<_> = (0..100).map(|n| (n / 2).to_string()).collect();
    let clients: Vec<_> = names.iter().map(|name| &**name).collect();
    assert_eq!(burst(&site, &clients, want).await, 1);
    assert_eq!(origin.count(), 1 + 50, "those of one variant share a fetch");
    assert_eq!(layer.handle().stats().collapsed, 50);
}

#[tokio::test(start_paused = true)]
async fn requests_for_more_variants_than_can_be_fetched_jointly_are_forwarded_at_once() {
    let fields = &[("cache-control", "max-age=60"), ("vary", "Cookie")];
    let origin = Origin::new(move |request, _| Ok(response(fields, account(request))));
    let site = site(&CacheLayer::new(), &origin.clone().delayed(SEC));
    let want = |client: &str| format!("account of {client}");
    assert_eq!(burst(&site, &["a"], want).await, 1);
    let names: Vec<_> = (0..2 * MAX_FLIGHTS_OF_KEY + 10).map(|n| (n / 2).to_string()).collect();
    let clients: Vec<_> = names.iter().map(|name| &**name).collect();
    assert_eq!(burst(&site, &clients, want).await, 1);
    assert_eq!(origin.count(), 1 + MAX_FLIGHTS_OF_KEY + 10);
}
