//! TLS from a socket to the service.

mod bad_input;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use tower::service_fn;

use super::support::{Running, exchange, start_with, within};
use crate::{
    Body, Request, Response, Router,
    error::{Error, Kind},
    files,
    net::tls::{
        Host, Server,
        testing::{Authority, name, server_config},
    },
    peer::Peer,
};

async fn connect(ca: &Authority, addr: SocketAddr, host: &str) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(addr).await.unwrap();
    within(ca.client(&["http/1.1"]).connect(name(host), socket)).await.unwrap()
}

/// Sends a request and reads until the server closes in order.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &str) -> Vec<u8> {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    answer
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Responds with the facts of the handshake.
async fn facts(tls: Server) -> Running {
    let service = service_fn(async |request: Request| {
        let peer: &Peer = request.extensions().get().unwrap();
        let facts = peer.tls().map(|tls| (tls.version(), tls.server_name().map(str::to_owned)));
        let text = format!("{} {facts:?}", peer.scheme());
        Ok::<_, Infallible>(Response::new(Body::from(text)))
    });
    start_with(service, |s| s.tls(tls)).await
}

#[tokio::test]
async fn request_over_tls_has_its_facts_and_ends_in_order() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let server = facts(Server::pem_files(chain, key).unwrap()).await;
    let mut stream = connect(&ca, server.addr, "a.example").await;
    let answer = String::from_utf8(ask(&mut stream, &get("/", "a.example")).await).unwrap();
    assert!(answer.ends_with("https Some((\"TLSv1.3\", Some(\"a.example\")))"), "{answer}");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn body_that_ends_with_connection_has_no_orderly_end_if_it_fails() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let service = service_fn(async |request: Request| {
        let (sender, body) = Body::channel(None);
        sender.send("half".into()).unwrap();
        match request.uri().path() {
            "/whole" => sender.finish(None),
            _ => sender.abort(Error::new(Kind::Internal, "the body has failed")),
        }
        Ok::<_, Infallible>(Response::new(body))
    });
    let server = start_with(service, |s| s.tls(Server::pem_files(chain, key).unwrap())).await;
    for (path, is_whole) in [("/whole", true), ("/cut", false)] {
        let mut stream = connect(&ca, server.addr, "a.example").await;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let ended = within(stream.read_to_end(&mut Vec::new())).await;
        assert_eq!(ended.is_ok(), is_whole, "{path}: {ended:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn t1_request_for_a_stricter_host_is_misdirected() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("both", &["a.example", "admin.example"]);
    let open = Host::pem_files(&chain, &key).names(["a.example"]);
    let admin = Host::pem_files(&chain, &key).names(["admin.example"]);
    let admin = admin.require_client_certificate(ca.file());
    let tls = Server::builder().host(open).host(admin).build().unwrap();
    let server = facts(tls).await;
    for (host, status) in [("a.example", "200"), ("Admin.example:443", "421"), ("b.example", "200")]
    {
        let mut stream = connect(&ca, server.addr, "a.example").await;
        let answer = String::from_utf8(ask(&mut stream, &get("/", host)).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
    server.stop().await;
}

/// A site whose hosts below `admin.example` are routed to a service of their own at any depth, and need a client
/// certificate.
async fn site_with_strict_wildcard(ca: &Authority) -> Running {
    let (chain, key) = ca.issue("both", &["a.example", "*.admin.example", "*.x.admin.example"]);
    let open = Host::pem_files(&chain, &key).names(["a.example"]);
    let admin = Host::pem_files(&chain, &key).names(["*.admin.example"]);
    let admin = admin.require_client_certificate(ca.file());
    let tls = Server::builder().host(open).host(admin).build().unwrap();
    let page = |text: &'static str| {
        service_fn(
            move |_: Request| async move { Ok::<_, Infallible>(Response::new(Body::from(text))) },
        )
    };
    let router = Router::new().host("*.admin.example", page("admin")).fallback(page("site"));
    start_with(router, |s| s.tls(tls)).await
}

/// Hosts of requests on a connection to `a.example`, and the statuses of their responses.
const BELOW_ADMIN: [(&str, u16); 6] = [
    ("a.example", 200),
    ("x.a.example", 200),
    ("x.admin.example", 421),
    ("y.x.admin.example", 421),
    ("Z.Y.x.Admin.example.:443", 421),
    ("admin.example", 200), // below no wildcard
];

#[tokio::test]
async fn t1_request_for_a_host_deep_below_a_stricter_wildcard_is_misdirected() {
    let ca = Authority::new();
    let server = site_with_strict_wildcard(&ca).await;
    for (host, status) in BELOW_ADMIN {
        let mut stream = connect(&ca, server.addr, "a.example").await;
        let answer = String::from_utf8(ask(&mut stream, &get("/", host)).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
    }
    // The wildcard of a handshake is for one label, so this one is with the default host.
    let mut stream = connect(&ca, server.addr, "y.x.admin.example").await;
    let answer = ask(&mut stream, &get("/", "y.x.admin.example")).await;
    assert!(answer.starts_with(b"HTTP/1.1 421 "));
    server.stop().await;
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn t1_http2_request_for_a_host_deep_below_a_stricter_wildcard_is_misdirected() {
    let ca = Authority::new();
    let server = site_with_strict_wildcard(&ca).await;
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let stream = within(ca.client(&["h2"]).connect(name("a.example"), socket)).await.unwrap();
    let (mut client, connection) = within(h2::client::handshake(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for (host, status) in BELOW_ADMIN {
        let request = http::Request::get(format!("https://{host}/")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), status, "{host}");
    }
    drop(client);
    within(connection).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn t1_request_without_host_is_for_the_default_host() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("both", &["a.example", "admin.example"]);
    let host = |name| Host::pem_files(&chain, &key).names([name]);
    let strict = || host("admin.example").require_client_certificate(ca.file());
    let strict_first = Server::builder().host(strict()).host(host("a.example"));
    let open_first = Server::builder().host(host("a.example")).host(strict());
    for (tls, status) in [(strict_first, "421"), (open_first, "200")] {
        let server = facts(tls.build().unwrap()).await;
        let mut stream = connect(&ca, server.addr, "a.example").await;
        let answer = ask(&mut stream, "GET / HTTP/1.0\r\n\r\n").await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        server.stop().await;
    }
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn listener_without_http2_does_not_offer_it() {
    let ca = Authority::new();
    let files = ca.issue("a", &["a.example"]);
    let usual = || Server::pem_files(&files.0, &files.1).unwrap();
    let mut custom = server_config(&files);
    custom.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    for tls in [usual(), Server::from_config(custom)] {
        for (has_http2, offered, chosen) in [
            (true, &["h2", "http/1.1"][..], Some(&b"h2"[..])),
            (false, &["h2", "http/1.1"], Some(b"http/1.1")),
            (false, &[], None),
        ] {
            let service = service_fn(async |request: Request| {
                let version = format!("{:?}", request.version());
                Ok::<_, Infallible>(Response::new(Body::from(version)))
            });
            let server = start_with(service, |s| {
                let s = s.tls(tls.clone());
                if has_http2 { s } else { s.without_http2() }
            })
            .await;
            let socket = TcpStream::connect(server.addr).await.unwrap();
            let client = ca.client(offered);
            let mut stream = within(client.connect(name("a.example"), socket)).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
            if !has_http2 {
                let answer = ask(&mut stream, &get("/", "a.example")).await;
                assert!(answer.ends_with(b"HTTP/1.1"));
            }
            drop(stream);
            server.stop().await;
        }
    }
    // The client offers only what the listener does not.
    let server = start_with(
        service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty()))),
        |s| s.tls(usual()).without_http2(),
    )
    .await;
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let error = within(ca.client(&["h2"]).connect(name("a.example"), socket)).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn file_over_tls_is_complete_and_sent_with_its_head() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let directory = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..5_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    std::fs::write(directory.path().join("big"), &bytes).unwrap();
    std::fs::write(directory.path().join("small"), "small").unwrap();
    let site = Router::new().fallback(files::dir(directory.path()));
    let tls = Server::pem_files(chain, key).unwrap();
    let server = start_with(site, |s| s.tls(tls)).await;
    let mut stream = connect(&ca, server.addr, "a.example").await;
    stream.write_all(b"GET /small HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    let mut first = [0; 4096];
    let n = within(stream.read(&mut first)).await.unwrap();
    assert!(first[..n].ends_with(b"\r\n\r\nsmall"), "in one record");
    let answer = ask(&mut stream, &get("/big", "a.example")).await;
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(answer[body..] == bytes, "{} bytes", answer.len() - body);
    server.stop().await;
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_answered_and_tls_on_a_plain_port_is_refused() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let server = facts(Server::pem_files(chain, key).unwrap()).await;
    let answer = exchange(server.addr, get("/", "a.example")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https"), "{answer}");
    server.stop().await;

    let service =
        service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::from("plain"))));
    let server = start_with(service, |s| s).await;
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let error = within(ca.client(&[]).connect(name("a.example"), socket)).await.unwrap_err();
    assert!(error.to_string().contains("corrupt message"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_ends_connections_that_have_not_begun_a_handshake() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(chain, key).unwrap();
    let service =
        service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::from("tls"))));
    let server = start_with(service, |s| s.tls(tls).shutdown_timeout(Duration::MAX)).await;
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let mut half = TcpStream::connect(server.addr).await.unwrap();
    half.write_all(&[22, 3, 1, 1]).await.unwrap();
    // Both are accepted before this one, which is served.
    let mut stream = connect(&ca, server.addr, "a.example").await;
    ask(&mut stream, &get("/", "a.example")).await;
    server.stop().await;
    drop((silent, half));
}
