use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, uri::Scheme};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    task::JoinHandle,
};

use super::*;
use crate::{
    body::Body,
    conn::h2::client::{Exchange, ExchangeError, handshake},
    proto::h1::Limits,
    upstream::CONNECT_TIMEOUT,
};

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const SEC: Duration = Duration::from_secs(1);

/// Does the same as [`RuntimePool::checkout`] for a request that has not waited.
async fn checkout(pool: &Arc<RuntimePool>, config: &PoolConfig) -> Result<Checkout, PoolExhausted> {
    pool.checkout(config, &mut None).await
}

/// Sends a request, which counts as in flight from now on.
fn get(connection: Connection) -> Exchange {
    connection.exchange(request())
}

fn request() -> Request<Body> {
    Request::get("/").header("host", "a").body(Body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn connection_is_not_closed_between_its_checkout_and_the_request() {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        while let Some(Ok((_, mut respond))) = server.accept().await {
            respond.send_response(http::Response::new(()), true).unwrap();
        }
    });
    let (connection, driver) =
        handshake(near, Scheme::HTTP, Arc::new(Limits::default())).await.unwrap();
    let pool = Arc::new(RuntimePool::default());
    pool.add(connection.clone(), driver, IDLE_TIMEOUT);
    get(connection).await.unwrap();
    // Another thread may close idle connections between these two.
    tokio::time::sleep(IDLE_TIMEOUT / 2).await;
    let checked_out = pool.try_checkout(&PoolConfig::new()).unwrap();
    tokio::time::sleep(IDLE_TIMEOUT).await;
    checked_out.exchange(request()).await.unwrap();
    tokio::time::sleep(3 * IDLE_TIMEOUT).await;
    assert_eq!(pool.len(), 0, "it is idle now");
}

/// Adds a connection, and sends a request on it whose response has begun. Returns the response, and the task of the server,
/// which sends the rest when told so, and ends with the connection.
async fn add_streaming(
    pool: &Arc<RuntimePool>,
    finish: &Arc<Notify>,
) -> (http::Response<Body>, JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let told = finish.clone();
    let server = tokio::spawn(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        tokio::spawn(async move {
            told.notified().await;
            body.send_data(bytes::Bytes::from_static(b"rest"), true).unwrap();
        });
        while server.accept().await.is_some() {}
    });
    let (connection, driver) =
        handshake(near, Scheme::HTTP, Arc::new(Limits::default())).await.unwrap();
    pool.add(connection.clone(), driver, IDLE_TIMEOUT);
    (get(connection).await.unwrap(), server)
}

#[tokio::test(start_paused = true)]
async fn connection_without_its_pool_ends_after_its_last_response() {
    let (pool, finish) = (Arc::new(RuntimePool::default()), Arc::new(Notify::new()));
    let (response, server) = add_streaming(&pool, &finish).await;
    drop(pool);
    tokio::time::sleep(2 * IDLE_TIMEOUT).await;
    assert!(!server.is_finished());
    finish.notify_one();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "rest");
    let end = tokio::time::timeout(Duration::from_secs(1), server).await;
    end.expect("the connection is closed").unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_connection_ends_with_its_pool() {
    let (pool, finish) = (Arc::new(RuntimePool::default()), Arc::new(Notify::new()));
    let (response, server) = add_streaming(&pool, &finish).await;
    finish.notify_one();
    response.into_body().collect().await.unwrap();
    drop(pool);
    let end = tokio::time::timeout(Duration::from_secs(1), server).await;
    end.expect("the connection is closed").unwrap();
}

/// Adds a connection whose server is silent, with its first request. It ends when the stream is dropped.
async fn add_silent(pool: &Arc<RuntimePool>) -> (Exchange, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (connection, driver) =
        handshake(near, Scheme::HTTP, Arc::new(Limits::default())).await.unwrap();
    pool.add(connection.clone(), driver, IDLE_TIMEOUT);
    (get(connection), far)
}

/// Another thread may add the connection after a request has looked for one, and before it waits for a stream.
#[tokio::test(start_paused = true)]
async fn settings_wake_requests_that_wait_for_a_stream() {
    let pool = Arc::new(RuntimePool::default());
    let (_first, far) = add_silent(&pool).await;
    let mut freed = pin!(pool.freed.notified());
    freed.as_mut().enable();
    tokio::spawn(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        while server.accept().await.is_some() {}
    });
    tokio::time::timeout(Duration::from_secs(1), freed).await.expect("it is woken");
}

