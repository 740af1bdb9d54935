//! Tests of requests for a key whose responses could not be shared.

use super::*;

#[tokio::test(start_paused = true)]
async fn first_storable_response_after_a_private_one_lets_the_next_one_be_stored() {
    let origin = Origin::new(|_, n| {
        let control = if n == 1 { "private" } else { "max-age=60" };
        Ok(response(&[("cache-control", control)], n.to_string()))
    });
    let site = site(&CacheLayer::new(), &origin);
    for want in ["1", "2", "3", "3"] {
        assert_eq!(fetch(&site, "/").await, want);
    }
}

#[tokio::test(start_paused = true)]
async fn request_after_a_private_response_is_forwarded_unchanged() {
    let origin = Origin::with_fields(&[("cache-control", "private")]);
    let site = site(&CacheLayer::new(), &origin);
    let fields =
        [("accept-encoding", "x, gzip"), ("if-none-match", "\"1\""), ("range", "bytes=1-")];
    fetch(&site, "/").await;
    site.clone().oneshot(get("/", &fields)).await.unwrap();
    for (name, value) in fields {
        assert_eq!(origin.seen(2)[name], value);
    }
}

#[tokio::test(start_paused = true)]
async fn response_that_shows_nothing_leaves_the_time_of_a_private_one() {
    let origin = Origin::new(|request, n| {
        let fields = match n {
            1 => [("cache-control", "private"), ("status", "200")],
            _ if request.headers().contains_key("authorization") => {
                [("cache-control", "max-age=60"), ("status", "200")]
            }
            _ if request.headers().contains_key("range") => {
                [("cache-control", "max-age=60"), ("status", "206")]
            }
            _ => [("cache-control", "max-age=60"), ("status", "304")],
        };
        Ok(response(&fields, n.to_string()))
    });
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    fetch(&site, "/").await;
    let shared = &layer.shared;
    let key = Key::new("http", "site.example", "/", None).unwrap();
    let until = shared.hit_for_miss(&key, shared.clock.now());
    assert!(until.is_some());
    tokio::time::advance(HIT_FOR_MISS * 3 / 4).await;
    for fields in
        [[("authorization", "Basic eDp5")], [("range", "bytes=1-")], [("if-none-match", "\"1\"")]]
    {
        site.clone().oneshot(get("/", &fields)).await.unwrap();
        assert_eq!(shared.hit_for_miss(&key, shared.clock.now()), until, "{fields:?}");
    }
    assert_eq!(origin.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn private_response_in_the_second_half_of_the_time_extends_it() {
    let origin = Origin::with_fields(&[("cache-control", "private")]);
    let layer = CacheLayer::new();
    let site = site(&layer, &origin);
    let key = Key::new("http", "site.example", "/", None).unwrap();
    let shared = &layer.shared;
    let mut until = None;
    for (step, extends) in [(0, true), (4, false), (2, true), (4, false)] {
        tokio::time::advance(step * HIT_FOR_MISS / 10).await;
        fetch(&site, "/").await;
        let next = shared.hit_for_miss(&key, shared.clock.now());
        assert_eq!(next > until, extends, "{step}");
        until = next;
    }
}
