//! Tests of the concurrency limit: permits, the queue, bodies.

mod adaptive;

use std::{error::Error as _, future::pending};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{sync::oneshot, task::yield_now, time::Instant};
use tower::ServiceExt;

use super::{super::super::assert_ready::AssertReady, *};
use crate::{
    Body,
    body::Sender,
    layer::{RequestBufferLayer, limit::testing::Rng},
};

type Answer = Result<Response, BoxError>;

async fn hello(_: Request) -> Answer {
    Ok(Response::new(Body::from("hello")))
}

async fn never(_: Request) -> Answer {
    pending().await
}

fn stats(limit: usize, in_flight: usize, waiting: usize) -> Stats {
    Stats { limit, in_flight, waiting }
}

/// Polls for readiness once, without a waker.
fn is_ready<S: Service<Request, Error = BoxError>>(service: &mut S) -> bool {
    match service.poll_ready(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(ready) => ready.map(|()| true).unwrap(),
        Poll::Pending => false,
    }
}

/// Returns the source of a refusal.
fn refusal<E: std::error::Error + Copy + 'static>(answer: Answer) -> E {
    let error = answer.unwrap_err();
    let ours = Error::find(&*error).unwrap();
    assert_eq!(ours.kind(), Kind::Overloaded);
    *ours.source().unwrap().downcast_ref().expect("another reason")
}

#[tokio::test]
async fn limit_is_ready_for_as_many_as_it_has_permits() {
    let limit = ConcurrencyLimitLayer::new(2);
    let [mut a, mut b, mut c] = std::array::from_fn(|_| limit.layer(AssertReady::new(hello)));
    assert!(is_ready(&mut a));
    assert_eq!(limit.stats(), stats(2, 1, 0));
    assert!(
        is_ready(&mut b) && is_ready(&mut b),
        "a handle takes one permit, however often polled"
    );
    assert!(!is_ready(&mut c));
    assert_eq!(c.stats(), stats(2, 2, 1));
    drop(a);
    assert!(is_ready(&mut c));
    assert_eq!(limit.stats(), stats(2, 2, 0));
}

#[tokio::test]
async fn clone_of_ready_handle_has_no_permit() {
    let mut a = ConcurrencyLimit::new(AssertReady::new(hello), 1);
    assert!(is_ready(&mut a));
    let mut b = a.clone();
    assert!(!is_ready(&mut b) && is_ready(&mut a));
    drop((a, b));
}

#[tokio::test]
async fn unready_handle_never_calls_inner_service() {
    let mut a = ConcurrencyLimit::new(AssertReady::new(hello), 1);
    assert_eq!(refusal::<QueueFull>(a.call(Request::default()).await), QueueFull { waiting: 0 });
    assert_eq!(a.stats(), stats(1, 0, 0));
    assert_eq!(ConcurrencyLimit::new(AssertReady::new(hello), 0).stats().limit, 1);
}

#[tokio::test]
async fn waiters_are_served_in_order_of_arrival() {
    let mut holder = ConcurrencyLimit::new(AssertReady::new(hello), 1);
    assert!(is_ready(&mut holder));
    let mut waiters: Vec<_> = (0..4).map(|_| holder.clone()).collect();
    for w in &mut waiters {
        assert!(!is_ready(w));
    }
    let mut late = holder.clone();
    drop(holder);
    // Polled in another order than that of their arrival.
    assert!(!is_ready(&mut late));
    while !waiters.is_empty() {
        assert!(waiters[1..].iter_mut().all(|w| !is_ready(w)));
        assert!(is_ready(&mut waiters[0]));
        assert!(!is_ready(&mut late));
        drop(waiters.remove(0));
    }
    assert!(is_ready(&mut late));
}

