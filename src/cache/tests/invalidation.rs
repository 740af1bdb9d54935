//! Invalidation by unsafe requests and by the handle.

use std::task::{Context, Poll, Waker};

use super::*;

#[tokio::test(start_paused = true)]
async fn unsafe_request_invalidates_its_target_and_references_if_it_succeeds() {
    let origin = Origin::new(|r, n| {
        Ok(match r.method() {
            &Method::GET => response(&[("cache-control", "max-age=60")], n.to_string()),
            _ if r.uri().path() == "/fails" => {
                response(&[("status", "500"), ("location", "/a")], "")
            }
            _ => response(
                &[("location", "/a"), ("content-location", "b"), ("location", "http://other/c")],
                "",
            ),
        })
    });
    let site = site(&CacheLayer::new(), &origin);
    let all = async |site: &Site| {
        let mut all = Vec::new();
        for path in ["/t", "/a", "/b", "/c"] {
            all.push(fetch(site, path).await);
        }
        all.join(" ")
    };
    let post = |path: &str| {
        Request::post(format!("http://site.example{path}")).body(Body::from("x")).unwrap()
    };
    assert_eq!(all(&site).await, "1 2 3 4");
    assert_eq!(status_of(&site, post("/fails")).await, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(all(&site).await, "1 2 3 4");
    assert_eq!(status_of(&site, post("/t")).await, StatusCode::OK);
    assert_eq!(all(&site).await, "7 8 9 4");
}

/// A request reads both numbers without the lock, and may find an object that is being invalidated meanwhile.
#[test]
fn request_beside_an_invalidation_looks_again_and_stores_nothing() {
    let layer = CacheLayer::new();
    let (flights, options) = (&layer.shared.flights, &layer.shared.options);
    let key = Key::new("http", "site.example", "/", None).unwrap();
    let read = || (flights.changes(), flights.invalidations(&key));
    let invalidations: [&dyn Fn() -> (u64, u64); 2] =
        [&|| flights.invalidate_key(&key, read), &|| flights.invalidate(|_, _| true, read)];
    for invalidate in invalidations {
        let (changes, invalidations) = invalidate();
        assert_ne!(flights.changes(), changes, "the lookup is repeated");
        assert!(flights.lead_late(&key, invalidations, options).is_none(), "it is not stored");
    }
    let (_, invalidations) = read();
    assert!(flights.lead_late(&key, invalidations, options).is_some());
}

#[tokio::test(start_paused = true)]
async fn handle_invalidates_by_key_prefix_and_group() {
    let origin = Origin::new(|r, n| {
        let group = if r.uri().path().starts_with("/g") { "\"news\", \"x\"" } else { "\"x\"" };
        Ok(response(
            &[("cache-control", "max-age=60"), ("cache-groups", group), ("etag", "\"e\"")],
            n.to_string(),
        ))
    });
    let layer = CacheLayer::new();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let all = async || {
        format!(
            "{} {} {}",
            fetch(&site, "/g1").await,
            fetch(&site, "/g2").await,
            fetch(&site, "/h").await
        )
    };
    assert_eq!(all().await, "1 2 3");
    cache.delete(&Key::new("http", "SITE.example", "/g%31", None).unwrap(), Purge::Hard);
    assert_eq!(all().await, "4 2 3");
    let swept = async || {
        cache.swept().await;
        cache.stats().invalidated
    };
    cache.delete_prefix("http://site.example/g", Purge::Hard);
    assert_eq!(swept().await, 2);
    assert_eq!(all().await, "5 6 3");
    cache.invalidate("news", Purge::Soft);
    assert_eq!(all().await, "7 8 3");
    assert_eq!(origin.seen(7)["if-none-match"], "\"e\"", "soft: it is validated");
    // The responses that were validated are newer than the mark.
    assert_eq!((all().await, swept().await <= 4), ("7 8 3".to_owned(), true));
    let before = cache.stats().invalidated;
    cache.invalidate("news", Purge::Soft);
    assert_eq!(swept().await - before, 2);
    cache.invalidate("nothing", Purge::Hard);
    assert_eq!(swept().await - before, 2);
    cache.delete_all(Purge::Hard);
    assert_eq!((swept().await - before, cache.stats().keys), (5, 0));
    assert_eq!(all().await, "9 10 11");
}

#[tokio::test(start_paused = true)]
async fn group_of_an_unsafe_response_is_invalidated_in_its_own_site_only() {
    let origin = Origin::new(|r, n| {
        Ok(match r.method() {
            &Method::GET => response(
                &[("cache-control", "max-age=60"), ("cache-groups", "\"g\"")],
                n.to_string(),
            ),
            _ => response(&[("cache-group-invalidation", "\"g\"")], ""),
        })
    });
    let site = site(&CacheLayer::new(), &origin);
    let send = |host: &'static str, method: &'static str| {
        let site = site.clone();
        let request = Request::builder().method(method).uri(format!("http://{host}/{method}"));
        async move { text(site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await }
    };
    assert_eq!((send("a", "GET").await, send("ab", "GET").await), ("1".into(), "2".into()));
    send("a", "POST").await;
    assert_eq!((send("a", "GET").await, send("ab", "GET").await), ("4".into(), "2".into()));
}

#[tokio::test(start_paused = true)]
async fn cache_status_says_stored_unless_the_response_was_invalidated_or_is_too_large() {
    type Piece = Result<bytes::Bytes, BoxError>;
    let origin = Origin::new(|r, _| {
        let body = match r.uri().path() {
            "/complete" => Body::from("content"),
            "/incomplete" => Body::from_stream(tokio_stream::pending::<Piece>()),
            _ => Body::from_stream(tokio_stream::iter([(); 2].map(|()| Piece::Ok("x".into())))),
        };
        Ok(response(&[("cache-control", "max-age=60")], body))
    });
    let origin = origin.delayed(SEC);
    for (path, max, invalidates, is_stored) in [
        ("/complete", 100, false, true),
        ("/complete", 100, true, false),
        ("/incomplete", 100, false, true),
        ("/incomplete", 100, true, false),
        ("/of-unknown-length", 2, false, true),
        ("/of-unknown-length", 1, false, false),
    ] {
        let layer = CacheLayer::builder().max_object(max).cache_status("c").build();
        let request = tokio::spawn(site(&layer, &origin).oneshot(get(path, &[])));
        settle().await;
        if invalidates {
            layer.handle().delete_all(Purge::Hard);
        }
        let response = request.await.unwrap().unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap();
        assert_eq!(status.ends_with("; stored"), is_stored, "{path} {max} {invalidates}: {status}");
    }
}

#[test]
fn cache_status_does_not_say_stored_if_no_task_can_read_the_content() {
    let origin = Origin::new(|_, _| {
        let body = Body::from_stream(tokio_stream::pending::<Result<bytes::Bytes, BoxError>>());
        Ok(response(&[("cache-control", "max-age=60")], body))
    });
    let layer = CacheLayer::builder().cache_status("c").build();
    let mut request = std::pin::pin!(site(&layer, &origin).oneshot(get("/", &[])));
    // There is no runtime.
    let Poll::Ready(response) = request.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("it waits");
    };
    assert_eq!(response.unwrap().headers()["cache-status"], "c; fwd=uri-miss");
}
