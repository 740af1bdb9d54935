//! Tests of the limit on requests in flight: keys, the end of a request, memory.

use std::{error::Error as _, future::pending};

use bytes::Bytes;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::{super::super::assert_ready::AssertReady, *};
use crate::{
    Body,
    layer::{
        ConcurrencyLimitLayer,
        limit::testing::{Rng, from_ip},
    },
};

type Answer = Result<Response, BoxError>;

const IP: &str = "192.0.2.1";

async fn never(_: Request) -> Answer {
    pending().await
}

/// Responds with the request's body.
async fn echo(r: Request) -> Answer {
    Ok(Response::new(r.into_body()))
}

fn assert_refused(answer: Answer, limit: usize) {
    let error = answer.unwrap_err();
    let ours = Error::find(&*error).unwrap();
    assert!(ours.is_too_many_requests());
    assert_eq!(ours.source().unwrap().downcast_ref(), Some(&TooManyInFlight { limit }));
    let response = crate::layer::rescue::response(&error, crate::layer::rescue::Format::Text);
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"1".parse().unwrap())
    );
}

#[tokio::test]
async fn client_at_its_bound_is_refused_while_another_is_served() {
    let layer = InFlightLayer::per_ip(2);
    let mut service = layer.layer(AssertReady::new(never));
    let mut calls = Vec::new();
    for ip in [IP, "::ffff:192.0.2.1"] {
        calls.push(service.ready().await.unwrap().call(from_ip(ip)));
    }
    assert_refused(layer.layer(AssertReady::new(never)).oneshot(from_ip(IP)).await, 2);
    assert_refused(service.clone().oneshot(from_ip(IP)).await, 2);
    calls.push(service.ready().await.unwrap().call(from_ip("192.0.2.2")));
    assert_eq!(layer.clients(), 2);

    drop(calls.remove(0));
    calls.push(service.ready().await.unwrap().call(from_ip(IP)));
    assert_refused(service.oneshot(from_ip(IP)).await, 2);
    drop(calls);
    assert_eq!(layer.clients(), 0, "a client without requests in flight is removed");
}

#[tokio::test]
async fn ipv6_client_is_its_network_of_64_bits_or_as_many_as_set() {
    let layer = InFlightLayer::per_ip(1);
    let mut service = layer.layer(AssertReady::new(never));
    let _call = service.ready().await.unwrap().call(from_ip("2001:db8::1"));
    assert_refused(service.clone().oneshot(from_ip("2001:db8::ffff:0:0:2")).await, 1);

    let mut finer = InFlightLayer::per_network(1, 128).layer(AssertReady::new(never));
    let _a = finer.ready().await.unwrap().call(from_ip("2001:db8::1"));
    let _b = finer.ready().await.unwrap().call(from_ip("2001:db8::2"));
    assert_refused(finer.oneshot(from_ip("2001:db8::1")).await, 1);
}

#[tokio::test]
async fn client_without_ip_is_not_limited() {
    let layer = InFlightLayer::per_ip(1);
    let mut service = layer.layer(AssertReady::new(never));
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(Box::pin(service.ready().await.unwrap().call(Request::default())));
    }
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(calls.iter_mut().all(|call| call.as_mut().poll(&mut cx).is_pending()));
    assert_eq!(layer.clients(), 0);
}

#[tokio::test]
async fn custom_key_can_have_any_type() {
    let layer = InFlightLayer::per_key(0, |head: &Parts| Some(head.uri.path().to_owned()));
    let mut service = layer.layer(AssertReady::new(never));
    let to = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
    let _a = service.ready().await.unwrap().call(to("/a"));
    let _b = service.ready().await.unwrap().call(to("/b"));
    assert_refused(service.oneshot(to("/a")).await, 1);
    assert_eq!(layer.clients(), 2);
}

#[tokio::test]
async fn request_counts_until_its_body_ends_fails_or_is_dropped() {
    let layer = InFlightLayer::per_ip(1);
    let service = layer.layer(AssertReady::new(echo));
    let with = |body: Body| {
        let (parts, ()) = from_ip(IP).map(|_| ()).into_parts();
        Request::from_parts(parts, body)
    };
    let whole = service.clone().oneshot(with(Body::from("hello"))).await.unwrap();
    assert_eq!((whole.body().as_bytes().unwrap(), layer.clients()), (Bytes::from("hello"), 0));

    let (tx, body) = Body::channel(None);
    let mut response = service.clone().oneshot(with(body)).await.unwrap();
    assert_refused(service.clone().oneshot(from_ip(IP)).await, 1);
    tx.finish(None);
    assert!(response.body_mut().frame().await.is_none());
    assert_eq!(layer.clients(), 0);

    let (tx, body) = Body::channel(None);
    let mut response = service.clone().oneshot(with(body)).await.unwrap();
    drop(tx);
    assert!(response.body_mut().frame().await.unwrap().is_err());
    assert_eq!(layer.clients(), 0);

    let (_tx, body) = Body::channel(None);
    let response = service.clone().oneshot(with(body)).await.unwrap();
    assert_eq!(layer.clients(), 1);
    drop(response);
    assert_eq!(layer.clients(), 0);

    let fails =
        layer.layer(AssertReady::new(async |_: Request| Err::<Response, BoxError>("no".into())));
    assert!(fails.oneshot(from_ip(IP)).await.is_err());
    assert_eq!(layer.clients(), 0);
}

#[tokio::test]
async fn refused_request_releases_permit_reserved_inside() {
    let inside = ConcurrencyLimitLayer::new(2);
    let mut service = InFlightLayer::per_ip(1).layer(inside.layer(AssertReady::new(never)));
    let _call = service.ready().await.unwrap().call(from_ip(IP));
    // Not dropped, as a connection keeps its handle between requests.
    let mut refused = service.clone();
    assert_refused(refused.ready().await.unwrap().call(from_ip(IP)).await, 1);
    assert_eq!(inside.stats().in_flight, 1);
    let other = refused.ready().await.unwrap().call(from_ip("192.0.2.2"));
    assert_eq!(inside.stats().in_flight, 2);
    drop(other);
}

#[tokio::test]
async fn counts_are_exact_and_end_at_zero_in_any_order() {
    for seed in 1..=30 {
        let mut rng = Rng(seed);
        let layer =
            InFlightLayer::per_key(2, |head: &Parts| head.extensions.get::<usize>().copied());
        let mut service = layer.layer(AssertReady::new(echo));
        let (mut calls, mut bodies) = (Vec::new(), Vec::new());
        let mut counts = [0; 3];
        for _ in 0..500 {
            let who = rng.below(3);
            match rng.below(4) {
                0 | 1 => {
                    let mut request = Request::new(Body::channel(None).1);
                    request.extensions_mut().insert(who);
                    let call = service.ready().await.unwrap().call(request);
                    let refused = matches!(call.state, State::Refused(_));
                    assert_eq!(refused, counts[who] == 2, "seed {seed}");
                    if !refused {
                        counts[who] += 1;
                        calls.push((who, call));
                    }
                }
                2 if !calls.is_empty() => {
                    let (who, call) = calls.swap_remove(rng.below(calls.len()));
                    bodies.push((who, call.await.unwrap()));
                }
                _ if !bodies.is_empty() => {
                    let (who, body) = bodies.swap_remove(rng.below(bodies.len()));
                    drop(body);
                    counts[who] -= 1;
                }
                _ => {}
            }
            let there = counts.iter().filter(|n| **n > 0).count();
            assert_eq!(layer.clients(), there, "seed {seed}");
        }
        drop((calls, bodies));
        assert_eq!(layer.clients(), 0, "seed {seed}");
    }
}
