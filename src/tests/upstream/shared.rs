//! HTTP/2 connections to servers: their limits, and the messages on them.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{net::TcpListener, sync::Semaphore};
use tower::{ServiceExt, service_fn};

use crate::{
    Body, BoxError, Request, Response,
    conn::{Http2Config, InterimResponses},
    peer::Peer,
    tests::support::{Running, exchange, start, start_with, within},
    upstream::{PoolConfig, PoolExhausted, Remote, ServerAddress, Upstream},
};

/// A server that answers with the client address of the connection.
async fn addresses() -> Running {
    start(service_fn(async |request: Request| {
        let peer: &Peer = request.extensions().get().unwrap();
        Ok::<_, Infallible>(Response::new(Body::from(peer.to_string())))
    }))
    .await
}

pub(super) fn upstream(server: &Running, pool: PoolConfig) -> Upstream {
    Upstream::builder([format!("h2://{}", server.addr)]).pool(pool).attempts(1).build().unwrap()
}

pub(super) async fn get(upstream: &Upstream) -> Result<Response, BoxError> {
    let request = Request::get("/").header("host", "a").body(Body::empty()).unwrap();
    within(upstream.clone().oneshot(request)).await
}

pub(super) async fn text(response: Response) -> String {
    let body = within(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn remote_of_an_http2_server_keeps_the_options_of_its_builder() {
    let server = addresses().await;
    let address: ServerAddress = format!("h2://{}", server.addr).parse().unwrap();
    let remote = Remote::builder(address).pool(PoolConfig::new().max_requests(1)).build();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let request = Request::get("/").header("host", "a").body(Body::empty()).unwrap();
        let response = within(remote.clone().oneshot(request)).await.unwrap();
        seen.insert(text(response).await);
    }
    assert_eq!(seen.len(), 3, "a connection for each request");
    server.stop().await;
}

#[tokio::test]
async fn connection_is_replaced_at_its_maximum_requests_and_age() {
    let server = addresses().await;
    for (pool, connections) in [
        (PoolConfig::new(), 1),
        (PoolConfig::new().max_requests(2), 3),
        (PoolConfig::new().max_requests(1), 6),
        (PoolConfig::new().max_age(Duration::ZERO), 6),
    ] {
        let upstream = upstream(&server, pool);
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            seen.insert(text(get(&upstream).await.unwrap()).await);
        }
        assert_eq!(seen.len(), connections);
        assert!(upstream.endpoints()[0].service().idle_connections() <= 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn connection_that_has_served_its_requests_ends_after_the_last() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let (ended, counted) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (ends, counts) = (ended.clone(), counted.clone());
    let server = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (ends, counts) = (ends.clone(), counts.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                let mut requests = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    requests += 1;
                    respond.send_response(http::Response::new(()), true).unwrap();
                }
                counts.lock().unwrap().push(requests);
                ends.fetch_add(1, Relaxed);
            });
        }
    });
    let pool = PoolConfig::new().max_requests(3).idle_timeout(Duration::MAX);
    let upstream = Upstream::builder([&address]).pool(pool).build().unwrap();
    for _ in 0..7 {
        get(&upstream).await.unwrap();
    }
    // Two have served three each, and are closed without an idle timeout.
    within(async {
        while ended.load(Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(*counted.lock().unwrap(), [3, 3]);
    server.abort();
}

#[tokio::test]
async fn connection_is_opened_when_streams_run_out() {
    let (tx, hold) = tokio::sync::watch::channel(());
    let service = service_fn(move |request: Request| {
        let mut hold = hold.clone();
        async move {
            let address = request.extensions().get::<Peer>().unwrap().to_string();
            if request.uri().path() == "/held" {
                hold.changed().await.unwrap();
            }
            Ok::<_, BoxError>(Response::new(Body::from(address)))
        }
    });
    let server = start_with(service, |s| s.http2(Http2Config::new().max_streams(2))).await;
    let upstream = upstream(&server, PoolConfig::new());
    text(get(&upstream).await.unwrap()).await; // so that its SETTINGS are known
    let held = (0..4).map(|_| {
        let request = Request::get("/held").header("host", "a").body(Body::empty()).unwrap();
        tokio::spawn(upstream.clone().oneshot(request))
    });
    let held: Vec<_> = held.collect();
    within(async {
        while upstream.endpoints()[0].service().idle_connections() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    tx.send(()).unwrap();
    let mut seen = Vec::new();
    for request in held {
        seen.push(text(within(request).await.unwrap().unwrap()).await);
    }
    seen.sort();
    assert!(seen[0] == seen[1] && seen[1] != seen[2] && seen[2] == seen[3], "{seen:?}");
    assert_eq!(upstream.endpoints()[0].service().idle_connections(), 2);
    server.stop().await;
}

#[tokio::test]
async fn burst_opens_the_connections_that_the_settings_of_the_first_one_require() {
    const REQUESTS: usize = 7;
    let (began, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (b, g) = (began.clone(), go_on.clone());
    let service = service_fn(move |_: Request| {
        let (began, go_on) = (b.clone(), g.clone());
        async move {
            began.fetch_add(1, Relaxed);
            go_on.acquire().await?.forget();
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    for (allowed, connections) in [(2, 4), (7, 1)] {
        let http2 = Http2Config::new().max_streams(allowed);
        let server = start_with(service.clone(), |s| s.http2(http2)).await;
        // A request that waited in a queue of the pool would be refused.
        let pool = PoolConfig::new().max_connections(connections).max_queued(0);
        let upstream = upstream(&server, pool);
        let requests: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let upstream = upstream.clone();
                tokio::spawn(async move { get(&upstream).await })
            })
            .collect();
        within(async {
            while began.load(Relaxed) < REQUESTS {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(upstream.endpoints()[0].service().idle_connections(), connections);
        began.store(0, Relaxed);
        go_on.add_permits(REQUESTS);
        for request in requests {
            within(request).await.unwrap().unwrap();
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn burst_on_new_connections_is_not_refused() {
    for (allowed, burst) in [(100, 250), (10, 250), (1, 50)] {
        let service = service_fn(async |request: Request| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(Body::from(body)))
        });
        let http2 = Http2Config::new().max_streams(allowed);
        let server = start_with(service, |s| s.http2(http2)).await;
        let upstream = upstream(&server, PoolConfig::new()); // which makes one attempt
        let requests = (0..burst).map(|i| {
            let request = Request::post("/").header("host", "a");
            let request = request.body(Body::from(format!("{i}"))).unwrap();
            tokio::spawn(upstream.clone().oneshot(request))
        });
        for (i, request) in requests.collect::<Vec<_>>().into_iter().enumerate() {
            let response = within(request).await.unwrap().unwrap();
            assert_eq!(text(response).await, i.to_string(), "of {allowed}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn request_waits_for_a_stream_if_connections_are_bounded() {
    let (tx, body) = Body::channel(None);
    let body = Arc::new(Mutex::new(Some(body)));
    let service = service_fn(move |request: Request| {
        let body = body.lock().unwrap().take();
        let peer = request.extensions().get::<Peer>().unwrap().to_string();
        async move { Ok::<_, Infallible>(Response::new(body.unwrap_or_else(|| Body::from(peer)))) }
    });
    let one = Http2Config::new().max_streams(1);
    let server = start_with(service, |s| s.http2(one)).await;
    let pool = PoolConfig::new().max_connections(1).max_queued(1).queue_timeout(Duration::MAX);
    let upstream = upstream(&server, pool);
    let first = get(&upstream).await.unwrap();
    let second = tokio::spawn({
        let upstream = upstream.clone();
        async move { get(&upstream).await }
    });
    within(async {
        while upstream.endpoints()[0].service().queued() < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let error = get(&upstream).await.unwrap_err();
    assert!(find(&*error).is_some_and(|e| e == PoolExhausted::QueueFull(1)), "{error:?}");
    assert_eq!(crate::Error::find(&*error).unwrap().kind(), crate::error::Kind::Overloaded);
    tx.finish(None);
    assert_eq!(text(first).await, "");
    text(within(second).await.unwrap().unwrap()).await;
    assert_eq!(upstream.endpoints()[0].service().queued(), 0);
    assert_eq!(upstream.endpoints()[0].service().idle_connections(), 1);
    server.stop().await;
}

#[tokio::test]
async fn request_that_has_waited_too_long_fails() {
    let (tx, body) = Body::channel(None);
    let body = Arc::new(Mutex::new(Some(body)));
    let service = service_fn(move |_: Request| {
        let body = body.lock().unwrap().take();
        async move { Ok::<_, Infallible>(Response::new(body.unwrap_or_default())) }
    });
    let one = Http2Config::new().max_streams(1);
    let server = start_with(service, |s| s.http2(one)).await;
    let pool = PoolConfig::new().max_connections(1).queue_timeout(Duration::ZERO);
    let upstream = upstream(&server, pool);
    let first = get(&upstream).await.unwrap();
    let error = get(&upstream).await.unwrap_err();
    assert!(
        find(&*error).is_some_and(|e| e == PoolExhausted::Timeout(Duration::ZERO)),
        "{error:?}"
    );
    drop((first, tx));
    server.stop().await;
}

/// Returns the exceeded bound from the causes of an error.
fn find(error: &(dyn std::error::Error + 'static)) -> Option<PoolExhausted> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|error| error.downcast_ref().copied())
}

#[tokio::test]
async fn h10_frames_in_a_body_are_data_to_a_server() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let server = start(service_fn(move |request: Request| {
        counted.fetch_add(1, Relaxed);
        async move {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(Body::from(body)))
        }
    }))
    .await;
    // The end of this stream's data, a reset of it, and a request of its own, as an attacker would have them read.
    let frames = [
        &[0, 0, 0, 0, 1, 0, 0, 0, 1][..],
        &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8],
        &[0, 0, 6, 1, 5, 0, 0, 0, 3, 0x83, 0x86, 0x84, 0x41, 1, b'b'],
        crate::proto::h2::PREFACE,
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
    ]
    .concat();
    let upstream = upstream(&server, PoolConfig::new());
    for size in 1..=frames.len() {
        let (tx, body) = Body::channel(None);
        for piece in frames.chunks(size) {
            tx.send(Bytes::copy_from_slice(piece)).unwrap();
        }
        tx.finish(None);
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let response = within(upstream.clone().oneshot(request)).await.unwrap();
        let echoed = within(response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(echoed, frames, "in pieces of {size}");
        assert_eq!(requests.load(Relaxed), size);
    }
    server.stop().await;
}

#[tokio::test]
async fn early_hints_of_a_server_are_relayed() {
    let server = start(service_fn(async |request: Request| {
        let interim = request.extensions().get::<InterimResponses>().unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("link", "</a.css>".parse().unwrap());
        interim.send(http::StatusCode::EARLY_HINTS, headers).unwrap();
        Ok::<_, Infallible>(Response::new(Body::from("done")))
    }))
    .await;
    let front = start(upstream(&server, PoolConfig::new())).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = exchange(front.addr, request).await;
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n";
    assert!(answer.starts_with(early) && answer.ends_with("\r\n\r\ndone"), "{answer}");
    front.stop().await;
    server.stop().await;
}
