//! Malformed requests, errors of the service, and truncated bodies.

use super::*;

#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_ends() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let server = start(service_fn(move |_: Request| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    }))
    .await;
    let long = |n: usize| "a".repeat(n);
    let cases = [
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n:empty\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n".into(), 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET /\\a HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 0\r\n\r\n".into(), 400),
        ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), 505),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello".into(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(), 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n".into(), 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: y\r\nContent-Length: 0\r\n\r\n".into(), 417),
        (format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", long(9000)), 501),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(9000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(40_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(101)), 431),
    ];
    for (bytes, status) in cases {
        // The following bytes must not be parsed as a request.
        let answer =
            exchange(server.addr, format!("{bytes}GET /next HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [status], "{bytes:?}");
        assert!(answer.contains("connection: close\r\n"));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0, "none of it reached the service");
    server.stop().await;
}

#[tokio::test]
async fn malformed_chunk_fails_the_body_and_is_answered_with_400() {
    let server = start(service_fn(echo)).await;
    for chunks in
        ["zz\r\n", "5\r\nhelloXX", "-1\r\n", "fffffffffffffffff\r\n", "5\nhello\r\n0\r\n\r\n"]
    {
        let answer = exchange(
            server.addr,
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        )
        .await;
        assert_eq!(statuses(&answer), [400], "{chunks:?}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn errors_become_responses_and_the_connection_stays_open() {
    let server = start(service_fn(|request: Request| async move {
        match request.uri().path() {
            "/full" => Err(BoxError::from(Error::new(Kind::Overloaded, "full"))),
            "/odd" => Err("odd".into()),
            _ => Ok(Response::new(Body::from("fine"))),
        }
    }))
    .await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = exchange(
        server.addr,
        [
            get("/full"),
            get("/odd"),
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(),
        ]
        .concat(),
    )
    .await;
    assert_eq!(statuses(&answer), [503, 500, 200]);
    assert!(answer.contains("retry-after: 1\r\n"));
    server.stop().await;
}

#[tokio::test]
async fn truncated_body_is_never_taken_for_complete() {
    let server = start(service_fn(|_: Request| async {
        let (tx, body) = Body::channel(None);
        tx.send("some".into()).unwrap();
        tx.abort("the application died");
        Ok::<_, Infallible>(Response::new(body))
    }))
    .await;
    let answer = exchange(server.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.contains("4\r\nsome\r\n") && !answer.contains("0\r\n\r\n"), "{answer}");

    // A body that the end of the connection delimits must not seem complete.
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let ended = within(client.read_to_end(&mut answer)).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    server.stop().await;
}
