//! Servers with TLS and with HTTP/2.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tower::{ServiceExt, service_fn};

use crate::{
    Body, BoxError, Error, Request, Response,
    error::Kind,
    net::tls::{self, Client, Server, testing::Authority},
    proto::h2::PREFACE,
    tests::{
        h2::OF_CONNECTION,
        support::{Running, start, start_with, within},
    },
    upstream::{
        CONNECT_TIMEOUT, EmptySet, RetryLayer, Upstream,
        discover::{Target, fixed},
    },
};

/// A server that answers with the version, the host, and the lengths of the body and the trailers of the request.
async fn describe(tls: Option<Server>) -> Running {
    let service = service_fn(async |request: Request| {
        let version = request.version();
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let collected = request.into_body().collect().await?;
        let trailers = collected.trailers().map_or(0, HeaderMap::len);
        let len = collected.to_bytes().len();
        let text = format!("{version:?} {host} {len} {trailers}");
        Ok::<_, BoxError>(Response::new(Body::from(text)))
    });
    match tls {
        None => start(service).await,
        Some(tls) => start_with(service, |s| s.tls(tls)).await,
    }
}

async fn send(upstream: &Upstream, body: Body) -> Result<String, BoxError> {
    let request = Request::post("/x").header("host", "a.example").body(body).unwrap();
    let response = within(upstream.clone().oneshot(request)).await?;
    assert_eq!(response.status(), 200);
    let body = within(response.into_body().collect()).await?.to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

fn certificate(alpn: &[&str]) -> (Authority, Server) {
    let ca = Authority::new();
    let (chain, key) = ca.issue("server", &["localhost"]);
    let host = tls::Host::pem_files(chain, key);
    let server = Server::builder().host(host).alpn(alpn.iter().map(|p| p.as_bytes()));
    (ca, server.build().unwrap())
}

#[tokio::test]
async fn server_chooses_the_protocol_and_its_certificate_is_verified() {
    for (alpn, version) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1")] {
        let (ca, tls) = certificate(alpn);
        let server = describe(Some(tls)).await;
        let address = format!("https://localhost:{}", server.addr.port());
        let client = Client::builder().roots(ca.file()).build().unwrap();
        let upstream = Upstream::builder([&address]).tls(client).build().unwrap();
        upstream.check().await.unwrap();
        for _ in 0..3 {
            let answer = send(&upstream, Body::from("body")).await.unwrap();
            assert_eq!(answer, format!("{version} a.example 4 0"));
        }
        assert_eq!(upstream.endpoints()[0].service().idle_connections(), 1, "it is shared");
        let stranger = Client::builder().roots(Authority::new().file()).build().unwrap();
        let upstream = Upstream::builder([&address]).tls(stranger).build().unwrap();
        let error = upstream.check().await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
        assert!(send(&upstream, Body::empty()).await.is_err());
        drop(upstream);
        server.stop().await;
    }
}

#[tokio::test]
async fn source_names_servers_with_tls_and_http2() {
    let (ca, tls) = certificate(&["h2"]);
    let (secure, plain) = (describe(Some(tls)).await, describe(None).await);
    let client = Client::builder().roots(ca.file()).build().unwrap();
    let servers =
        [format!("https://localhost:{}", secure.addr.port()), format!("h2://{}", plain.addr)];
    for server in servers {
        let builder = Upstream::builder([] as [&str; 0]).empty(EmptySet::Fail);
        let upstream = builder.tls(client.clone()).build().unwrap();
        upstream.follow(fixed([server.parse::<Target>().unwrap()])).await;
        assert_eq!(upstream.endpoints()[0].key().as_str(), server);
        assert_eq!(send(&upstream, Body::empty()).await.unwrap(), "HTTP/2.0 a.example 0 0");
    }
    secure.stop().await;
    plain.stop().await;
}

#[tokio::test]
async fn prior_knowledge_connection_carries_concurrent_requests_with_trailers() {
    let server = describe(None).await;
    let upstream = Upstream::new([format!("h2://{}", server.addr)]).unwrap();
    let requests = (0..50).map(|i| {
        let upstream = upstream.clone();
        tokio::spawn(async move {
            let (tx, body) = Body::channel(None);
            tokio::spawn(async move {
                for _ in 0..10 {
                    tx.ready().await.unwrap();
                    tx.send(Bytes::from(vec![0; 10_000 + i])).unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", 1.into());
                for name in OF_CONNECTION {
                    trailers.insert(name, "x".parse().unwrap()); // not sent
                }
                tx.finish(Some(trailers));
            });
            let answer = send(&upstream, body).await.unwrap();
            assert_eq!(answer, format!("HTTP/2.0 a.example {} 1", 100_000 + 10 * i));
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    assert_eq!(upstream.endpoints()[0].service().idle_connections(), 1);
    drop(upstream);
    server.stop().await;
}

/// SETTINGS, and GOAWAY after no stream (RFC 9113 sections 6.5 and 6.8).
const GOAWAY: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn request_that_the_server_has_not_processed_is_sent_again() {
    for refuses_stream in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("h2://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                if !refuses_stream && counted.load(Relaxed) == 0 {
                    counted.store(1, Relaxed);
                    socket.write_all(GOAWAY).await.unwrap();
                    tokio::spawn(async move { socket.read_to_end(&mut Vec::new()).await });
                    continue;
                }
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        assert_eq!(request.version(), Version::HTTP_2);
                        if counted.fetch_add(1, Relaxed) == 0 {
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                        } else {
                            respond.send_response(http::Response::new(()), true).unwrap();
                        }
                    }
                });
            }
        });
        let upstream = Upstream::new([&address]).unwrap();
        assert_eq!(send(&upstream, Body::from("again")).await.unwrap(), "");
        assert_eq!(calls.load(Relaxed), 2);
        server.abort();
    }
}

