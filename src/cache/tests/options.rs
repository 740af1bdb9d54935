//! Options of the builder that no other test is about.

use super::*;

/// Sends `n` requests at once. Returns how many the origin has received, and the seconds until all had their responses.
async fn burst(site: &Site, origin: &Origin, path: &str, n: usize) -> (usize, u64) {
    let (before, began) = (origin.count(), tokio::time::Instant::now());
    let all: Vec<_> = (0..n).map(|_| tokio::spawn(site.clone().oneshot(get(path, &[])))).collect();
    for response in all {
        text(response.await.unwrap().unwrap()).await;
    }
    (origin.count() - before, began.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn collapse_if_selects_the_requests_that_share_a_fetch() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]).delayed(SEC);
    let layer = CacheLayer::builder().collapse_if(|parts| parts.uri.path() != "/own").build();
    let site = site(&layer, &origin);
    assert_eq!(burst(&site, &origin, "/shared", 5).await, (1, 1));
    assert_eq!(burst(&site, &origin, "/own", 5).await, (5, 1));
    assert_eq!(burst(&site, &origin, "/own", 5).await, (0, 0), "it was stored");
}

#[tokio::test(start_paused = true)]
async fn collapse_off_forwards_each_request_and_stores_its_response() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]).delayed(SEC);
    // The more general option has precedence.
    let layer = CacheLayer::builder().collapse(false).collapse_if(|_| true).build();
    let site = site(&layer, &origin);
    assert_eq!(burst(&site, &origin, "/", 5).await, (5, 1));
    assert_eq!(burst(&site, &origin, "/", 5).await, (0, 0), "it was stored");
}

#[tokio::test(start_paused = true)]
async fn hit_for_miss_is_how_long_requests_do_not_wait_after_a_response_that_is_not_shared() {
    let origin = Origin::with_fields(&[("cache-control", "no-store")]).delayed(SEC);
    let site = site(&CacheLayer::builder().hit_for_miss(60 * SEC).build(), &origin);
    assert_eq!(burst(&site, &origin, "/", 3).await, (3, 2), "they wait for the first one");
    tokio::time::advance(58 * SEC).await;
    assert_eq!(burst(&site, &origin, "/", 3).await, (3, 1));
    tokio::time::advance(60 * SEC).await;
    assert_eq!(burst(&site, &origin, "/", 3).await, (3, 2));
}

#[tokio::test(start_paused = true)]
async fn stale_if_unreachable_is_how_long_a_stale_response_replaces_a_failure() {
    for (time, is_used) in [(20, true), (10, false), (0, false)] {
        let origin = Origin::new(|_, n| match n {
            1 => Ok(response(&[("cache-control", "max-age=10")], "stored")),
            _ => Err("the origin is down".into()),
        });
        let layer = CacheLayer::builder().stale_if_unreachable(time * SEC).build();
        let site = site(&layer, &origin);
        fetch(&site, "/").await;
        tokio::time::advance(20 * SEC).await;
        let late = site.clone().oneshot(get("/", &[])).await;
        assert_eq!((late.is_ok(), origin.count()), (is_used, 2), "{time} seconds");
    }
}

#[tokio::test(start_paused = true)]
async fn default_lifetimes_apply_to_their_statuses_without_explicit_freshness() {
    let origin = Origin::new(|request, n| {
        let (_, status) = request.uri().path().split_at(1);
        let explicit = request.uri().query().map(|_| ("cache-control", "max-age=30"));
        let fields: Vec<_> = explicit.into_iter().chain([("status", status)]).collect();
        Ok(response(&fields, n.to_string()))
    });
    let builder = CacheLayer::builder().default_lifetime(20 * SEC).negative_lifetime(10 * SEC);
    let site = site(&builder.build(), &origin);
    for (path, lifetime) in [
        ("/200", 20),
        ("/301", 20),
        ("/404", 10),
        ("/410", 10),
        ("/501", 10),
        ("/302", 0),
        ("/403", 0),
        ("/500", 0),
        ("/200?explicit", 30),
        ("/404?explicit", 30),
    ] {
        let first = fetch(&site, path).await;
        let is_hit = async || fetch(&site, path).await == first;
        if lifetime > 0 {
            tokio::time::advance((lifetime - 1) * SEC).await;
            assert!(is_hit().await, "{path}");
        }
        tokio::time::advance(SEC).await;
        assert!(!is_hit().await, "{path}");
    }
}

