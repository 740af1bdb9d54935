//! Conditions, ranges and HEAD requests.

use super::*;

#[tokio::test(start_paused = true)]
async fn stored_response_answers_head_and_conditions_and_ranges() {
    let fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("content-type", "a/b")];
    let origin = Origin::new(|_, _| Ok(response(fields, "0123456789")));
    let site = site(&CacheLayer::new(), &origin);
    fetch(&site, "/").await;
    let head = Request::head("http://site.example/").body(Body::empty()).unwrap();
    let head = site.clone().oneshot(head).await.unwrap();
    assert_eq!(
        (head.headers()["content-length"].as_bytes(), head.body().len()),
        (&b"10"[..], Some(0))
    );
    let send = |fields: &'static [(&str, &str)]| site.clone().oneshot(get("/", fields));
    let same = send(&[("if-none-match", "\"1\"")]).await.unwrap();
    assert_eq!(
        (same.status(), same.headers().contains_key("content-type")),
        (StatusCode::NOT_MODIFIED, false)
    );
    let part = send(&[("range", "bytes=2-4")]).await.unwrap();
    assert_eq!(
        (part.status(), &part.headers()["content-range"]),
        (StatusCode::PARTIAL_CONTENT, &"bytes 2-4/10".parse().unwrap())
    );
    assert_eq!(text(part).await, "234");
    let beyond = send(&[("range", "bytes=10-")]).await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        text(send(&[("range", "bytes=0-1"), ("if-range", "\"2\"")]).await.unwrap()).await,
        "0123456789"
    );
    assert_eq!(origin.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn range_request_that_misses_is_forwarded_or_answered_from_whole_fetch() {
    let fields = &[("cache-control", "max-age=60")];
    let origin = Origin::new(|r, _| {
        let is_part = r.headers().contains_key("range");
        Ok(if is_part {
            response(&[("status", "206")], "origin")
        } else {
            response(fields, "0123456789")
        })
    });
    let range = || get("/", &[("range", "bytes=2-4")]);
    let plain = site(&CacheLayer::new(), &origin);
    assert_eq!(text(plain.clone().oneshot(range()).await.unwrap()).await, "origin");
    assert_eq!(fetch(&plain, "/").await, "0123456789");
    let filling = site(&CacheLayer::builder().fill_ranges(true).build(), &origin);
    for _ in 0..2 {
        let part = filling.clone().oneshot(range()).await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(text(part).await, "234");
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn partial_response_has_no_fields_of_the_whole() {
    let origin = Origin::new(|_, n| {
        let tag = format!("\"{n}\"");
        let fields = [("cache-control", "no-cache"), ("etag", &*tag), ("content-length", "10")];
        Ok(response(&fields, "0123456789"))
    });
    let send =
        |site: &Site, range: &'static str| site.clone().oneshot(get("/", &[("range", range)]));
    let replaced = site(&CacheLayer::new(), &origin);
    fetch(&replaced, "/").await;
    let filling = site(&CacheLayer::builder().fill_ranges(true).build(), &origin);
    for site in [replaced, filling] {
        for (range, status, want) in [("bytes=2-4", 206, "234"), ("bytes=10-", 416, "")] {
            let part = send(&site, range).await.unwrap();
            assert_eq!(part.status(), status);
            assert!(!part.headers().contains_key("content-length"), "the length of the whole");
            // A 416 is not a representation of the resource, so it must not be storable by other caches.
            let describes_whole = ["etag", "cache-control"].map(|f| part.headers().contains_key(f));
            assert_eq!(describes_whole, [status == 206; 2]);
            assert_eq!(text(part).await, want);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn condition_on_a_miss_is_evaluated_by_the_cache_and_the_whole_is_stored() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60"), ("etag", "\"1\"")]);
    let site = site(&CacheLayer::new(), &origin);
    let conditional = get("/", &[("if-none-match", "\"1\"")]);
    assert_eq!(status_of(&site, conditional).await, StatusCode::NOT_MODIFIED);
    assert!(!origin.seen(1).contains_key("if-none-match"));
    settle().await;
    assert_eq!(fetch(&site, "/").await, "1");
}

#[tokio::test(start_paused = true)]
async fn condition_on_a_private_response_reaches_the_origin_or_is_evaluated_by_the_cache() {
    let origin = Origin::new(|r, _| {
        let fields = [("cache-control", "private"), ("etag", "\"1\""), ("x", "y")];
        let is_conditional = r.headers().contains_key("if-none-match");
        Ok(if is_conditional {
            response(&[("status", "304")], "")
        } else {
            response(&fields, "page")
        })
    });
    let site = site(&CacheLayer::new(), &origin);
    let conditional = || get("/", &[("if-none-match", "\"1\"")]);
    let first = site.clone().oneshot(conditional()).await.unwrap();
    assert_eq!(
        (first.status(), &first.headers()["x"]),
        (StatusCode::NOT_MODIFIED, &"y".parse().unwrap())
    );
    assert_eq!(
        (text(first).await, origin.seen(1).contains_key("if-none-match")),
        (String::new(), false)
    );
    assert_eq!(status_of(&site, conditional()).await, StatusCode::NOT_MODIFIED);
    assert!(origin.seen(2).contains_key("if-none-match"));
    assert_eq!(fetch(&site, "/").await, "page");
}
