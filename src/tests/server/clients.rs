//! Clients that disconnect, are slow, or do not read.

use super::*;

#[tokio::test]
async fn work_of_disconnected_client_is_dropped() {
    let (began, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    struct OnDrop(Arc<Notify>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (b, d) = (began.clone(), dropped.clone());
    let server = start(service_fn(move |_: Request| {
        let (began, guard) = (b.clone(), OnDrop(d.clone()));
        async move {
            let _guard = guard;
            began.notify_one();
            std::future::pending::<Result<Response, Infallible>>().await
        }
    }))
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(began.notified()).await;
    reset(client);
    within(dropped.notified()).await;
    server.stop().await;
}

#[tokio::test]
async fn half_closed_client_is_answered_over_tcp() {
    let began = Arc::new(Notify::new());
    let go_on = Arc::new(Notify::new());
    let (b, g) = (began.clone(), go_on.clone());
    let server = start(service_fn(move |_: Request| {
        let (began, go_on) = (b.clone(), g.clone());
        async move {
            began.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(Response::new(Body::from("late")))
        }
    }))
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    within(began.notified()).await;
    // The end of a later connection proves that the server has seen the end of this one.
    exchange(server.addr, "BAD\r\n\r\n").await;
    go_on.notify_one();
    let answer = read_all(&mut client).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("late"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn slow_client_holds_no_reservation() {
    // One permit. Fifty clients have sent a part of a head, or a head and a part of the body, for which the request
    // buffer waits: the permit is free for a complete request.
    let limited = ConcurrencyLimit::new(service_fn(echo), 1);
    let buffered = tower::ServiceBuilder::new()
        .layer(crate::layer::RequestBufferLayer::new())
        .service(limited);
    let server = start(buffered).await;
    let mut slow = Vec::new();
    for n in 0..50 {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        let part: &[u8] = match n % 3 {
            0 => b"",
            1 => b"POST / HTTP/1.1\r\nHo",
            _ => b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel",
        };
        client.write_all(part).await.unwrap();
        slow.push(client);
    }
    let answer = exchange(
        server.addr,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    )
    .await;
    assert_eq!(statuses(&answer), [200]);
    let mut other = slow.swap_remove(2);
    other.write_all(b"lo").await.unwrap();
    assert!(read_until(&mut other, "\r\n\r\nhello").await.starts_with("HTTP/1.1 200"));
    drop(slow);
    server.stop().await;
}

#[tokio::test]
async fn readiness_is_awaited_before_the_body_is_read() {
    // The service is not ready: the head was read, and the body is not.
    let gate = Arc::new(Semaphore::new(0));
    let limited = {
        let gate = gate.clone();
        tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(gate)
    };
    let server = start(tower::ServiceBuilder::new().layer(limited).service(service_fn(echo))).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .await
        .unwrap();
    // A later request to the same server proves that the server has run.
    let answer = exchange(server.addr, "BAD\r\n\r\n").await;
    assert_eq!(statuses(&answer), [400]);
    let mut nothing = [0];
    assert!(client.try_read(&mut nothing).is_err(), "no 100 before the service is ready");
    gate.add_permits(1);
    assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"ok").await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\nok").await.starts_with("HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test]
async fn slow_heads_idle_connections_and_slow_bodies_have_their_deadlines() {
    let short = Duration::from_millis(60);
    let limits = Limits {
        head_timeout: short,
        idle_timeout: short,
        body_timeout: short,
        ..Limits::default()
    };
    let server = start_with(service_fn(echo), |s| s.limits(limits)).await;
    let cases: [(&str, &[u16]); 4] = [
        ("", &[]),                                     // R2: connects and sends nothing
        ("GET / HTTP/1.1\r\nHost: a\r\nX", &[408]),    // R1
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[200]), // then idle
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nABC", &[408]), // R3
    ];
    for (bytes, expected) in cases {
        let answer = exchange(server.addr, bytes).await;
        assert_eq!(statuses(&answer), expected, "{bytes:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn client_that_does_not_read_is_aborted_and_its_response_dropped() {
    // R4: the body never ends, and the client does not read it.
    let (gone, seen) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    struct Endless(Arc<AtomicUsize>, Arc<Notify>);
    impl http_body::Body for Endless {
        type Data = bytes::Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Infallible>>> {
            self.0.fetch_add(32 << 10, Ordering::Relaxed);
            let data = bytes::Bytes::from_static(&[0; 32 << 10]);
            std::task::Poll::Ready(Some(Ok(http_body::Frame::data(data))))
        }
    }
    impl Drop for Endless {
        fn drop(&mut self) {
            self.1.notify_one();
        }
    }
    let (count, notify) = (seen.clone(), gone.clone());
    let server = start_with(
        service_fn(move |_: Request| {
            let body = Endless(count.clone(), notify.clone());
            async move { Ok::<_, Infallible>(Response::new(body)) }
        }),
        |s| s.write_timeout(Duration::from_millis(60)),
    )
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(gone.notified()).await;
    // The server has polled little more of it than the sockets buffer.
    assert!(seen.load(Ordering::Relaxed) < 32 << 20);
    server.stop().await;
}
