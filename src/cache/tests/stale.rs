//! Stale responses: validation, use during revalidation, and use because the origin fails.

use std::{
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn stale_response_is_validated_and_updated_by_a_304() {
    let origin = Origin::new(|r, n| {
        let n = n.to_string();
        let fields = [
            ("cache-control", "max-age=10"),
            ("etag", "\"1\""),
            ("x", &*n),
            ("status", if r.headers().contains_key("if-none-match") { "304" } else { "200" }),
        ];
        Ok(response(&fields, if n == "1" { "content" } else { "" }))
    });
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    fetch(&site, "/").await;
    for (pause, x) in [(10, "2"), (9, "2"), (1, "3")] {
        tokio::time::advance(pause * SEC).await;
        let response = site.clone().oneshot(get("/", &[])).await.unwrap();
        assert_eq!(response.headers()["x"], x);
        assert_eq!(text(response).await, "content");
    }
    assert_eq!((origin.count(), layer.handle().stats().validated), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn validation_without_a_date_makes_the_response_as_old_as_its_receipt() {
    let old = std::time::SystemTime::now() - 100 * SEC;
    let old = crate::semantics::date::HttpDate::from(old).to_string();
    let origin = Origin::new(move |_, n| {
        let mut fields = vec![("cache-control", "max-age=200"), ("etag", "\"1\"")];
        fields.push(if n == 1 { ("date", &*old) } else { ("status", "304") });
        Ok(response(&fields, if n == 1 { "content" } else { "" }))
    });
    let site = site(&CacheLayer::new(), &origin);
    fetch(&site, "/").await;
    tokio::time::advance(101 * SEC).await;
    assert_eq!((fetch(&site, "/").await, origin.count()), ("content".into(), 2));
    tokio::time::advance(150 * SEC).await;
    assert_eq!((fetch(&site, "/").await, origin.count()), ("content".into(), 2));
}

#[tokio::test(start_paused = true)]
async fn many_requests_share_a_validation() {
    let origin = Origin::new(|r, n| {
        let status = if r.headers().contains_key("if-none-match") { "304" } else { "200" };
        let fields = [("cache-control", "max-age=10"), ("etag", "\"1\""), ("status", status)];
        Ok(response(&fields, if status == "200" { n.to_string() } else { String::new() }))
    })
    .delayed(SEC);
    let site = site(&CacheLayer::new(), &origin);
    fetch(&site, "/").await;
    tokio::time::advance(10 * SEC).await;
    let all: Vec<_> = (0..9).map(|_| tokio::spawn(site.clone().oneshot(get("/", &[])))).collect();
    for response in all {
        assert_eq!(text(response.await.unwrap().unwrap()).await, "1");
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn stale_response_is_used_while_one_task_revalidates_it() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=10, stale-while-revalidate=30")])
        .delayed(SEC);
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    fetch(&site, "/").await;
    tokio::time::advance(10 * SEC).await;
    for _ in 0..100 {
        assert_eq!(fetch(&site, "/").await, "1");
    }
    settle().await;
    assert_eq!(origin.count(), 2);
    tokio::time::advance(SEC).await;
    settle().await;
    assert_eq!(fetch(&site, "/").await, "2");
    let stats = layer.handle().stats();
    assert_eq!((stats.refreshes, stats.stale_hits, origin.count()), (1, 100, 2));
    tokio::time::advance(41 * SEC).await;
    assert_eq!(fetch(&site, "/").await, "3", "too stale");
}

#[tokio::test(start_paused = true)]
async fn refreshes_in_the_background_are_bounded_and_end_with_a_shutdown() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=10, stale-while-revalidate=99")])
        .delayed(SEC);
    let layer = CacheLayer::builder().max_refreshes(2).build();
    let site = site(&layer, &origin);
    for path in ["/a", "/b", "/c"] {
        fetch(&site, path).await;
    }
    tokio::time::advance(10 * SEC).await;
    for path in ["/a", "/b", "/c"] {
        fetch(&site, path).await;
    }
    settle().await;
    assert_eq!(origin.count(), 3 + 2);
    let tasks = layer.handle().tasks();
    assert_eq!(tasks.len(), 2);
    tasks.begin();
    tasks.abort();
    settle().await;
    assert_eq!((tasks.len(), layer.handle().stats().fetches), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn stale_response_replaces_failure_as_far_as_it_permits() {
    let cases = [
        ("max-age=10", "error", true),
        ("max-age=10", "502", true),
        ("max-age=10", "503", false),
        ("max-age=10, stale-if-error=60", "503", true),
        ("max-age=10, stale-if-error=60", "500", true),
        ("max-age=10, stale-if-error=60", "404", false),
        ("max-age=10, must-revalidate", "error", false),
        ("s-maxage=10", "502", false),
        ("no-cache", "error", false),
    ];
    for (control, failure, is_concealed) in cases {
        let origin = Origin::new(move |_, n| match (n, failure) {
            (1, _) => Ok(response(&[("cache-control", control), ("etag", "\"1\"")], "content")),
            (_, "error") => Err("the origin is down".into()),
            _ => Ok(response(&[("status", failure)], "failure")),
        });
        let layer = CacheLayer::builder().cache_status("c").build();
        let site = site(&layer, &origin);
        fetch(&site, "/").await;
        tokio::time::advance(10 * SEC).await;
        let result = site.clone().oneshot(get("/", &[])).await;
        let status = result.map(|response| {
            (
                response.status().as_u16(),
                response.headers()["cache-status"].to_str().unwrap().to_owned(),
            )
        });
        match status {
            Ok((200, status)) => {
                assert!(is_concealed, "{control} {failure}");
                assert!(status.contains("fwd=stale") && status.contains("ttl=0"), "{status}");
            }
            Ok((status, _)) => {
                assert!(!is_concealed && status.to_string() == failure, "{control} {failure}")
            }
            Err(_) => assert!(!is_concealed && failure == "error", "{control} {failure}"),
        }
        assert_eq!(layer.handle().stats().concealed_errors, u64::from(is_concealed));
        tokio::time::advance(STALE_IF_UNREACHABLE).await;
        let late = site.clone().oneshot(get("/", &[])).await;
        assert!(
            late.map_or(true, |r| r.status() != StatusCode::OK),
            "{control} {failure}: too stale"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn overloaded_origin_is_relieved_by_stale_responses() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let is_overloaded = Arc::new(AtomicBool::new(false));
    let asked = is_overloaded.clone();
    let origin = Origin::with_fields(&[("cache-control", "max-age=10")]).delayed(SEC);
    let site =
        site(&CacheLayer::builder().stale_while(move || asked.load(Relaxed)).build(), &origin);
    fetch(&site, "/").await;
    tokio::time::advance(10 * SEC).await;
    is_overloaded.store(true, Relaxed);
    assert_eq!(fetch(&site, "/").await, "1");
    settle().await;
    tokio::time::advance(SEC).await;
    settle().await;
    assert_eq!(fetch(&site, "/").await, "2");
    is_overloaded.store(false, Relaxed);
    tokio::time::advance(10 * SEC).await;
    assert_eq!(fetch(&site, "/").await, "3");
}

#[tokio::test(start_paused = true)]
async fn response_that_is_often_requested_is_refreshed_before_it_expires() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]).delayed(SEC);
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    fetch(&site, "/").await;
    for _ in 0..600 {
        tokio::time::advance(SEC / 2).await;
        for _ in 0..50 {
            let began = tokio::time::Instant::now();
            fetch(&site, "/").await;
            assert_eq!(began.elapsed(), Duration::ZERO, "every request is a hit");
        }
        settle().await;
    }
    let stats = layer.handle().stats();
    assert_eq!((stats.misses, stats.hits), (1, 30_000));
    assert!((4..=8).contains(&stats.refreshes), "{}", stats.refreshes);

    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]).delayed(SEC);
    let site = super::site(&CacheLayer::builder().early_refresh(0.0).build(), &origin);
    fetch(&site, "/").await;
    tokio::time::advance(58 * SEC).await;
    for _ in 0..1000 {
        fetch(&site, "/").await;
    }
    settle().await;
    assert_eq!(origin.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn response_that_must_not_be_stored_removes_the_stored_one() {
    let origin = Origin::new(|_, n| {
        let control = if n == 1 { "max-age=10, stale-if-error=999" } else { "no-store" };
        if n > 2 {
            Err("down".into())
        } else {
            Ok(response(&[("cache-control", control)], n.to_string()))
        }
    });
    let site = site(&CacheLayer::new(), &origin);
    fetch(&site, "/").await;
    tokio::time::advance(10 * SEC).await;
    assert_eq!(fetch(&site, "/").await, "2");
    assert!(site.clone().oneshot(get("/", &[])).await.is_err(), "the first one is outdated");
}

#[tokio::test(start_paused = true)]
async fn response_without_a_lifetime_is_never_used_without_validation() {
    for validator in [None, Some(("etag", "\"1\""))] {
        let origin = Origin::new(move |r, n| {
            if r.uri().path() == "/" && n > 2 {
                return Err("it is down".into());
            }
            let fields: Vec<_> = validator.into_iter().collect();
            Ok(response(&fields, format!("account {n}")))
        });
        let layer = CacheLayer::builder()
            .stale_while_revalidate(60 * SEC)
            .stale_if_error(3600 * SEC)
            .build();
        let site = site(&layer, &origin);
        // Two clients, each with a session of its own.
        assert_eq!(fetch(&site, "/").await, "account 1");
        assert_eq!(fetch(&site, "/").await, "account 2", "{validator:?}");
        let third = site.clone().oneshot(get("/", &[])).await;
        assert!(third.is_err(), "the failure of the origin is passed on");
    }
}

#[tokio::test(start_paused = true)]
async fn response_that_was_stored_since_the_lookup_is_not_fetched_again() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=1")]);
    let (other, has_run) = (Arc::<OnceLock<Site>>::default(), AtomicBool::new(false));
    let site_of_other = other.clone();
    // Called between the lookup of a stale response and the start of its fetch.
    let fetch_meanwhile = move || {
        if !has_run.swap(true, Relaxed) {
            let mut request = pin!(fetch(site_of_other.get().unwrap(), "/"));
            let polled = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Ready("2".to_owned()));
        }
        false
    };
    let layer = CacheLayer::builder().stale_while(fetch_meanwhile).build();
    let site = site(&layer, &origin);
    other.set(site.clone()).unwrap();
    assert_eq!(fetch(&site, "/").await, "1");
    tokio::time::advance(SEC).await;
    assert_eq!(fetch(&site, "/").await, "2");
    assert_eq!(origin.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn response_that_was_invalidated_since_the_lookup_is_not_validated() {
    let origin = Origin::new(|request, n| {
        let is_conditional = request.headers().contains_key("if-none-match");
        let status = ("status", if is_conditional { "304" } else { "200" });
        Ok(response(&[("cache-control", "max-age=1"), ("etag", "W/\"1\""), status], n.to_string()))
    });
    let (cache, has_run) = (Arc::<OnceLock<CacheHandle>>::default(), AtomicBool::new(false));
    let cache_of_other = cache.clone();
    // Called between the lookup of a stale response and the start of its fetch.
    let delete_meanwhile = move || {
        if !has_run.swap(true, Relaxed) {
            let key = Key::new("http", "site.example", "/", None).unwrap();
            cache_of_other.get().unwrap().delete(&key, Purge::Hard);
        }
        false
    };
    let layer = CacheLayer::builder().stale_while(delete_meanwhile).build();
    cache.set(layer.handle()).unwrap();
    let site = site(&layer, &origin);
    assert_eq!(fetch(&site, "/").await, "1");
    tokio::time::advance(SEC).await;
    assert_eq!(fetch(&site, "/").await, "2", "the content that was deleted is not used again");
}

/// An origin whose first response has no `Vary`, and whose next ones have.
fn origin_that_adds_vary() -> Origin {
    Origin::new(|request, n| {
        let is_conditional = request.headers().contains_key("if-none-match");
        Ok(match n {
            1 => response(&[("cache-control", "max-age=1"), ("etag", "\"1\"")], "1"),
            _ => response(
                &[
                    ("cache-control", "max-age=60"),
                    ("etag", "\"1\""),
                    ("vary", "x"),
                    ("status", if is_conditional { "304" } else { "200" }),
                ],
                if request.method() == Method::HEAD || is_conditional { "" } else { "new" },
            ),
        })
    })
}

async fn fetch_variant(site: &Site, x: &'static str) -> String {
    text(site.clone().oneshot(get("/", &[("x", x)])).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn vary_of_a_304_selects_the_response_from_then_on() {
    let origin = origin_that_adds_vary();
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(fetch_variant(&site, "a").await, "1");
    tokio::time::advance(SEC).await;
    for (x, content, requests) in [("b", "1", 2), ("b", "1", 2), ("c", "new", 3), ("b", "1", 3)] {
        assert_eq!((fetch_variant(&site, x).await.as_str(), origin.count()), (content, requests));
    }
}

#[tokio::test(start_paused = true)]
async fn head_response_with_another_vary_leaves_the_stored_response_stale() {
    let origin = origin_that_adds_vary();
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(fetch_variant(&site, "a").await, "1");
    tokio::time::advance(SEC).await;
    let mut head = get("/", &[("x", "b")]);
    *head.method_mut() = Method::HEAD;
    assert_eq!(status_of(&site, head).await, StatusCode::OK);
    assert_eq!((fetch_variant(&site, "c").await.as_str(), origin.count()), ("1", 3));
}

#[tokio::test(start_paused = true)]
async fn request_that_forbids_storing_leaves_the_stale_response_stored() {
    for field in [("cache-control", "no-store"), ("authorization", "Basic eDp5")] {
        let origin = Origin::new(|request, n| {
            let is_conditional = request.headers().contains_key("if-none-match");
            let status = ("status", if is_conditional { "304" } else { "200" });
            Ok(response(
                &[("cache-control", "max-age=1"), ("etag", "\"1\""), status],
                n.to_string(),
            ))
        });
        let site = site(&CacheLayer::new(), &origin);
        assert_eq!(fetch(&site, "/").await, "1");
        tokio::time::advance(SEC).await;
        site.clone().oneshot(get("/", &[field])).await.unwrap();
        assert_eq!(fetch(&site, "/").await, "1", "it is validated: {field:?}");
        assert_eq!(origin.count(), 3);
    }
}
