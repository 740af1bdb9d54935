//! Tests of the rate limit, in virtual time.

use std::error::Error as _;

use tokio::time::{Instant, advance};
use tower::ServiceExt;

use super::{super::super::assert_ready::AssertReady, *};
use crate::{
    Body, Response,
    layer::{
        ConcurrencyLimitLayer,
        limit::testing::{Rng, from_ip},
    },
};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const IP: &str = "192.0.2.1";

async fn hello(_: Request) -> Result<Response, BoxError> {
    Ok(Response::new(Body::from("hello")))
}

/// Returns the time of the refusal; `None` if the request is served.
async fn wait<K>(layer: &ClientRateLimitLayer<K>, request: Request) -> Option<Duration> {
    let Err(error) = layer.layer(AssertReady::new(hello)).oneshot(request).await else {
        return None;
    };
    let ours = Error::find(&*error).unwrap();
    assert!(ours.is_too_many_requests());
    Some(ours.source().unwrap().downcast_ref::<RateLimited>().unwrap().retry_after)
}

async fn served(layer: &ClientRateLimitLayer, ip: &str) -> bool {
    wait(layer, from_ip(ip)).await.is_none()
}

/// Returns how many of `n` requests at once are served.
async fn served_of(layer: &ClientRateLimitLayer, ip: &str, n: usize) -> usize {
    let mut sum = 0;
    for _ in 0..n {
        sum += usize::from(served(layer, ip).await);
    }
    sum
}

#[tokio::test(start_paused = true)]
async fn burst_is_served_and_then_the_rate() {
    let layer = ClientRateLimitLayer::per_ip(10, SEC, 3);
    assert_eq!(served_of(&layer, IP, 2).await, 2);
    assert_eq!(served_of(&layer, IP, 1).await, 1, "the whole burst");
    assert_eq!(wait(&layer, from_ip(IP)).await, Some(MS * 100), "one above");
    assert!(served(&layer, "192.0.2.2").await, "another client has its own");

    advance(MS * 99).await;
    assert_eq!(wait(&layer, from_ip(IP)).await, Some(MS), "a refusal costs nothing");
    advance(MS).await;
    assert_eq!(served_of(&layer, IP, 2).await, 1);
    advance(SEC * 60).await;
    assert_eq!(served_of(&layer, IP, 9).await, 3, "it never saves up more than the burst");
}

#[tokio::test(start_paused = true)]
async fn rate_is_met_exactly_over_a_long_time() {
    let mut rng = Rng(7);
    let layer = ClientRateLimitLayer::per_ip(5, SEC, 10);
    let (began, mut sum) = (Instant::now(), 0);
    while began.elapsed() < SEC * 100 {
        sum += served_of(&layer, IP, rng.below(5)).await;
        advance(MS * rng.below(400) as u32).await;
    }
    let most = began.elapsed().as_millis() as usize * 5 / 1000 + 10;
    assert!((most - 12..=most).contains(&sum), "{sum} of {most}");
}

