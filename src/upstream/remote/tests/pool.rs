//! The pool's bounds: age, requests, connections, and the limit that servers share.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::{
    error::{Error, Kind},
    upstream::{
        Balance, IdleLimit, PoolExhausted,
        check::{Check, HttpCheck},
    },
};

/// Accepts connections and answers their requests, each with 204. Counts connections.
async fn serve_all(listener: TcpListener, accepted: Arc<AtomicUsize>) {
    loop {
        let (mut server, _) = listener.accept().await.unwrap();
        accepted.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while let Ok(byte) = server.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                }
            }
        });
    }
}

/// A server, and how many connections it has accepted.
async fn counting() -> (Address, Arc<AtomicUsize>) {
    let (listener, address) = listen().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve_all(listener, accepted.clone()));
    (address, accepted)
}

async fn send(remote: &Remote) {
    remote.clone().oneshot(get()).await.unwrap();
}

#[tokio::test]
async fn connection_is_closed_after_its_requests_and_at_its_age() {
    let (address, accepted) = counting().await;
    let remote = Remote::builder(address).pool(PoolConfig::new().max_requests(3)).build();
    for sent in 1..=7_usize {
        send(&remote).await;
        assert_eq!(accepted.load(SeqCst), sent.div_ceil(3), "after request {sent}");
        assert_eq!(remote.idle_connections(), usize::from(sent % 3 != 0));
    }
    let (address, accepted) = counting().await;
    let pool = PoolConfig::new().max_age(50 * SEC).idle_timeout(60 * SEC);
    let remote = Remote::builder(address).pool(pool).build();
    send(&remote).await;
    for (wait, connections) in [(49, 1), (1, 2)] {
        pause();
        advance(wait * SEC).await;
        tokio::time::resume();
        send(&remote).await;
        assert_eq!(accepted.load(SeqCst), connections, "after {wait} more seconds");
    }
}

#[tokio::test]
async fn connection_that_was_used_last_is_used_first() {
    let (address, _) = counting().await;
    let remote = Remote::builder(address).pool(PoolConfig::new().idle_timeout(60 * SEC)).build();
    let (one, two) = (remote.clone().oneshot(get()), remote.clone().oneshot(get()));
    let (one, two) = tokio::join!(one, two);
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(remote.idle_connections(), 2);
    for _ in 0..3 {
        pause();
        advance(25 * SEC).await;
        tokio::time::resume();
        send(&remote).await;
    }
    assert_eq!(remote.idle_connections(), 1, "the other one was idle for 75 s");
}

#[tokio::test]
async fn connection_that_the_server_has_closed_is_not_used() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).build();
    let (first, server) = tokio::join!(remote.clone().oneshot(get()), serve_one(&listener));
    first.unwrap();
    pause();
    advance(2 * SEC).await;
    tokio::time::resume();
    drop(server);
    assert_eq!(remote.idle_connections(), 1);
    let post = Request::post("/").body(Body::empty()).unwrap();
    let exchange = async { tokio::join!(remote.clone().oneshot(post), serve_one(&listener)) };
    let (second, _server) = timeout(20 * SEC, exchange).await.expect("the closed one was used");
    assert_eq!(second.unwrap().status(), 204);
}

#[tokio::test]
async fn connection_that_was_idle_for_long_is_replaced_for_a_request_that_is_not_idempotent() {
    let (address, accepted) = counting().await;
    let pool = PoolConfig::new().idle_timeout(60 * SEC).non_idempotent_idle_timeout(10 * SEC);
    let remote = Remote::builder(address).pool(pool).build();
    send(&remote).await;
    for (wait, method, is_streamed, connections) in [
        (9, Method::POST, false, 1),
        (11, Method::GET, false, 1),
        (11, Method::PUT, false, 1),
        (11, Method::POST, false, 2),
        (9, Method::PATCH, false, 2),
        (9, Method::PUT, true, 2),
        (11, Method::PUT, true, 3),
    ] {
        pause();
        advance(wait * SEC).await;
        tokio::time::resume();
        let (sender, streamed) = Body::channel(Some(5));
        sender.send("piece".into()).unwrap();
        sender.finish(None);
        let body = if is_streamed { streamed } else { Body::empty() };
        let request = Request::builder().method(&method).uri("/").body(body).unwrap();
        remote.clone().oneshot(request).await.unwrap();
        let counts = (accepted.load(SeqCst), remote.idle_connections());
        assert_eq!(counts, (connections, 1), "{method} after {wait} more seconds");
    }
}

