//! A gate that is closed while a connection is open.

use std::{
    sync::Mutex,
    task::{Context, Poll},
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

use super::*;
use crate::{net::Gate, proto::h1::Limits};

/// A gate of one permit.
fn gate() -> (Arc<Semaphore>, Config) {
    let permits = Arc::new(Semaphore::new(1));
    (permits.clone(), Config::new().gate(Gate::new(permits)))
}

async fn close(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    permits.clone().acquire_owned().await.unwrap()
}

fn get() -> http::request::Builder {
    http::Request::get("http://a/")
}

async fn is_served(client: &mut SendRequest<Bytes>) {
    let response = send(client, get(), "").await.unwrap();
    assert_eq!(read(response).await.unwrap(), "GET / a");
}

#[tokio::test(start_paused = true)]
async fn requests_at_a_closed_gate_are_served_when_it_opens() {
    let (permits, config) = gate();
    let mut client = connect(tell(), config).await;
    is_served(&mut client).await;
    let permit = close(&permits).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(client.send_request(get().body(()).unwrap(), true).unwrap().0);
    }
    let early = tokio::time::timeout(SECOND, &mut waiting[0]).await;
    assert!(early.is_err(), "answered though the gate is closed");
    let opened = Instant::now();
    drop(permit);
    for response in waiting {
        assert_eq!(read(within(response).await.unwrap()).await.unwrap(), "GET / a");
    }
    assert!(opened.elapsed() < SECOND, "{:?}", opened.elapsed());
    assert_eq!(permits.available_permits(), 1, "no waiter keeps a permit");
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_waiting_request_takes_no_permit() {
    let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
    let goes_on = Arc::new(Mutex::new(Some(goes_on)));
    let service = tower::service_fn(move |_: Request| {
        let goes_on = goes_on.lock().unwrap().take();
        async move {
            if let Some(goes_on) = goes_on {
                goes_on.await.unwrap();
            }
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    });
    let (permits, config) = gate();
    let mut client = connect(service, config).await;
    let (first, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    tokio::time::sleep(SECOND).await;
    let permit = close(&permits).await;
    go_on.send(()).unwrap();
    assert_eq!(read(within(first).await.unwrap()).await.unwrap(), "done");
    // Nor does one whose only waiting request was cancelled.
    let (cancelled, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    tokio::time::sleep(SECOND).await;
    drop(cancelled);
    tokio::time::sleep(SECOND).await;
    drop(permit);
    tokio::time::sleep(SECOND).await;
    assert_eq!(permits.available_permits(), 1);
    assert_eq!(send(&mut client, get(), "").await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn service_reserves_nothing_for_a_connection_without_a_waiting_request() {
    let permits = Arc::new(Semaphore::new(1));
    let service = tower::limit::ConcurrencyLimit::with_semaphore(tell(), permits.clone());
    let mut client = connect(service, Config::new()).await;
    for is_cancelled in [true, false] {
        let permit = close(&permits).await;
        let (mut response, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
        let early = tokio::time::timeout(SECOND, &mut response).await;
        assert!(early.is_err(), "answered though there is no permit");
        if is_cancelled {
            drop(response);
        } else {
            assert_eq!(response.await.unwrap().status(), 503, "after the timeout of readiness");
        }
        tokio::time::sleep(SECOND).await;
        drop(permit);
        tokio::time::sleep(SECOND).await;
        assert_eq!(permits.available_permits(), 1, "cancelled: {is_cancelled}");
        is_served(&mut client).await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_with_a_request_at_a_closed_gate_is_not_idle() {
    let (permits, config) = gate();
    let limits = Limits { idle_timeout: SECOND, ..Limits::default() };
    let (drain, watch) = drain();
    let served = serve_watched(tell(), config.limits(limits), watch);
    let mut client = client_of(served.client).await;
    let permit = close(&permits).await;
    let (mut response, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    // Three times the idle timeout, on a server that is full.
    drain.request_shed(1);
    for _ in 0..3 {
        assert!(tokio::time::timeout(SECOND, &mut response).await.is_err(), "answered, or closed");
        drain.wake_next(1);
    }
    // The request is complete, so a drain waits for it, too.
    drain.begin();
    assert!(tokio::time::timeout(3 * SECOND, &mut response).await.is_err(), "answered, or closed");
    drop(permit);
    assert_eq!(read(within(response).await.unwrap()).await.unwrap(), "GET / a");
    within(drain.ended()).await;
}

#[tokio::test(start_paused = true)]
async fn request_at_a_closed_gate_is_refused_after_the_timeout_of_readiness() {
    let (permits, config) = gate();
    let mut client = connect(tell(), config).await;
    is_served(&mut client).await; // so that the protocol is known
    let _permit = close(&permits).await;
    let began = Instant::now();
    let (response, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 503);
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn h1_reset_request_holds_its_worker_until_the_work_ends() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let (begin, mut begun) = mpsc::unbounded_channel();
    let pool = crate::worker::threads(1, move || {
        let (released, begin) = (released.clone(), begin.clone());
        crate::worker::blocking(move |_| {
            begin.send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            Response::new("done")
        })
    });
    let pool = pool.queue(0).start().unwrap();
    let gate = pool.gate();
    let mut client = connect(pool.clone(), Config::new().gate(gate.clone())).await;
    let (cancelled, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    within(begun.recv()).await.unwrap();
    drop(cancelled);
    // The client may begin another stream, and its request waits for the worker.
    let (mut response, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(std::pin::pin!(&mut response).poll(&mut cx).is_pending());
    }
    assert!(!gate.is_open() && begun.try_recv().is_err(), "the worker has not stopped");
    release.send(()).unwrap();
    within(begun.recv()).await.unwrap();
    release.send(()).unwrap();
    assert_eq!(read(within(response).await.unwrap()).await.unwrap(), "done");
    pool.shutdown(20 * SECOND).await.unwrap();
}

/// A service that is ready for the first request only, and whose clone panics.
struct PanicsOnClone {
    calls: usize,
    go_on: Arc<Notify>,
}

impl Clone for PanicsOnClone {
    fn clone(&self) -> Self {
        panic!("expected in a clone");
    }
}

impl tower::Service<Request> for PanicsOnClone {
    type Response = Response;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.calls == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Request) -> Self::Future {
        self.calls += 1;
        let go_on = self.go_on.clone();
        Box::pin(async move {
            go_on.notified().await;
            Ok(Response::new(Body::empty()))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_clone_ends_a_connection_after_its_requests() {
    let go_on = Arc::new(Notify::new());
    let served = serve(PanicsOnClone { calls: 0, go_on: go_on.clone() }, Config::new());
    let mut client = client_of(served.client).await;
    let (first, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    let (cancelled, _) = client.send_request(get().body(()).unwrap(), true).unwrap();
    tokio::time::sleep(SECOND).await;
    drop(cancelled); // what the service may have reserved for it is released by a clone
    tokio::time::sleep(SECOND).await;
    go_on.notify_one();
    assert_eq!(within(first).await.unwrap().status(), 200);
    drop(client);
    within(served.task).await.unwrap().unwrap();
}
