//! Tests of endpoints of several kinds, and of requests whose server fails.

use std::convert::Infallible;

use axum::{Router, routing::get as get_route};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpSocket;
use tower::{ServiceBuilder, service_fn};
use tower_http::{cors::CorsLayer, limit::RequestBodyLimitLayer, trace::TraceLayer};

use super::*;
use crate::{
    Response,
    layer::RescueExt,
    upstream::{
        Balance, EmptySet, Endpoint, ErasedService, HostPolicy, Remote, RetryLayer,
        discover::{Target, fixed},
    },
    worker,
};

/// Answers one request on a new connection and closes it.
async fn serve_once(script: &Script, answer: &str) -> String {
    let mut server = script.accept().await;
    let head = read_until(&mut server, "\r\n\r\n").await;
    server.write_all(answer.as_bytes()).await.unwrap();
    head
}

#[tokio::test]
async fn worker_threads_remote_server_closure_and_axum_router_share_requests() {
    let threads =
        worker::threads(2, || worker::blocking(|_| Response::new("thread"))).start().unwrap();
    let remote = start(service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from("remote")))
    }))
    .await;
    let closure = service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Full::<bytes::Bytes>::from("closure")))
    });
    let router = Router::new().route("/", get_route(async || "router"));
    let services = [
        ("threads", ErasedService::new(threads.clone())),
        ("remote", ErasedService::new(Remote::new(remote.addr.to_string()).unwrap())),
        ("closure", ErasedService::new(closure)),
        ("router", ErasedService::new(router)),
    ];
    let balance = Balance::round_robin(services.map(|(key, service)| Endpoint::new(key, service)));
    let proxy = start(RetryLayer::new().layer(balance.clone())).await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        let answer = exchange(proxy.addr, get("/")).await;
        assert_eq!(statuses(&answer), [200]);
        answers.push(answer.rsplit_once("\r\n\r\n").unwrap().1.to_owned());
    }
    assert_eq!(answers, ["thread", "remote", "closure", "router"].repeat(2));
    assert!(balance.endpoints().iter().all(|e| e.handle().in_flight() == 0));
    proxy.stop().await;
    remote.stop().await;
    threads.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn balance_tries_each_ejected_server_once() {
    for alive in [0, 1] {
        // Their ports are taken, so that no other test gets them, but nothing listens: the first request ejects both.
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            sockets.push(socket);
        }
        let addrs: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let proxy = upstream(&addrs);
        let send = || proxy.clone().oneshot(Request::new(Body::empty()));
        send().await.unwrap_err();

        let script = Script(sockets.remove(alive).listen(8).unwrap());
        for n in 0..3 {
            let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let server = serve_once(&script, answer);
            let client = async {
                let answer = send().await;
                assert!(answer.is_ok(), "request {n} with server {alive} alive: {answer:?}");
            };
            tokio::join!(client, server);
        }
    }
}

#[tokio::test]
async fn followed_server_is_tried_after_another_one_failed() {
    let dead = refusing();
    let (script, alive) = Script::new().await;
    let no_servers: [&str; 0] = [];
    let proxy = Upstream::builder(no_servers).empty(EmptySet::Fail).build().unwrap();
    let targets = [dead, alive].map(|addr| addr.to_string().parse::<Target>().unwrap());
    proxy.follow(fixed(targets)).await;
    let server = serve_once(&script, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    let client = async { proxy.clone().oneshot(Request::new(Body::empty())).await.unwrap() };
    let (_, answer) = tokio::join!(within(server), within(client));
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn retry_names_the_server_that_gets_the_request_as_its_host() {
    let dead = refusing();
    let (script, alive) = Script::new().await;
    let servers = [dead, alive].map(|addr| addr.to_string());
    let proxy = Upstream::builder(servers).host(HostPolicy::Server).build().unwrap();
    let server = serve_once(&script, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    let request = Request::builder().uri("/").header("host", "a").body(Body::empty()).unwrap();
    let client = async { proxy.clone().oneshot(request).await.unwrap() };
    let (head, _) = tokio::join!(within(server), within(client));
    assert!(head.contains(&format!("host: {alive}\r\n")), "{head}");
    assert_eq!(head.matches("\nhost: ").count(), 1, "{head}");
}

#[tokio::test]
async fn broken_idle_connection_sends_request_to_another_server() {
    let (one, first) = Script::new().await;
    let (two, second) = Script::new().await;
    let front = proxy(&[first, second]).await;
    let servers = async {
        let mut kept = one.accept().await;
        read_until(&mut kept, "\r\n\r\n").await;
        kept.write_all(OK.as_bytes()).await.unwrap();
        let mut other = two.accept().await;
        read_until(&mut other, "\r\n\r\n").await;
        other.write_all(OK.as_bytes()).await.unwrap();
        // The third request is read and not answered.
        read_until(&mut kept, "\r\n\r\n").await;
        drop(kept);
        // The request is not retried on the idle connection, which may be closed as well.
        let head = serve_once(&two, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
        (head, other)
    };
    let client = async {
        for path in ["/1", "/2"] {
            assert_eq!(statuses(&exchange(front.addr, get(path)).await), [200]);
        }
        exchange(front.addr, get("/3")).await
    };
    let ((head, _other), answer) = tokio::join!(servers, client);
    assert!(head.starts_with("GET /3 ") && head.matches("x-forwarded-for").count() == 1, "{head}");
    assert_eq!(statuses(&answer), [201]);
    front.stop().await;
}

#[tokio::test]
async fn streamed_body_goes_to_next_server_if_one_is_unreachable() {
    let dead = refusing();
    let (script, alive) = Script::new().await;
    let front = proxy(&[dead, alive]).await;
    let server = async {
        let mut server = script.accept().await;
        let request = read_until(&mut server, "hello").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        request
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhe";
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(b"llo").await.unwrap();
        read_all(&mut client).await
    };
    let (request, answer) = tokio::join!(within(server), client);
    assert!(request.contains("content-length: 5\r\n"), "{request}");
    assert_eq!(statuses(&answer), [200]);
    front.stop().await;
}

#[tokio::test]
async fn upstream_fits_into_axum_and_between_layers_of_tower_http() {
    let (script, addr) = Script::new().await;
    let api = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CorsLayer::permissive())
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .service(upstream(&[addr]));
    let app = Router::new()
        .route("/here", get_route(async || "axum"))
        .nest_service("/api", api.infallible())
        .fallback_service(upstream(&[addr]).infallible());
    let front = start(app).await;
    assert!(exchange(front.addr, get("/here")).await.ends_with("axum"));
    for (path, seen) in [("/api/a", "GET /a "), ("/b", "GET /b ")] {
        let (head, answer) = tokio::join!(serve_once(&script, OK), exchange(front.addr, get(path)));
        assert!(head.starts_with(seen), "{head}");
        assert_eq!(statuses(&answer), [200]);
    }
    front.stop().await;
}

#[tokio::test]
async fn foreign_body_is_sent_with_its_length() {
    let (script, addr) = Script::new().await;
    let request = Request::post("/").body(Full::<bytes::Bytes>::from("hello")).unwrap();
    let server = async {
        let mut server = script.accept().await;
        let request = read_until(&mut server, "hello").await;
        server.write_all(OK.as_bytes()).await.unwrap();
        request
    };
    let (request, response) = tokio::join!(server, upstream(&[addr]).oneshot(request));
    assert!(request.contains("content-length: 5\r\n"), "{request}");
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "ok");
}