#[tokio::test]
async fn pool_keeps_as_many_connections_as_were_in_use() {
    let (address, accepted) = counting().await;
    let remote = Remote::builder(address).build();
    for _ in 0..3 {
        let requests: Vec<_> =
            (0..600).map(|_| tokio::spawn(remote.clone().oneshot(get()))).collect();
        for request in requests {
            request.await.unwrap().unwrap();
        }
        assert!(accepted.load(SeqCst) <= 600);
        assert_eq!(remote.idle_connections(), accepted.load(SeqCst), "no connection was closed");
    }
}

#[tokio::test]
async fn idle_limit_closes_the_connection_that_was_idle_longest_of_all_servers() {
    let limit = IdleLimit::new(2);
    let remote = |address| {
        Remote::builder(address).pool(PoolConfig::new().idle_limit(limit.clone())).build()
    };
    let [(a, _), (b, b_accepted), (c, _)] = [counting().await, counting().await, counting().await];
    let [a, b, c] = [a, b, c].map(remote);
    pause();
    for remote in [&a, &b, &a, &c] {
        tokio::time::resume();
        send(remote).await;
        pause();
        advance(TICK).await;
    }
    tokio::time::resume();
    let idle = [&a, &b, &c].map(Remote::idle_connections);
    assert_eq!((idle, limit.idle()), ([1, 0, 1], 2), "that of b was idle longest");
    send(&b).await;
    assert_eq!((b_accepted.load(SeqCst), limit.idle()), (2, 2));
    drop((a, b, c));
    assert_eq!(limit.idle(), 0, "servers that are gone do not count");

    let (address, _) = counting().await;
    let none = PoolConfig::new().idle_limit(IdleLimit::new(0));
    let remote = Remote::builder(address).pool(none).build();
    send(&remote).await;
    assert_eq!(remote.idle_connections(), 0);
}

#[tokio::test]
async fn lower_idle_limit_closes_idle_connections_of_all_servers() {
    let limit = IdleLimit::new(100);
    let remote = |address| {
        Remote::builder(address).pool(PoolConfig::new().idle_limit(limit.clone())).build()
    };
    let [(a, _), (b, _)] = [counting().await, counting().await];
    let [a, b] = [a, b].map(remote);
    let burst = async |remote: &Remote| {
        let requests: Vec<_> =
            (0..20).map(|_| tokio::spawn(remote.clone().oneshot(get()))).collect();
        for request in requests {
            request.await.unwrap().unwrap();
        }
    };
    burst(&a).await;
    burst(&b).await;
    let idle = || [&a, &b].map(Remote::idle_connections);
    let [of_a, of_b] = idle();
    assert!(of_a > 5 && of_b > 5, "{of_a} {of_b}");
    limit.set_max(6);
    assert_eq!((idle(), limit.idle(), limit.max()), ([3, 3], 6, 6));
    // It holds for the next requests, too.
    burst(&a).await;
    assert_eq!(limit.idle(), 6);
    limit.set_max(0);
    assert_eq!((idle(), limit.idle()), ([0, 0], 0));
    limit.set_max(100);
    burst(&a).await;
    assert!(limit.idle() > 6);
}

/// A server that answers a head with a body of one byte, which is not sent.
async fn begin_answer(listener: &TcpListener) -> TcpStream {
    let mut server = accept(listener).await;
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n").await.unwrap();
    server
}

/// The reason why a request got no connection.
fn cause(error: AttemptError) -> PoolExhausted {
    let source = error.into_source();
    let source = Error::find(&*source).unwrap();
    assert_eq!(source.kind(), Kind::Overloaded);
    *std::error::Error::source(source).unwrap().downcast_ref().unwrap()
}

#[tokio::test]
async fn request_waits_for_a_connection_while_all_are_in_use() {
    let (listener, address) = listen().await;
    let pool = PoolConfig::new().max_connections(1).max_queued(1);
    let remote = Remote::builder(address).pool(pool).build();
    let (first, mut server) = tokio::join!(remote.clone().oneshot(get()), begin_answer(&listener));
    let second = tokio::spawn(remote.clone().oneshot(get()));
    settle().await;
    assert_eq!(remote.queued(), 1);

    let mut error = remote.clone().oneshot(get()).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Busy, Delivery::NotSent));
    assert!(error.take_request().is_some(), "it may go elsewhere");
    assert_eq!(cause(error), PoolExhausted::QueueFull(1));

    server.write_all(b"x").await.unwrap();
    first.unwrap().into_body().collect().await.unwrap();
    answer(&mut server).await;
    second.await.unwrap().expect("it has the connection of the first");
    assert_eq!((remote.queued(), remote.idle_connections()), (0, 1));
}

