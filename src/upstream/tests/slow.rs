//! An endpoint that becomes slow.

use std::sync::atomic::AtomicU64;

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::policy::pick::PeakEwma;

const WINDOW: Duration = Duration::from_millis(100);

/// An endpoint whose response takes `delay` milliseconds, and the number of its requests.
#[derive(Clone, Default)]
struct Delayed {
    delay: Arc<AtomicU64>,
    requests: Arc<AtomicUsize>,
}

impl Delayed {
    fn endpoint(&self, key: usize) -> Endpoint<ErasedService> {
        let delayed = self.clone();
        let service = service_fn(move |_: Request<Body>| {
            delayed.requests.fetch_add(1, Relaxed);
            let delay = Duration::from_millis(delayed.delay.load(Relaxed));
            async move {
                tokio::time::sleep(delay).await;
                Ok::<_, BoxError>(Response::new(Body::empty()))
            }
        });
        Endpoint::new(key.to_string(), ErasedService::new(service))
    }
}

/// Returns the share of each endpoint in the requests of a window, in per cent.
async fn shares(endpoints: &[Delayed]) -> Vec<usize> {
    let counts = || endpoints.iter().map(|e| e.requests.load(Relaxed)).collect::<Vec<_>>();
    let before = counts();
    tokio::time::sleep(WINDOW).await;
    let new: Vec<_> = counts().iter().zip(before).map(|(after, before)| after - before).collect();
    let total: usize = new.iter().sum();
    new.iter().map(|new| new * 100 / total).collect()
}

#[tokio::test(start_paused = true)]
async fn slow_endpoint_loses_its_share_within_a_second() {
    let endpoints = [0; 3].map(|_| Delayed::default());
    for endpoint in &endpoints {
        endpoint.delay.store(2, Relaxed);
    }
    let balance = Balance::new(
        endpoints.iter().enumerate().map(|(key, endpoint)| endpoint.endpoint(key)),
        PeakEwma::new(),
    );
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let balance = balance.clone();
        clients.spawn(async move {
            loop {
                send(balance.clone(), Method::GET).await.unwrap();
            }
        });
    }
    tokio::time::sleep(2 * WINDOW).await;
    let fair = shares(&endpoints).await;
    assert!(fair.iter().all(|&share| share >= 5), "all have some: {fair:?}");

    endpoints[0].delay.store(300, Relaxed);
    let began = Instant::now();
    let mut seen = Vec::new();
    let took = loop {
        seen.push(shares(&endpoints).await[0]);
        if seen.last().is_some_and(|&share| share <= 4) {
            break began.elapsed();
        }
        assert!(began.elapsed() <= Duration::from_secs(1), "its share does not fall: {seen:?}");
    };
    assert!(took <= Duration::from_secs(1), "{seen:?}");
    // It does not come back while it is slow.
    for _ in 0..20 {
        let share = shares(&endpoints).await[0];
        assert!(share <= 4, "{share} % after {:?}", began.elapsed());
    }
    clients.abort_all();
}