#[tokio::test]
async fn dropped_waiter_leaves_the_queue() {
    let limit = ConcurrencyLimitLayer::builder(1).queue(2).build();
    let mut a = limit.layer(AssertReady::new(hello));
    let (mut b, mut c) = (a.clone(), a.clone());
    assert!(is_ready(&mut a) && !is_ready(&mut b) && !is_ready(&mut c));
    drop(b);
    assert_eq!(limit.stats(), stats(1, 1, 1));
    drop(a);
    assert!(is_ready(&mut c));

    // A handle that was given its permit and never polled again passes it on.
    let (mut d, mut e) = (c.clone(), c.clone());
    assert!(!is_ready(&mut d) && !is_ready(&mut e));
    drop(c);
    drop(d);
    assert!(is_ready(&mut e));
    drop(e);
    assert_eq!(limit.stats(), stats(1, 0, 0));
}

#[tokio::test]
async fn full_queue_refuses_at_once() {
    for len in [0, 1, 2] {
        let limit = ConcurrencyLimitLayer::builder(1).queue(len).build();
        let mut a = limit.layer(AssertReady::new(hello));
        assert!(is_ready(&mut a));
        let mut waiters: Vec<_> = (0..len).map(|_| a.clone()).collect();
        assert!(waiters.iter_mut().all(|w| !is_ready(w)));
        let mut above = a.clone();
        assert!(is_ready(&mut above), "poll_ready never fails");
        let answer = above.call(Request::default()).await;
        assert_eq!(refusal::<QueueFull>(answer), QueueFull { waiting: len });
        // A refused handle may retry.
        drop((waiters, a));
        assert!(above.ready().await.unwrap().call(Request::default()).await.is_ok());
    }
}

