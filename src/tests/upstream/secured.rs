//! Servers with TLS and with HTTP/2.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{ServiceExt, service_fn};

use crate::{
    Body, BoxError, Request, Response,
    net::tls::{self, Client, Server, testing::Authority},
    tests::support::{Running, start, start_with, within},
    upstream::{
        EmptySet, Upstream,
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
    let kind = crate::Error::find(&*error).unwrap().kind();
    assert_eq!(kind, crate::error::Kind::BadGateway);
    server.abort();
}

#[test]
fn builder_returns_error_of_unknown_scheme_and_missing_certificate() {
    assert!(Upstream::new(["ftp://a:1"]).is_err());
    let missing = Client::builder().roots("/nonexistent").build().unwrap_err();
    assert!(missing.to_string().contains("/nonexistent"));
}