#[tokio::test]
async fn queued_request_fails_at_the_queue_timeout_and_at_its_deadline() {
    let (listener, address) = listen().await;
    let pool = PoolConfig::new().max_connections(1).queue_timeout(3 * SEC);
    let remote = Remote::builder(address).pool(pool).build();
    let (first, server) = tokio::join!(remote.clone().oneshot(get()), begin_answer(&listener));
    pause();
    let error = remote.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Busy);
    assert_eq!(cause(error), PoolExhausted::Timeout(3 * SEC));
    let mut late = get();
    late.extensions_mut().insert(Deadline(crate::net::clock::now() + SEC));
    let error = remote.clone().oneshot(late).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Timeout, Delivery::NotSent));
    tokio::time::resume();
    // A connection that is closed makes room too.
    drop(server);
    let waits = tokio::spawn(remote.clone().oneshot(get()));
    settle().await;
    first.unwrap().into_body().collect().await.unwrap_err();
    serve_one(&listener).await;
    waits.await.unwrap().unwrap();
}

#[tokio::test]
async fn idle_connection_of_another_runtime_is_closed_for_a_new_one() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).pool(PoolConfig::new().max_connections(1)).build();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (theirs, mut old) =
        tokio::join!(runtime.spawn(remote.clone().oneshot(get())), serve_one(&listener));
    theirs.unwrap().unwrap();
    assert_eq!(remote.idle_connections(), 1);
    let (ours, _new) = tokio::join!(remote.clone().oneshot(get()), serve_one(&listener));
    ours.unwrap();
    assert_closed(&mut old).await;
    assert_eq!(remote.idle_connections(), 1);
    runtime.shutdown_background();
}

#[tokio::test]
async fn health_check_does_not_wait_for_a_free_connection() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).pool(PoolConfig::new().max_connections(1)).build();
    let busy = tokio::spawn(remote.clone().oneshot(get()));
    let mut first = accept(&listener).await;
    read_head(&mut first).await;
    let (check, endpoint) = (HttpCheck::new("/").unwrap(), remote.clone().into());
    let (result, mut second) = tokio::join!(check.check(endpoint), serve_one(&listener));
    result.unwrap();
    assert_closed(&mut second).await;
    first.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    busy.await.unwrap().unwrap();
    assert_eq!(remote.idle_connections(), 1);
}

#[tokio::test]
async fn pool_of_a_server_in_use_is_replaced_with_its_endpoint() {
    let (listener, address) = listen().await;
    let old = Remote::builder(address.clone()).build();
    let balance = Balance::round_robin([Endpoint::from(old)]);
    let before = tokio::spawn(balance.clone().oneshot(get()));
    let mut first = accept(&listener).await;
    read_head(&mut first).await;
    let pool = PoolConfig::new().max_connections(1).max_queued(0);
    assert!(balance.insert(Remote::builder(address).pool(pool).build().into()).is_some());
    let after = tokio::spawn(balance.clone().oneshot(get()));
    let mut second = accept(&listener).await;
    read_head(&mut second).await;
    let error = balance.clone().oneshot(get()).await.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Busy);
    for (mut server, call) in [(first, before), (second, after)] {
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn request_whose_connection_fails_uses_one_that_was_returned_meanwhile() {
    const ECONNREFUSED: i32 = 111;
    let (listener, address) = listen().await;
    let pool = PoolConfig::new().max_connections(2).connect_timeout(5 * SEC);
    let remote = Remote::builder(address).pool(pool).build();
    let (first, mut server) = tokio::join!(remote.clone().oneshot(get()), begin_answer(&listener));
    inject(&remote, Some(Fault::Hang));
    let second = tokio::spawn(remote.clone().oneshot(get()));
    settle().await;
    server.write_all(b"x").await.unwrap();
    first.unwrap().into_body().collect().await.unwrap();
    assert_eq!(remote.idle_connections(), 1);
    pause();
    advance(5 * SEC).await;
    settle().await;
    tokio::time::resume();
    answer(&mut server).await;
    second.await.unwrap().expect("it uses the connection of the first");
    // The failed connection does not count.
    inject(&remote, Some(Fault::Error(ECONNREFUSED)));
    let (one, two, head) = tokio::join!(
        remote.clone().oneshot(get()),
        remote.clone().oneshot(get()),
        answer(&mut server),
    );
    assert!(one.is_ok() && head.starts_with("GET"));
    assert_eq!(two.unwrap_err().kind(), AttemptErrorKind::Unreachable);
    inject(&remote, None);
    let (one, two, _, _other) = tokio::join!(
        remote.clone().oneshot(get()),
        remote.clone().oneshot(get()),
        answer(&mut server),
        serve_one(&listener),
    );
    assert!(one.is_ok() && two.is_ok());
}
