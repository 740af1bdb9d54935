//! Tests of services that are not ready.

use std::{
    future::{Ready, ready},
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