/// Sets one option, to its maximum or to zero.
type Extreme = fn(CacheBuilder, bool) -> CacheBuilder;

fn time(is_max: bool) -> Duration {
    if is_max { Duration::MAX } else { Duration::ZERO }
}

fn count(is_max: bool) -> usize {
    if is_max { usize::MAX } else { 0 }
}

fn bytes(is_max: bool) -> u64 {
    if is_max { u64::MAX } else { 0 }
}

const OPTIONS: [Extreme; 17] = [
    |b, is_max| b.capacity(bytes(is_max)),
    |b, is_max| b.max_object(bytes(is_max)),
    |b, is_max| b.max_variants(count(is_max)),
    |b, is_max| {
        let percent = if is_max { u32::MAX } else { 0 };
        b.heuristic(Heuristic { percent, max: time(is_max) })
    },
    |b, is_max| b.default_lifetime(time(is_max)),
    |b, is_max| b.negative_lifetime(time(is_max)),
    |b, is_max| b.stale_while_revalidate(time(is_max)),
    |b, is_max| b.stale_if_error(time(is_max)),
    |b, is_max| b.stale_if_unreachable(time(is_max)),
    |b, is_max| b.early_refresh(if is_max { f64::MAX } else { 0.0 }),
    |b, is_max| b.fill_timeout(time(is_max)),
    |b, is_max| b.max_fill_time(time(is_max)),
    |b, is_max| b.hit_for_miss(time(is_max)),
    |b, is_max| b.max_fetches(count(is_max)),
    |b, is_max| b.max_followers(count(is_max)),
    |b, is_max| b.max_refreshes(count(is_max)),
    |b, is_max| b.refresh_timeout(time(is_max)),
];

const OPTIONS_OF_DISK: [Extreme; 3] = [
    |b, is_max| b.disk_capacity(bytes(is_max)),
    |b, is_max| b.max_disk_objects(bytes(is_max)),
    |b, is_max| b.max_disk_object(bytes(is_max)),
];

#[tokio::test(start_paused = true)]
async fn layer_answers_alike_with_extreme_options() {
    let all = [&OPTIONS[..], &OPTIONS_OF_DISK].concat();
    for is_max in [true, false] {
        let builder = |options: &[Extreme]| {
            let builder = CacheLayer::builder().durability(Durability::Crash);
            options.iter().fold(builder, |builder, set| set(builder, is_max))
        };
        for options in OPTIONS.chunks(1) {
            request_all(&builder(options).build()).await;
        }
        for options in OPTIONS_OF_DISK.chunks(1).chain([&all[..]]) {
            let dir = tempfile::tempdir().unwrap();
            request_all(&builder(options).open(dir.path()).unwrap()).await;
        }
    }
}

/// Requests fresh, stale, private and failing responses, several at a time.
async fn request_all(layer: &CacheLayer) {
    let origin = Origin::new(|request, _| {
        let (_, status) = request.uri().path().split_at(1);
        let control = request.uri().query().unwrap_or_default();
        let modified = ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT");
        let date = ("date", "Fri, 31 Dec 9999 23:59:59 GMT");
        let mut fields = vec![("status", status), ("vary", "accept"), modified];
        if !control.is_empty() {
            fields.push(("cache-control", control));
        } else {
            fields.push(date);
        }
        Ok(response(&fields, "content"))
    });
    let site = site(layer, &origin.delayed(SEC));
    let paths = ["/200", "/200?max-age=2", "/200?no-store", "/404", "/500", "/204?max-age=9"];
    for _ in 0..3 {
        let requests = paths.iter().flat_map(|path| ["a", "b", "a"].map(|accept| (path, accept)));
        let all: Vec<_> = requests
            .map(|(path, accept)| {
                let response = site.clone().oneshot(get(path, &[("accept", accept)]));
                (path, tokio::spawn(response))
            })
            .collect();
        for (path, response) in all {
            let response = response.await.unwrap().unwrap();
            assert_eq!(response.status().as_str(), &path[1..4]);
            text(response).await;
        }
        settle().await;
        tokio::time::advance(3 * SEC).await;
    }
}
