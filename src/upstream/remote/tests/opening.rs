//! Opening a connection over HTTP/2, and requests that wait for it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A server whose connections allow one request at a time, and how many requests it has received. It answers only those
/// to `/answered`.
async fn start() -> (Remote, Arc<AtomicUsize>) {
    let (listener, address) = listen().await;
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    tokio::spawn(async move {
        loop {
            let (socket, count) = (listener.accept().await.unwrap().0, count.clone());
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(1);
                let mut connection = builder.handshake::<_, bytes::Bytes>(socket).await.unwrap();
                let mut unanswered = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() == "/answered" {
                        respond.send_response(Response::new(()), true).unwrap();
                    } else {
                        unanswered.push((request, respond));
                    }
                    count.fetch_add(1, SeqCst);
                }
            });
        }
    });
    let pool = PoolConfig::new().idle_timeout(IDLE_TIMEOUT);
    let server = ServerAddress::new(Scheme::Http2, address);
    (Remote::builder(server).pool(pool).build(), received)
}

fn answered() -> Request<Body> {
    Request::get("/answered").body(Body::empty()).unwrap()
}

/// Waits until `is_true`.
async fn until(is_true: impl Fn() -> bool) {
    within(async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn request_that_opens_a_connection_takes_a_stream_that_is_freed() {
    let (remote, received) = start().await;
    remote.clone().oneshot(answered()).await.unwrap(); // the limit of the server is known now
    let first = tokio::spawn(remote.clone().oneshot(get()));
    until(|| received.load(SeqCst) == 2).await;
    inject(&remote, Some(Fault::Hang));
    let second = tokio::spawn(remote.clone().oneshot(answered()));
    settle().await;
    assert!(!second.is_finished(), "it opens a connection");
    first.abort();
    within(second).await.unwrap().unwrap();
    assert_eq!((received.load(SeqCst), remote.idle_connections()), (3, 1));
}

#[tokio::test]
async fn connection_whose_request_has_left_is_kept_until_it_has_been_idle() {
    let (remote, received) = start().await;
    let mut call = remote.clone().oneshot(get());
    std::future::poll_fn(|cx| {
        assert!(Pin::new(&mut call).poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    drop(call);
    until(|| remote.idle_connections() == 1).await;
    settle().await;
    pause();
    advance(IDLE_TIMEOUT + TICK).await;
    settle().await;
    tokio::time::resume();
    assert_eq!((received.load(SeqCst), remote.idle_connections()), (0, 0));
}

/// Sends two requests while a connection cannot be opened, and returns the failures of the endpoint after each.
async fn failures_of_deadlines(remote: &Remote) -> [u32; 2] {
    let endpoint = Endpoint::from(remote.clone());
    inject(remote, Some(Fault::Hang));
    pause();
    let mut failures = [0; 2];
    for failures in &mut failures {
        let mut urgent = get();
        urgent.extensions_mut().insert(Deadline(crate::net::clock::now() + SEC));
        let error = endpoint.clone().oneshot(urgent).await.unwrap_err();
        let kinds = (error.kind(), error.delivery());
        assert_eq!(kinds, (AttemptErrorKind::Timeout, Delivery::NotSent));
        *failures = endpoint.handle().failures();
    }
    let error = endpoint.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Unreachable);
    failures
}

#[tokio::test]
async fn deadline_in_the_wait_for_the_first_connection_is_a_failure() {
    let (remote, _) = start().await;
    assert_eq!(failures_of_deadlines(&remote).await, [1, 2]);
}

#[tokio::test]
async fn deadline_in_the_wait_for_another_connection_is_a_failure_for_the_request_that_opens_it() {
    let (remote, received) = start().await;
    remote.clone().oneshot(answered()).await.unwrap(); // the limit of the server is known now
    let serves = tokio::spawn(remote.clone().oneshot(get()));
    until(|| received.load(SeqCst) == 2).await;
    assert_eq!(failures_of_deadlines(&remote).await, [1, 1]);
    serves.abort();
}

#[tokio::test]
async fn request_to_a_server_that_ends_each_connection_fails_after_one() {
    let (listener, address) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            count.fetch_add(1, SeqCst);
        }
    });
    let remote = Remote::builder(ServerAddress::new(Scheme::Http2, address)).build();
    for requests in 1..=20 {
        let error = within(remote.clone().oneshot(get())).await.unwrap_err();
        assert_ne!(error.kind(), AttemptErrorKind::Busy);
        assert_eq!(accepted.load(SeqCst), requests);
    }
}
