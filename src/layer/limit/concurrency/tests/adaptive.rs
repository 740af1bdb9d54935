//! Tests of the adaptive limit, with a service and of its permits alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

/// A service that works on a number of requests at a time, in order, with a latency in milliseconds.
fn slots(
    n: usize,
    latency: Arc<AtomicU64>,
) -> impl Service<Request, Response = Response, Error = BoxError, Future: Send> + Clone + Send {
    let slots = Arc::new(tokio::sync::Semaphore::new(n));
    AssertReady::new(move |r: Request| {
        let (slots, latency) = (slots.clone(), latency.clone());
        async move {
            let _slot = slots.acquire().await?;
            tokio::time::sleep(Duration::from_millis(latency.load(Relaxed))).await;
            hello(r).await
        }
    })
}

/// Spawns `n` clients, each of which sends the next request after a response.
fn clients<S>(n: usize, service: &S) -> tokio::task::JoinSet<()>
where
    S: Service<Request, Response = Response, Future: Send> + Clone + Send + 'static,
{
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..n {
        let service = service.clone();
        all.spawn(async move {
            loop {
                let _ = service.clone().oneshot(Request::default()).await;
            }
        });
    }
    all
}

#[tokio::test(start_paused = true)]
async fn adaptive_limit_finds_capacity_of_service_and_follows_it() {
    const SEC: Duration = Duration::from_secs(1);
    let latency = Arc::new(AtomicU64::new(20));
    let limit = ConcurrencyLimitLayer::new(Gradient::new());
    assert_eq!(limit.stats().limit, 5, "it begins with a probe");
    let mut clients = clients(200, &limit.layer(slots(20, latency.clone())));
    tokio::time::sleep(SEC * 30).await;
    let settled = limit.0.permits.steady_limit();
    assert!((20..=34).contains(&settled), "{:?}", limit.stats());

    latency.store(200, Relaxed);
    tokio::time::sleep(SEC).await;
    let slow = limit.0.permits.steady_limit();
    assert!(slow < settled, "{settled}, then {slow}");
    latency.store(20, Relaxed);
    tokio::time::sleep(SEC * 60).await;
    let again = limit.0.permits.steady_limit();
    assert!((20..=34).contains(&again), "{settled}, {slow}, {again}");

    clients.shutdown().await;
    let Stats { limit: there, in_flight, waiting } = limit.stats();
    assert_eq!((in_flight, waiting), (0, 0), "no permit is lost or pending removal of {there}");
    assert_eq!(
        (
            limit.0.permits.available.available_permits(),
            limit.0.permits.pending_removal.load(Relaxed)
        ),
        (there, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn endless_streams_do_not_keep_probe_from_its_end() {
    let limit =
        ConcurrencyLimitLayer::builder(Gradient::new()).queue_timeout(Duration::MAX).build();
    let streams = limit.layer(AssertReady::new(async |_: Request| {
        let (tx, body) = Body::channel(None);
        Ok::<_, BoxError>(Response::builder().extension(Arc::new(tx)).body(body).unwrap())
    }));
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(streams.clone().oneshot(Request::default()).await.unwrap());
    }
    let waits = tokio::spawn(streams.clone().oneshot(Request::default()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!waits.is_finished());
    // The next request finds the limit stalled.
    let next = tokio::spawn(streams.oneshot(Request::default()));
    held.push(waits.await.unwrap().unwrap());
    held.push(next.await.unwrap().unwrap());
    assert_eq!(limit.stats(), stats(20, 7, 0));
}

#[tokio::test(start_paused = true)]
async fn timeouts_count_as_latency_and_other_errors_do_not() {
    for (kind, known) in [(Kind::Timeout, true), (Kind::Overloaded, false), (Kind::Internal, false)]
    {
        let limit = ConcurrencyLimitLayer::new(Gradient::new());
        let fails = limit.layer(AssertReady::new(move |_: Request| {
            std::future::ready(Err::<Response, _>(Error::new(kind, "no")))
        }));
        for _ in 0..10 {
            assert!(fails.clone().oneshot(Request::default()).await.is_err());
        }
        let expected = if known { 20 } else { 5 };
        assert_eq!(limit.stats(), stats(expected, 0, 0), "{kind:?}");
    }
}

#[test]
fn falling_limit_takes_free_permits_first_and_retires_others_later() {
    let permits = Arc::new(Permits::new(10));
    let mut taken: Vec<_> = (0..8).map(|_| permits.try_acquire().unwrap()).collect();
    permits.resize(5);
    assert_eq!(
        (permits.available.available_permits(), permits.pending_removal.load(Relaxed)),
        (0, 3)
    );
    assert_eq!(permits.stats(), stats(5, 8, 0));
    taken.pop();
    assert_eq!(permits.stats(), stats(5, 7, 0));
    assert!(permits.try_acquire().is_none());
    permits.resize(6); // cancels one pending removal
    assert_eq!((permits.stats(), permits.pending_removal.load(Relaxed)), (stats(6, 7, 0), 1));
    taken.truncate(5);
    assert_eq!((permits.stats(), permits.pending_removal.load(Relaxed)), (stats(6, 5, 0), 0));
    taken.push(permits.try_acquire().unwrap());
    assert!(permits.try_acquire().is_none());
    drop(taken);
    permits.resize(1);
    assert_eq!((permits.stats(), permits.available.available_permits()), (stats(1, 0, 0), 1));
}

#[test]
fn limit_that_moves_at_random_loses_no_permit() {
    for seed in 1..=30 {
        let (mut rng, permits) = (Rng(seed), Arc::new(Permits::new(5)));
        let mut taken = Vec::new();
        for _ in 0..1000 {
            match rng.below(4) {
                0 => permits.resize(1 + rng.below(20)),
                1 if !taken.is_empty() => drop(taken.swap_remove(rng.below(taken.len()))),
                _ => {
                    let room = taken.len() < permits.limit();
                    let permit = permits.try_acquire();
                    assert_eq!(permit.is_some(), room, "seed {seed}");
                    taken.extend(permit);
                }
            }
            assert_eq!(permits.in_flight(), taken.len(), "seed {seed}");
        }
        drop(taken);
        assert_eq!(permits.available.available_permits(), permits.limit(), "seed {seed}");
    }
}