#[tokio::test]
async fn sixty_four_waiters_are_allowed_for_each_permit_by_default() {
    let limit = ConcurrencyLimitLayer::new(2);
    let mut handles: Vec<_> = (0..130).map(|_| limit.layer(AssertReady::new(hello))).collect();
    assert_eq!(handles.iter_mut().filter_map(|h| is_ready(h).then_some(())).count(), 2);
    assert_eq!(limit.stats(), stats(2, 2, 128));
    let mut above = limit.layer(AssertReady::new(hello));
    assert!(is_ready(&mut above));
    assert!(above.call(Request::default()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn waiter_past_queue_timeout_is_refused_and_leaves_the_queue() {
    let limit = ConcurrencyLimitLayer::new(1);
    let mut holder = limit.layer(AssertReady::new(hello));
    assert!(is_ready(&mut holder));
    let began = Instant::now();
    let answer = holder.clone().oneshot(Request::default()).await;
    assert_eq!(refusal::<PermitTimeout>(answer), PermitTimeout(QUEUE_TIMEOUT));
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(limit.stats(), stats(1, 1, 0));

    let limit = ConcurrencyLimitLayer::builder(1).queue_timeout(Duration::MAX).build();
    let mut holder = limit.layer(AssertReady::new(hello));
    assert!(is_ready(&mut holder));
    let waits = tokio::spawn(holder.clone().oneshot(Request::default()));
    tokio::time::sleep(QUEUE_TIMEOUT * 1000).await;
    assert_eq!(limit.stats(), stats(1, 1, 1));
    drop(holder);
    assert!(waits.await.unwrap().is_ok());
    assert_eq!(limit.stats(), stats(1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn deadline_that_passes_in_queue_is_timeout_and_queue_timeout_before_it_overload() {
    const SEC: Duration = Duration::from_secs(1);
    for (deadline, queue_timeout, want) in
        [(SEC, SEC * 2, Kind::Timeout), (SEC * 2, SEC, Kind::Overloaded)]
    {
        let limit = ConcurrencyLimitLayer::builder(1).queue_timeout(queue_timeout).build();
        let mut holder = limit.layer(AssertReady::new(hello));
        assert!(is_ready(&mut holder));
        let waits = tower::ServiceBuilder::new()
            .layer(crate::layer::RequestDeadlineLayer::new(deadline))
            .layer(RequestBufferLayer::new())
            .service(holder.clone());
        let began = Instant::now();
        let error = waits.oneshot(Request::<Body>::default()).await.unwrap_err();
        assert_eq!(Error::find(&*error).unwrap().kind(), want);
        assert_eq!(began.elapsed().as_secs(), 1);
        assert_eq!(limit.stats().waiting, 0);
    }
}

#[tokio::test]
async fn error_and_dropped_future_and_complete_body_release_the_permit() {
    let limit = ConcurrencyLimitLayer::new(1);
    let fails =
        limit.layer(AssertReady::new(async |_: Request| Err::<Response, BoxError>("no".into())));
    assert_eq!(fails.oneshot(Request::default()).await.unwrap_err().to_string(), "no");
    assert_eq!(limit.stats().in_flight, 0);

    let mut hangs = limit.layer(AssertReady::new(never));
    let call = hangs.ready().await.unwrap().call(Request::default());
    assert_eq!(limit.stats().in_flight, 1);
    drop(call);
    assert_eq!(limit.stats().in_flight, 0);

    let mut whole = limit.layer(AssertReady::new(hello));
    let mut call = Box::pin(whole.ready().await.unwrap().call(Request::default()));
    let response = call.as_mut().await.unwrap();
    assert_eq!(limit.stats().in_flight, 0, "with the head, even while its future is kept");
    assert_eq!(response.body().as_bytes().unwrap(), "hello");
}

/// Returns a limit of one, and a response whose body ends with its sender.
async fn streamed() -> (ConcurrencyLimitLayer, Sender, Body) {
    let limit = ConcurrencyLimitLayer::new(1);
    let (tx, body) = Body::channel(None);
    let mut body = Some(body);
    let app = AssertReady::new(move |_: Request| {
        std::future::ready(Ok::<_, BoxError>(Response::new(body.take().unwrap())))
    });
    let response = limit.layer(app).oneshot(Request::default()).await.unwrap();
    assert_eq!(limit.stats().in_flight, 1);
    (limit, tx, response.into_body())
}

#[tokio::test]
async fn streamed_body_holds_the_permit_until_it_ends_fails_or_is_dropped() {
    let (limit, tx, mut body) = streamed().await;
    tx.send(Bytes::from("x")).unwrap();
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(limit.stats().in_flight, 1);
    tx.finish(None);
    assert!(body.frame().await.is_none());
    assert_eq!(limit.stats().in_flight, 0, "at the end, even while the body is kept");

    let (limit, tx, mut body) = streamed().await;
    drop(tx);
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(limit.stats().in_flight, 0);

    let (limit, _tx, body) = streamed().await;
    drop(body);
    assert_eq!(limit.stats().in_flight, 0);
}

/// A service that is never ready: it fails or is pending for ever.
#[derive(Clone)]
struct Unready(bool);

impl Service<Request> for Unready {
    type Response = Response;
    type Error = BoxError;
    type Future = std::future::Ready<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.0 { Poll::Ready(Err("broken".into())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Request) -> Self::Future {
        unreachable!("it is never ready")
    }
}

#[tokio::test]
async fn failed_readiness_releases_the_permit_and_pending_one_keeps_it() {
    let limit = ConcurrencyLimitLayer::new(1);
    let mut fails = limit.layer(Unready(true));
    assert_eq!(fails.ready().await.err().unwrap().to_string(), "broken");
    assert_eq!(limit.stats().in_flight, 0);
    let mut waits = limit.layer(Unready(false));
    assert!(!is_ready(&mut waits));
    assert_eq!(limit.stats(), stats(1, 1, 0));
}

/// Requests in all stages, with random events.
#[tokio::test(start_paused = true)]
async fn permits_are_neither_lost_nor_added_by_any_order_of_calls() {
    for seed in 1..=30 {
        let mut rng = Rng(seed);
        let permits = 1 + rng.below(4);
        let limit = ConcurrencyLimitLayer::builder(permits).queue(rng.below(4)).build();
        let service = limit.layer(AssertReady::new(async |_: Request| {
            let (tx, body) = Body::channel(None);
            let held = Response::builder().extension(Arc::new(tx)).body(body);
            Ok::<_, BoxError>(held.unwrap())
        }));
        let (mut handles, mut calls, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..500 {
            match rng.below(8) {
                0 | 1 => handles.push(service.clone()),
                2 if !handles.is_empty() => drop(handles.swap_remove(rng.below(handles.len()))),
                3 | 4 if !handles.is_empty() => {
                    let i = rng.below(handles.len());
                    if is_ready(&mut handles[i]) {
                        calls.push(Box::pin(handles[i].call(Request::default())));
                    }
                }
                5 if !calls.is_empty() => {
                    if let Ok(response) = calls.swap_remove(rng.below(calls.len())).await {
                        bodies.push(response);
                    }
                }
                6 if !calls.is_empty() => drop(calls.swap_remove(rng.below(calls.len()))),
                7 if !bodies.is_empty() => drop(bodies.swap_remove(rng.below(bodies.len()))),
                _ => tokio::time::advance(Duration::from_millis(rng.below(3000) as u64)).await,
            }
            let Stats { in_flight, waiting, .. } = limit.stats();
            assert!(in_flight <= permits && bodies.len() <= in_flight, "seed {seed}");
            assert!(waiting <= handles.len(), "seed {seed}");
        }
        drop((handles, calls, bodies));
        assert_eq!(limit.stats(), stats(permits, 0, 0), "seed {seed}");
    }
}

#[tokio::test]
async fn thousand_trickling_requests_outside_of_request_buffer_hold_no_permit() {
    let limit = ConcurrencyLimitLayer::new(2);
    let site = RequestBufferLayer::new().layer(limit.layer(AssertReady::new(hello)));
    let mut slow = Vec::new();
    for _ in 0..1000 {
        let (tx, body) = Body::channel(None);
        tx.send(Bytes::from("a first byte")).unwrap();
        let call = tokio::spawn(site.clone().oneshot(Request::new(body)));
        slow.push((tx, call));
    }
    yield_now().await;
    assert_eq!(limit.stats(), stats(2, 0, 0));
    let quick = site.clone().oneshot(Request::new(Body::from("all of it"))).await.unwrap();
    assert_eq!(quick.status(), 200);

    // When their bodies end, all are served, two at a time.
    let mut answers = Vec::new();
    for (tx, call) in slow {
        tx.finish(None);
        answers.push(call);
    }
    let mut served = 0;
    for answer in answers {
        served += usize::from(answer.await.unwrap().is_ok());
    }
    assert_eq!((served, limit.stats()), (1000, stats(2, 0, 0)));
}

#[tokio::test]
async fn waiting_request_is_woken_when_another_ends() {
    let limit = ConcurrencyLimitLayer::new(1);
    let (go, gone) = oneshot::channel::<()>();
    let mut gone = Some(gone);
    let first = limit.layer(AssertReady::new(move |_: Request| {
        let gone = gone.take().unwrap();
        async move {
            gone.await.unwrap();
            hello(Request::default()).await
        }
    }));
    let first = tokio::spawn(first.oneshot(Request::default()));
    yield_now().await;
    let second = tokio::spawn(limit.layer(AssertReady::new(hello)).oneshot(Request::default()));
    yield_now().await;
    assert_eq!(limit.stats(), stats(1, 1, 1));
    go.send(()).unwrap();
    assert!(second.await.unwrap().is_ok() && first.await.unwrap().is_ok());
}

#[tokio::test]
async fn gate_is_open_while_a_permit_is_free_and_takes_none() {
    let layer = ConcurrencyLimitLayer::new(1);
    let gate = layer.gate();
    let mut handle = layer
        .layer(AssertReady::new(async |_: Request| Ok::<Response, BoxError>(Response::default())));
    assert!(gate.is_open());
    handle.ready().await.unwrap();
    assert!(!gate.is_open());
    let opened = tokio::spawn(async move { gate.opened().await });
    drop(handle);
    opened.await.unwrap();
    assert_eq!(layer.stats().in_flight, 0);
}
