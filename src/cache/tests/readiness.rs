//! Tests of services that are not ready.

use std::{
    future::{Ready, ready},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use tower::{Layer, Service};

use super::*;

/// A service whose readiness the test sets; `None` is not ready.
#[derive(Clone, Default)]
struct Gated {
    readiness: Arc<Mutex<Option<Result<(), &'static str>>>>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Service<Request> for Gated {
    type Response = Response;
    type Error = BoxError;
    type Future = Ready<Result<Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        *self.waker.lock().unwrap() = Some(cx.waker().clone());
        match *self.readiness.lock().unwrap() {
            Some(result) => Poll::Ready(result.map_err(Into::into)),
            None => Poll::Pending,
        }
    }

    fn call(&mut self, _: Request) -> Self::Future {
        assert_eq!(*self.readiness.lock().unwrap(), Some(Ok(())));
        ready(Ok(response(&[("cache-control", "no-store")], "answer")))
    }
}

#[tokio::test(start_paused = true)]
async fn request_waits_for_the_readiness_of_the_service() {
    for method in [Method::GET, Method::POST] {
        for readiness in [Ok(()), Err("failed")] {
            for is_ready_at_once in [true, false] {
                let gated = Gated::default();
                let mut request = get("/", &[]);
                *request.method_mut() = method.clone();
                if is_ready_at_once {
                    *gated.readiness.lock().unwrap() = Some(readiness);
                }
                let site = CacheLayer::new().layer(gated.clone());
                let task = tokio::spawn(site.oneshot(request));
                settle().await;
                assert_eq!(task.is_finished(), is_ready_at_once, "{method} {readiness:?}");
                *gated.readiness.lock().unwrap() = Some(readiness);
                gated.waker.lock().unwrap().take().unwrap().wake();
                let result = tokio::time::timeout(SEC, task).await.expect("it is woken").unwrap();
                match (result, readiness) {
                    (Ok(response), Ok(())) => assert_eq!(text(response).await, "answer"),
                    (Err(error), Err(text)) => assert_eq!(error.to_string(), text),
                    (result, _) => panic!("{readiness:?}: {result:?}"),
                }
            }
        }
    }
}

/// A service that records which of its clones is polled or called. Ready after the test has opened it.
struct Numbered {
    number: usize,
    /// The clone whose readiness is an error.
    broken: Option<usize>,
    clones: Arc<AtomicUsize>,
    is_open: Arc<Mutex<bool>>,
    seen: Arc<Mutex<Vec<(&'static str, usize)>>>,
}

impl Clone for Numbered {
    fn clone(&self) -> Self {
        let number = self.clones.fetch_add(1, Relaxed) + 1;
        let Self { broken, clones, is_open, seen, .. } = self;
        let (clones, is_open, seen) = (clones.clone(), is_open.clone(), seen.clone());
        Self { number, broken: *broken, clones, is_open, seen }
    }
}

impl Service<Request> for Numbered {
    type Response = Response;
    type Error = BoxError;
    type Future = Ready<Result<Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.seen.lock().unwrap().push(("poll", self.number));
        if self.broken == Some(self.number) {
            return Poll::Ready(Err("broken".into()));
        }
        if *self.is_open.lock().unwrap() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Request) -> Self::Future {
        self.seen.lock().unwrap().push(("call", self.number));
        ready(Ok(response(&[("cache-control", "no-store")], "answer")))
    }
}

#[tokio::test]
async fn ready_service_is_called_without_a_clone() {
    let (seen, is_open) = (Arc::default(), Arc::new(Mutex::new(true)));
    let service = Numbered { number: 0, broken: None, clones: Arc::default(), is_open, seen };
    let seen = service.seen.clone();
    let mut cache = CacheLayer::new().layer(service);
    for path in ["/1", "/2"] {
        assert_eq!(text(cache.call(get(path, &[])).await.unwrap()).await, "answer");
    }
    let want = [("poll", 0), ("call", 0), ("poll", 0), ("call", 0)];
    assert_eq!(*seen.lock().unwrap(), want);
}

#[tokio::test]
async fn service_that_is_not_ready_stays_with_the_request_that_polled_it() {
    let (seen, is_open) = (Arc::default(), Arc::new(Mutex::new(false)));
    let service = Numbered { number: 0, broken: None, clones: Arc::default(), is_open, seen };
    let (seen, is_open) = (service.seen.clone(), service.is_open.clone());
    let mut cache = CacheLayer::new().layer(service);
    let (first, second) = (cache.call(get("/1", &[])), cache.call(get("/2", &[])));
    assert_eq!(*seen.lock().unwrap(), [("poll", 0), ("poll", 1)]);
    *is_open.lock().unwrap() = true;
    assert!(second.await.is_ok() && first.await.is_ok());
    let want = [("poll", 1), ("call", 1), ("poll", 0), ("call", 0)];
    assert_eq!(seen.lock().unwrap()[2..], want);
}

#[tokio::test]
async fn service_whose_readiness_has_failed_is_not_used_again() {
    let (seen, is_open) = (Arc::default(), Arc::new(Mutex::new(true)));
    let service = Numbered { number: 0, broken: Some(0), clones: Arc::default(), is_open, seen };
    let seen = service.seen.clone();
    let mut cache = CacheLayer::new().layer(service);
    assert_eq!(cache.call(get("/1", &[])).await.unwrap_err().to_string(), "broken");
    assert_eq!(text(cache.call(get("/2", &[])).await.unwrap()).await, "answer");
    assert_eq!(*seen.lock().unwrap(), [("poll", 0), ("poll", 1), ("call", 1)]);
}