#[tokio::test(start_paused = true)]
async fn requests_share_the_failure_of_a_server_that_sends_no_settings() {
    let pool = Arc::new(RuntimePool::default());
    let (_first, _far) = add_silent(&pool).await;
    let config = PoolConfig::new().max_connections(1);
    let began = tokio::time::Instant::now();
    let (one, two) = tokio::join!(checkout(&pool, &config), checkout(&pool, &config));
    for checkout in [one, two] {
        let Ok(Checkout::Failed(error)) = checkout else { panic!("the server is silent") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
    assert_eq!(began.elapsed(), CONNECT_TIMEOUT);
    assert_eq!(pool.len(), 0, "its first request may wait longer");
    let next = checkout(&pool, &config).await;
    assert!(matches!(next, Ok(Checkout::Connect(_))));
}

#[tokio::test(start_paused = true)]
async fn request_that_comes_after_the_timeout_of_a_silent_connection_opens_another() {
    let pool = Arc::new(RuntimePool::default());
    let (_first, _far) = add_silent(&pool).await;
    tokio::time::advance(CONNECT_TIMEOUT).await;
    let next = checkout(&pool, &PoolConfig::new().max_connections(1)).await;
    assert!(matches!(next, Ok(Checkout::Connect(_))));
}

/// Adds a connection whose server allows one request at a time, with its first one, which it answers when told so.
async fn add_single(
    pool: &Arc<RuntimePool>,
    answer: &Arc<Notify>,
) -> JoinHandle<Result<http::Response<Body>, ExchangeError>> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let told = answer.clone();
    tokio::spawn(async move {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let mut server = builder.handshake::<_, bytes::Bytes>(far).await.unwrap();
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                accepted = server.accept() => match accepted {
                    Some(accepted) => waiting.push(accepted.unwrap().1),
                    None => return,
                },
                () = told.notified() => {
                    waiting.pop().unwrap().send_response(http::Response::new(()), true).unwrap();
                }
            }
        }
    });
    let (connection, driver) =
        handshake(near, Scheme::HTTP, Arc::new(Limits::default())).await.unwrap();
    pool.add(connection.clone(), driver, IDLE_TIMEOUT);
    tokio::spawn(get(connection))
}

/// Between the checkout and the first poll of the request, another thread may look for a stream.
#[tokio::test(start_paused = true)]
async fn stream_that_is_checked_out_is_in_use() {
    let (pool, answer) = (Arc::new(RuntimePool::default()), Arc::new(Notify::new()));
    let first = add_single(&pool, &answer).await;
    let config = PoolConfig::new();
    let full = checkout(&pool, &config).await;
    assert!(matches!(full, Ok(Checkout::Connect(_))), "the server allows one request");
    answer.notify_one();
    first.await.unwrap().unwrap();
    let stream = pool.try_checkout(&config).expect("it is free");
    assert!(pool.try_checkout(&config).is_none());
    drop(stream);
    assert!(pool.try_checkout(&config).is_some());
}

#[tokio::test(start_paused = true)]
async fn request_behind_one_that_connects_takes_a_stream_that_is_freed() {
    let (pool, answer) = (Arc::new(RuntimePool::default()), Arc::new(Notify::new()));
    let first = add_single(&pool, &answer).await;
    let config = PoolConfig::new();
    let connecting = checkout(&pool, &config).await;
    assert!(matches!(connecting, Ok(Checkout::Connect(_))), "the only stream is in use");
    let mut waiting = pin!(checkout(&pool, &config));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "another request connects");
    answer.notify_one();
    first.await.unwrap().unwrap();
    assert!(matches!(waiting.await, Ok(Checkout::Open(_))));
    drop(connecting);
}

#[tokio::test(start_paused = true)]
async fn request_behind_a_silent_connection_takes_a_stream_that_is_freed() {
    let (pool, answer) = (Arc::new(RuntimePool::default()), Arc::new(Notify::new()));
    let first = add_single(&pool, &answer).await;
    let config = PoolConfig::new();
    let connecting = checkout(&pool, &config).await;
    assert!(matches!(connecting, Ok(Checkout::Connect(_))), "the only stream is in use");
    let _silent = add_silent(&pool).await;
    drop(connecting);
    let mut waiting = pin!(checkout(&pool, &config));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(early.is_err(), "it waits for the SETTINGS of the second connection");
    answer.notify_one();
    first.await.unwrap().unwrap();
    assert!(matches!(waiting.await, Ok(Checkout::Open(_))));
}