#[tokio::test(start_paused = true)]
async fn refusal_is_429_and_says_when_to_come_back() {
    let layer = ClientRateLimitLayer::per_ip(1, SEC * 90, 1);
    let site = crate::layer::RescueLayer::new().layer(layer.layer(AssertReady::new(hello)));
    assert_eq!(site.clone().oneshot(from_ip(IP)).await.unwrap().status(), 200);
    advance(MS * 500).await;
    let refused = site.clone().oneshot(from_ip(IP)).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "90");
    advance(SEC * 90 - MS * 500).await;
    assert_eq!(site.oneshot(from_ip(IP)).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn networks_and_custom_keys_share_one_bucket_and_no_key_has_none() {
    let layer = ClientRateLimitLayer::per_ip(1, SEC, 1);
    assert!(served(&layer, "2001:db8::1").await);
    assert!(!served(&layer, "2001:db8::2").await);
    assert!(served(&layer, "2001:db8:0:1::1").await);
    let finer = ClientRateLimitLayer::builder(1, SEC, 1).ipv6_prefix(128).per_ip();
    assert!(served(&finer, "2001:db8::1").await && served(&finer, "2001:db8::2").await);

    let path = ClientRateLimitLayer::per_key(1, SEC, 1, |head: &Parts| match head.uri.path() {
        "/" => None,
        path => Some(path.to_owned()),
    });
    let to = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
    for _ in 0..9 {
        assert_eq!(wait(&path, to("/")).await, None);
    }
    assert_eq!(path.keys(), 0);
    assert_eq!(wait(&path, to("/a")).await, None);
    assert_eq!(wait(&path, to("/a")).await, Some(SEC));
    assert_eq!(path.keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn full_table_forgets_idle_keys_once_a_second() {
    let layer = ClientRateLimitLayer::builder(1, SEC, 1).max_keys(2).per_ip();
    assert!(served(&layer, "192.0.2.1").await && served(&layer, "192.0.2.2").await);
    assert_eq!(layer.keys(), 2);
    advance(SEC).await;
    assert!(served(&layer, "192.0.2.3").await, "both are idle");
    assert_eq!(layer.keys(), 1);
    assert!(served(&layer, "192.0.2.4").await);
    advance(MS * 999).await;
    // There is no sweep within a second of the last one: the shared bucket applies.
    assert!(served(&layer, "192.0.2.5").await);
    assert!(!served(&layer, "192.0.2.6").await);
    assert_eq!(layer.keys(), 2);
    advance(MS).await;
    assert!(served(&layer, "192.0.2.6").await);
    assert_eq!(layer.keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn new_keys_above_the_bound_share_one_bucket_and_known_ones_keep_theirs() {
    let layer = ClientRateLimitLayer::builder(1, SEC, 4).max_keys(100).per_ip();
    let ip = |n: usize| format!("10.0.{}.{}", n / 256, n % 256);
    for n in 0..100 {
        assert_eq!(served_of(&layer, &ip(n), 3).await, 3);
    }
    let mut served_above = 0;
    for n in 100..10_000 {
        served_above += usize::from(served(&layer, &ip(n)).await);
    }
    assert_eq!((served_above, layer.keys()), (4, 100));
    assert_eq!(served_of(&layer, &ip(50), 2).await, 1, "as if nothing had happened");
    for max in [0, 1] {
        let layer = ClientRateLimitLayer::builder(1, SEC, 1).max_keys(max).per_ip();
        assert!(served(&layer, "192.0.2.1").await);
        assert_eq!(layer.keys(), max);
        assert!(!served(&layer, "192.0.2.1").await);
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_rates_are_replaced_by_the_nearest_valid_ones() {
    let never = ClientRateLimitLayer::per_ip(0, Duration::MAX, 0);
    assert!(served(&never, IP).await);
    assert!(wait(&never, from_ip(IP)).await.unwrap() > SEC * 3600 * 24 * 365);
    let always = ClientRateLimitLayer::per_ip(u32::MAX, Duration::ZERO, u32::MAX);
    assert_eq!(served_of(&always, IP, 1000).await, 1000);
    let long = ClientRateLimitLayer::per_ip(1, Duration::MAX, u32::MAX);
    advance(SEC * 3600 * 24 * 365).await;
    assert!(served(&long, IP).await);
}

#[tokio::test(start_paused = true)]
async fn refused_request_releases_permit_reserved_inside() {
    let inside = ConcurrencyLimitLayer::new(1);
    let mut service =
        ClientRateLimitLayer::per_ip(1, SEC, 1).layer(inside.layer(AssertReady::new(hello)));
    for refused in [false, true] {
        let answer = service.ready().await.unwrap().call(from_ip(IP)).await;
        assert_eq!(answer.is_err(), refused);
        assert_eq!(inside.stats().in_flight, 0);
    }
    advance(SEC).await;
    assert!(service.ready().await.unwrap().call(from_ip(IP)).await.is_ok());
}