/// Reads a frame: its type, flags and stream.
async fn read_frame(socket: &mut TcpStream) -> (u8, u8, u32) {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.unwrap();
    let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; len as usize];
    socket.read_exact(&mut payload).await.unwrap();
    let (kind, flags) = (head[3], head[4]);
    if kind == 6 && flags == 0 {
        let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat();
        socket.write_all(&pong).await.unwrap();
    }
    (kind, flags, u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
}

#[tokio::test]
async fn goaway_completes_requests_up_to_its_stream_and_the_others_are_sent_again() {
    const REQUESTS: u32 = 50;
    const LAST: u32 = 41;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let again = Arc::new(AtomicUsize::new(0));
    let counted = again.clone();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap(); // SETTINGS
        // The whole burst is in flight. Its bodies end with a flag of DATA.
        let mut ended = 0;
        while ended < REQUESTS {
            let (kind, flags, _) = read_frame(&mut socket).await;
            ended += u32::from(kind == 0 && flags & 1 == 1);
        }
        let mut frames = vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, LAST as u8, 0, 0, 0, 0];
        for stream in (1..=LAST as u8).step_by(2) {
            frames.extend([0, 0, 1, 1, 5, 0, 0, 0, stream, 0x89]); // :status: 204
        }
        socket.write_all(&frames).await.unwrap();
        let (second, _) = listener.accept().await.unwrap();
        let mut second = h2::server::handshake(second).await.unwrap();
        while let Some(Ok((request, mut respond))) = second.accept().await {
            assert_eq!(request.method(), http::Method::POST);
            counted.fetch_add(1, Relaxed);
            respond.send_response(http::Response::new(()), true).unwrap();
        }
        drop(socket);
    });
    let retry = RetryLayer::new().attempts(2).without_budget();
    let upstream = Upstream::builder([&address]).retry(retry).build().unwrap();
    let requests = (0..REQUESTS).map(|_| {
        let request = Request::post("/").header("host", "a").body(Body::from("once")).unwrap();
        tokio::spawn(upstream.clone().oneshot(request))
    });
    let mut answered = 0;
    for request in requests.collect::<Vec<_>>() {
        let response = within(request).await.unwrap().unwrap();
        answered += usize::from(response.status() == 204);
    }
    let (before, after) = (LAST.div_ceil(2) as usize, (REQUESTS - LAST.div_ceil(2)) as usize);
    assert_eq!((answered, again.load(Relaxed)), (before, after));
    server.abort();
}

#[tokio::test]
async fn server_that_resets_a_request_is_a_bad_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    });
    let upstream = Upstream::new([&address]).unwrap();
    let error = send(&upstream, Body::from("once")).await.unwrap_err();
    let kind = Error::find(&*error).unwrap().kind();
    assert_eq!(kind, Kind::BadGateway);
    server.abort();
}

#[test]
fn builder_returns_error_of_unknown_scheme_and_missing_certificate() {
    assert!(Upstream::new(["ftp://a:1"]).is_err());
    let missing = Client::builder().roots("/nonexistent").build().unwrap_err();
    assert!(missing.to_string().contains("/nonexistent"));
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_connection_share_its_failure() {
    // It answers no handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let client = Client::builder().roots(Authority::new().file()).build().unwrap();
    let upstream = Upstream::builder([&address]).tls(client).attempts(1).build().unwrap();
    let get = || upstream.clone().oneshot(Request::new(Body::empty()));
    let began = Instant::now();
    let (one, two, three) = tokio::join!(get(), get(), get());
    for result in [one, two, three] {
        let error = result.unwrap_err();
        assert_eq!(Error::find(&*error).unwrap().kind(), Kind::Timeout, "{error}");
        assert!(error.to_string().contains("cannot connect to localhost:"), "{error}");
    }
    assert_eq!(began.elapsed(), CONNECT_TIMEOUT);
    // One that comes later connects.
    get().await.unwrap_err();
    assert_eq!(began.elapsed(), 2 * CONNECT_TIMEOUT);
}

#[tokio::test]
async fn server_that_chose_http1_is_offered_http2_again_later() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("server", &["localhost"]);
    let tls = |alpn: &[&str]| {
        let host = tls::Host::pem_files(&chain, &key);
        let server = Server::builder().host(host).alpn(alpn.iter().map(|p| p.as_bytes()));
        server.build().unwrap()
    };
    let old = describe(Some(tls(&["http/1.1"]))).await;
    let new = describe(Some(tls(&["h2", "http/1.1"]))).await;
    let current = Arc::new(Mutex::new(old.addr));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let target = current.clone();
    let relay = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = *target.lock().unwrap();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let client = Client::builder().roots(ca.file()).build().unwrap();
    let upstream = Upstream::builder([&address]).tls(client).build().unwrap();
    for _ in 0..2 {
        assert_eq!(send(&upstream, Body::empty()).await.unwrap(), "HTTP/1.1 a.example 0 0");
    }
    *current.lock().unwrap() = new.addr;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    // A request opens a connection, and the next one asks the server again.
    assert_eq!(send(&upstream, Body::empty()).await.unwrap(), "HTTP/1.1 a.example 0 0");
    for _ in 0..2 {
        assert_eq!(send(&upstream, Body::empty()).await.unwrap(), "HTTP/2.0 a.example 0 0");
    }
    relay.abort();
    drop(upstream);
    old.stop().await;
    new.stop().await;
}