#[tokio::test(start_paused = true)]
async fn queue_timeout_includes_the_wait_for_connections_that_others_open() {
    let (pool, answer) = (Arc::new(RuntimePool::default()), Arc::new(Notify::new()));
    let _first = add_single(&pool, &answer).await;
    let config = PoolConfig::new().queue_timeout(2 * SEC);
    let connecting = checkout(&pool, &config).await;
    assert!(matches!(connecting, Ok(Checkout::Connect(_))), "the only stream is in use");
    let mut waiting = pin!(checkout(&pool, &config));
    let early = tokio::time::timeout(3 * SEC, &mut waiting).await;
    assert!(early.is_err(), "the connection that is being opened is awaited");
    pool.freed.notify_waiters(); // a newcomer has taken what was freed
    let early = tokio::time::timeout(SEC / 2, &mut waiting).await;
    assert!(early.is_err(), "and still after a notification");
    let _second = add_single(&pool, &answer).await;
    drop(connecting);
    let end = tokio::time::timeout(SEC, waiting).await.expect("no other one is awaited");
    assert!(matches!(end, Err(PoolExhausted::Timeout(_))));
}

#[tokio::test(start_paused = true)]
async fn failure_of_a_server_is_returned_to_requests_beyond_their_queue_timeout() {
    let pool = Arc::new(RuntimePool::default());
    let config = PoolConfig::new().queue_timeout(SEC);
    let Ok(Checkout::Connect(mut connecting)) = checkout(&pool, &config).await else {
        panic!("there is no connection")
    };
    let mut waiting = pin!(checkout(&pool, &config));
    assert!(tokio::time::timeout(2 * SEC, &mut waiting).await.is_err(), "it is being opened");
    connecting.fail(io::ErrorKind::TimedOut.into());
    drop(connecting);
    assert!(matches!(waiting.await, Ok(Checkout::Failed(_))));
    // The same for a connection without SETTINGS.
    let (_first, _far) = add_silent(&pool).await;
    assert!(matches!(checkout(&pool, &config).await, Ok(Checkout::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn connection_that_no_request_has_used_is_closed_when_it_is_idle() {
    let pool = Arc::new(RuntimePool::default());
    let (near, _far) = tokio::io::duplex(1 << 16);
    let (connection, driver) =
        handshake(near, Scheme::HTTP, Arc::new(Limits::default())).await.unwrap();
    pool.add(connection, driver, IDLE_TIMEOUT);
    tokio::time::sleep(IDLE_TIMEOUT + SEC).await;
    assert_eq!(pool.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn request_outlives_one_connection_that_ends_without_settings() {
    let pool = Arc::new(RuntimePool::default());
    let config = PoolConfig::new();
    let (_first, far) = add_silent(&pool).await;
    let (mut one, mut two) = (pin!(checkout(&pool, &config)), pin!(checkout(&pool, &config)));
    let both = async { tokio::join!(one.as_mut(), two.as_mut()) };
    assert!(tokio::time::timeout(SEC, both).await.is_err(), "they wait for the SETTINGS");
    drop(far);
    let connecting = one.await;
    assert!(matches!(connecting, Ok(Checkout::Connect(_))));
    assert!(tokio::time::timeout(SEC, two.as_mut()).await.is_err(), "it waits for the other one");
    let (_second, far) = add_silent(&pool).await;
    drop((connecting, far));
    assert!(matches!(two.await, Ok(Checkout::Ended(_))));
}

#[tokio::test(start_paused = true)]
async fn request_counts_while_another_opens_its_connection() {
    let pool = Arc::new(RuntimePool::default());
    let config = PoolConfig::new().max_connections(2).max_queued(0);
    let connecting = checkout(&pool, &config).await;
    assert!(matches!(connecting, Ok(Checkout::Connect(_))));
    assert_eq!(pool.waiting(), 0);
    // While the connection is being opened, and while it has no SETTINGS.
    let mut silent = None;
    for _ in 0..2 {
        let mut waiting = Box::pin(checkout(&pool, &config));
        let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
        assert!(early.is_err(), "it waits, outside of the queue");
        assert_eq!(pool.waiting(), 1);
        drop(waiting);
        assert_eq!(pool.waiting(), 0);
        if silent.is_none() {
            silent = Some(add_silent(&pool).await);
        }
    }
    drop(connecting);
}

/// A stream that counts its reads.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl Io for Counted {}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn connection_without_an_idle_timeout_sleeps_while_it_is_in_use() {
    let (near, _far) = tokio::io::duplex(1 << 16);
    let reads = Arc::new(AtomicUsize::new(0));
    let stream = Counted(near, reads.clone());
    let (connection, driver) =
        handshake(stream, Scheme::HTTP, Arc::new(Limits::default())).await.unwrap();
    let pool = Arc::new(RuntimePool::default());
    pool.add(connection.clone(), driver, Duration::ZERO);
    let _first = get(connection);
    for _ in 0..1_000 {
        tokio::task::yield_now().await; // the clock stands still
    }
    let reads = reads.load(Ordering::Relaxed);
    assert!(reads < 100, "{reads} reads");
}
