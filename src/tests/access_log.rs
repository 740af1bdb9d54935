//! Tests of the access log over real sockets: an entry for each response, by the bytes that were sent.

use std::{convert::Infallible, fs, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tower::{Layer, service_fn};

use super::support::{Running, exchange, read_until, reset, start_with, within};
use crate::{
    Body, BoxError, HttpService, Request, Response, conn::access_log::Entry, files,
    layer::RedirectLayer, peer::Peer, proto::h1::Limits, serve::Serve,
};

/// The entries of the access log, in the order in which they are written.
struct Log(mpsc::UnboundedReceiver<Entry>);

impl Log {
    async fn next(&mut self) -> Entry {
        within(self.0.recv()).await.expect("the server has not ended")
    }

    /// Returns the path, status, bytes and completeness of the next entry.
    async fn summary(&mut self) -> (String, Option<u16>, u64, bool) {
        let entry = self.next().await;
        let path = entry.uri.map_or_else(String::new, |uri| uri.path().to_owned());
        (path, entry.status.map(|status| status.as_u16()), entry.bytes, entry.complete)
    }

    /// Stops the server and returns the remaining entries.
    async fn rest(mut self, server: Running) -> Vec<Entry> {
        server.stop().await;
        let mut entries = Vec::new();
        while let Some(entry) = within(self.0.recv()).await {
            entries.push(entry);
        }
        entries
    }
}

/// Starts a server with an access log.
async fn logged<S>(service: S, options: impl FnOnce(Serve<S>) -> Serve<S>) -> (Running, Log)
where
    S: HttpService<Body, ResponseBody = Body, Future: Send> + Clone + Send + 'static,
{
    let (entries, log) = mpsc::unbounded_channel();
    let write = move |entry: &Entry| entries.send(entry.clone()).unwrap_or_default();
    let server = start_with(service, |server| options(server).access_log(write)).await;
    (server, Log(log))
}

/// Responds as the path names.
async fn app(request: Request) -> Result<Response, BoxError> {
    let (parts, body) = request.into_parts();
    let response = Response::builder();
    Ok(match parts.uri.path() {
        "/hello" => response.body("hello".into())?,
        "/large" => response.body(vec![b'x'; 8 << 20].into())?,
        "/none" => response.status(204).body(Body::empty())?,
        "/same" => response.status(304).header("etag", "\"a\"").body(Body::empty())?,
        "/stream" | "/breaks" => {
            let (tx, body) = Body::channel(None);
            tx.send("some ".into())?;
            tx.send("pieces".into())?;
            if parts.uri.path() == "/breaks" {
                tx.abort("expected")
            } else {
                tx.finish(None)
            }
            response.body(body)?
        }
        "/upload" => response.body(body.collect().await?.to_bytes().into())?,
        "/never" => std::future::pending().await,
        _ => return Err("expected".into()),
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[tokio::test]
async fn partly_read_file_is_logged_with_the_bytes_sent() {
    const LEN: u64 = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("large"), vec![b'x'; LEN as usize]).unwrap();
    let (server, mut log) = logged(files::dir(dir.path()), |s| s).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(get("/large").as_bytes()).await.unwrap();
    client.read_exact(&mut [0; 1000]).await.unwrap();
    drop(client); // with unread bytes: a reset
    let (path, status, bytes, complete) = log.summary().await;
    assert_eq!((&*path, status, complete), ("/large", Some(200), false));
    assert!((500..LEN).contains(&bytes), "{bytes}");

    let whole =
        exchange(server.addr, get("/large").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    assert!(whole.await.len() as u64 > LEN);
    assert_eq!(log.summary().await, ("/large".into(), Some(200), LEN, true));
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn entry_names_client_and_request() {
    let (server, mut log) = logged(service_fn(app), |s| s).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    let request = "GET /hello?a=1 HTTP/1.0\r\nHost: a.example\r\nReferer: http://b/\r\nUser-Agent: test/1\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let entry = log.next().await;
    assert_eq!(entry.host.as_ref().unwrap(), "a.example");
    assert_eq!(entry.peer.addr(), Some(client.local_addr().unwrap()));
    assert_eq!(
        (entry.method, entry.version),
        (Some(http::Method::GET), Some(http::Version::HTTP_10))
    );
    assert_eq!(entry.uri.unwrap(), "/hello?a=1");
    assert_eq!(
        (entry.referer.unwrap(), entry.user_agent.unwrap()),
        ("http://b/".parse().unwrap(), "test/1".parse().unwrap())
    );
    assert_eq!((entry.bytes, entry.complete, entry.id.request()), (5, true, 1));
    server.stop().await;
}

#[tokio::test]
async fn pipelined_responses_have_an_entry_each_without_their_framing() {
    let (server, mut log) = logged(service_fn(app), |s| s).await;
    let paths = ["/hello", "/stream", "/none", "/same", "/large", "/hello"];
    let mut requests: String = paths.map(get).concat();
    requests.push_str("HEAD /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    exchange(server.addr, requests).await;
    let expected = [
        ("/hello", 200, 5),
        ("/stream", 200, 11),
        ("/none", 204, 0),
        ("/same", 304, 0),
        ("/large", 200, 8 << 20),
        ("/hello", 200, 5),
        ("/hello", 200, 0),
    ];
    for (path, status, bytes) in expected {
        assert_eq!(log.summary().await, (path.into(), Some(status), bytes, true));
    }
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn refused_request_has_an_entry() {
    let limits = Limits { start_line_bytes: 100, head_bytes: 1000, ..Limits::default() };
    let ms = Duration::from_millis;
    let options = |s: Serve<_>| s.limits(limits).answer_timeout(ms(50));
    let (server, mut log) = logged(service_fn(app), options).await;
    let long = "x".repeat(2000);
    let cases = [
        ("nonsense\r\n\r\n".into(), None, 400),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), None, 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nb: {long}\r\n\r\n"), None, 431),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), None, 505),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".into(), None, 501),
        (get("/never"), Some("/never"), 504),
        (get("/fails").replace("1.1", "1.0"), Some("/fails"), 500),
    ];
    for (request, path, status) in cases {
        let answer = exchange(server.addr, &request).await;
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let entry = log.next().await;
        assert_eq!(entry.status.unwrap(), status, "{request}");
        assert_eq!((entry.bytes, entry.complete), (body.len() as u64, true), "{request}");
        assert_eq!(entry.uri.as_ref().map(|uri| uri.path()), path, "{request}");
        assert_eq!(entry.method.is_some(), path.is_some(), "{request}");
    }
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn slow_head_has_an_entry_and_a_silent_client_has_none() {
    let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
    let (server, mut log) = logged(service_fn(app), |s| s.limits(limits)).await;
    assert!(exchange(server.addr, "").await.is_empty());
    assert!(exchange(server.addr, "GET / HT").await.starts_with("HTTP/1.1 408 "));
    let entry = log.next().await;
    assert_eq!((entry.status.unwrap().as_u16(), entry.complete), (408, true));
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn service_that_is_not_ready_in_time_has_an_entry() {
    let full = tower::limit::ConcurrencyLimit::new(service_fn(app), 0);
    let options = |s: Serve<_>| s.ready_timeout(Duration::from_millis(20));
    let (server, mut log) = logged(full, options).await;
    exchange(server.addr, get("/hello")).await;
    let (path, status, _, complete) = log.summary().await;
    assert_eq!((&*path, status, complete), ("/hello", Some(503), true));
    server.stop().await;
}

#[tokio::test]
async fn client_that_leaves_before_its_response_has_an_entry_without_status() {
    let (server, mut log) = logged(service_fn(app), |s| s).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all((get("/hello") + &get("/never")).as_bytes()).await.unwrap();
    read_until(&mut client, "hello").await;
    reset(client);
    assert_eq!(log.summary().await, ("/hello".into(), Some(200), 5, true));
    assert_eq!(log.summary().await, ("/never".into(), None, 0, false));
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn body_that_breaks_off_has_an_entry_that_is_not_complete() {
    let (server, mut log) = logged(service_fn(app), |s| s).await;
    exchange(server.addr, get("/breaks")).await;
    assert_eq!(log.summary().await, ("/breaks".into(), Some(200), 11, false));
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn exchange_that_a_shutdown_aborts_has_an_entry() {
    let options = |s: Serve<_>| s.shutdown_timeout(Duration::from_millis(20));
    let (server, mut log) = logged(service_fn(app), options).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all((get("/hello") + &get("/never")).as_bytes()).await.unwrap();
    read_until(&mut client, "hello").await;
    log.next().await;
    let [entry] = &log.rest(server).await[..] else { panic!("one entry") };
    assert_eq!((entry.status, entry.complete), (None, false));
    assert_eq!(entry.uri.as_ref().unwrap().path(), "/never");
}

#[tokio::test]
async fn slow_request_body_is_logged_with_its_response() {
    let limits = Limits { body_timeout: Duration::from_millis(50), ..Limits::default() };
    let (server, mut log) = logged(service_fn(app), |s| s.limits(limits)).await;
    let head = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome";
    let answer = exchange(server.addr, head).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1.len() as u64;
    // The service returns the error of the body, which `serve` turns into 408.
    assert_eq!(log.summary().await, ("/upload".into(), Some(408), body, true));
    assert!(log.rest(server).await.is_empty());
}

#[tokio::test]
async fn peer_in_a_response_is_the_client_of_its_entry() {
    let known = Peer::tcp("192.0.2.7:1".parse().unwrap(), "192.0.2.9:80".parse().unwrap());
    let found = known.clone();
    let behind_proxy = service_fn(move |_: Request| {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(known.clone());
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let (server, mut log) = logged(behind_proxy, |s| s).await;
    exchange(server.addr, get("/").replace("1.1", "1.0")).await;
    assert_eq!(log.next().await.peer, found);
    server.stop().await;
}

#[tokio::test]
async fn unrescued_error_is_logged_as_the_client_sees_it() {
    use crate::conn::{Config, Connection, Transport};
    let (mut client, io) = tokio::io::duplex(1 << 10);
    let transport = Transport::new(io, Peer::memory(), crate::net::DrainWatch::never());
    let (entries, log) = mpsc::unbounded_channel();
    let mut log = Log(log);
    let config = Config::new().access_log(move |entry| entries.send(entry.clone()).unwrap());
    let task = tokio::spawn(Connection::new(transport, service_fn(app), Arc::new(config)));
    client.write_all(get("/fails").replace("1.1", "1.0").as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    drop(client);
    task.await.unwrap().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.len() as u64;
    assert_eq!(log.summary().await, ("/fails".into(), Some(500), body, true));
}

#[tokio::test]
async fn driver_answers_an_unrescued_error_by_its_kind() {
    use crate::conn::{Config, Connection, Transport};
    use crate::error::{Error, Kind};
    for (kind, want) in [(Kind::BadRequest, 400), (Kind::Overloaded, 503), (Kind::Timeout, 504)] {
        let (mut client, io) = tokio::io::duplex(1 << 10);
        let transport = Transport::new(io, Peer::memory(), crate::net::DrainWatch::never());
        let fails = service_fn(move |_: Request<Body>| async move {
            Err::<Response, _>(Error::new(kind, "no"))
        });
        let task = tokio::spawn(Connection::new(transport, fails, Arc::new(Config::new())));
        client.write_all(get("/").replace("1.1", "1.0").as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{answer}");
        drop(client);
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn driver_sends_retry_after_to_rate_limited_client() {
    use crate::{
        error::{Error, Kind},
        layer::limit::RateLimited,
    };
    let fails = service_fn(|_: Request| async {
        let retry_after = Duration::from_millis(89_001);
        Err::<Response, _>(Error::new(Kind::TooManyRequests, RateLimited { retry_after }))
    });
    let (server, _log) = logged(fails, |server| server).await;
    let answer = exchange(server.addr, get("/").replace("1.1", "1.0")).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 90\r\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn entry_distinguishes_local_replies_from_responses_of_the_service() {
    let app = service_fn(async |request: Request| match request.uri().path() {
        "/error" => Err(BoxError::from("failed")),
        "/unavailable" => Ok(Response::builder().status(503).body(Body::empty())?),
        _ => Ok(Response::new(Body::empty())),
    });
    let redirect = RedirectLayer::new().redirect(http::StatusCode::FOUND, "/old", "/new").unwrap();
    let (server, log) = logged(redirect.layer(app), |server| server).await;
    let requests = ["/ok", "/unavailable", "/error", "/old"].map(get).concat();
    exchange(server.addr, &[&requests, "malformed\r\n\r\n"].concat()).await;
    let entries = log.rest(server).await;
    let entries: Vec<_> =
        entries.iter().map(|entry| (entry.status.unwrap().as_u16(), entry.local_reply)).collect();
    assert_eq!(entries, [(200, false), (503, false), (500, true), (302, true), (400, true)]);
}

#[tokio::test]
async fn entry_names_the_client_of_a_trusted_proxy() {
    use crate::layer::{ClientField, RescueLayer, TrustedProxyLayer};
    let trusted = TrustedProxyLayer::new(ClientField::Forwarded);
    let trusted = trusted.trust("127.0.0.0/8".parse().unwrap());
    let site = trusted.layer(RescueLayer::new().layer(service_fn(app)));
    let (server, log) = logged(site, |server| server).await;
    for field in ["Forwarded: for=192.0.2.7;proto=https\r\n", "", "Forwarded: nonsense\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n");
        exchange(server.addr, request).await;
    }
    let entries = log.rest(server).await;
    let clients: Vec<_> = entries
        .iter()
        .map(|e| (e.peer.ip().unwrap().to_string(), e.peer.scheme().to_string()))
        .collect();
    let clients: Vec<_> =
        clients.iter().map(|(ip, scheme)| (ip.as_str(), scheme.as_str())).collect();
    assert_eq!(clients, [("192.0.2.7", "https"), ("127.0.0.1", "http"), ("127.0.0.1", "http")]);
    assert_eq!(entries[2].status.unwrap(), 400, "the proxy's own fault");
}
