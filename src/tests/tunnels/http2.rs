//! WebSockets between HTTP/1.1 and HTTP/2, by extended CONNECT (RFC 8441).

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest, ext::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use tower::service_fn;

use super::{ASK, ask, pair};
use crate::{
    Body, Budget, HttpService, Request, Response,
    conn::{Http2Config, upgrade},
    proto::{h1::Limits, h2::PREFACE},
    tests::support::{
        Running, exchange, read_all, read_until, start, start_with, statuses, within,
    },
    upstream::{TunnelOptions, Upstream},
};

/// A client of HTTP/2 that knows the server's SETTINGS.
async fn connect(addr: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let client = client.ready().await.unwrap();
    within(async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client
}

fn extended_connect(addr: SocketAddr, path: &str) -> http::Request<()> {
    http::Request::connect(format!("http://{addr}{path}"))
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap()
}

async fn read(mut recv: RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = within(recv.data()).await {
        let data = data.unwrap();
        recv.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

/// A server that echoes on `/chat`, and says at the end that it has seen it.
async fn echo(extended_connect: bool) -> Running {
    start_with(echo_service(), |s| s.http2(Http2Config::new().extended_connect(extended_connect)))
        .await
}

fn echo_service() -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    service_fn(async |request: Request| {
        if request.uri().path() == "/version" {
            return Ok(Response::new(Body::from(format!("{:?}", request.version()))));
        }
        if request.uri().path() != "/chat" {
            let mut response = Response::new(Body::from("no chat"));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            return Ok::<_, Infallible>(response);
        }
        Ok(upgrade::websocket(&request, |mut stream| async move {
            let mut piece = [0; 1024];
            while let Ok(n @ 1..) = stream.read(&mut piece).await {
                if stream.write_all(&piece[..n]).await.is_err() {
                    return;
                }
            }
            let _ = stream.write_all(b"end").await;
            let _ = stream.shutdown().await;
        }))
    })
}

async fn proxy_to_h2(server: &Running) -> Running {
    start(Upstream::new([format!("h2://{}", server.addr)]).unwrap()).await
}

const VERSION: &str = "Sec-WebSocket-Version: 13\r\n\r\n";

/// A request for a WebSocket of the right version.
fn websocket(path: &str) -> String {
    ASK.replace("/chat", path).trim_end().to_owned() + "\r\n" + VERSION
}

#[tokio::test]
async fn burst_of_small_messages_passes() {
    const MESSAGES: usize = 20_000;
    let server = echo(true).await;
    let to_h1 = start(Upstream::new([format!("http://{}", server.addr)]).unwrap()).await;
    let to_h2 = proxy_to_h2(&server).await;
    for front in [&to_h1, &to_h2] {
        let mut client = connect(front.addr).await;
        let request = extended_connect(front.addr, "/chat");
        let (response, mut send) = client.send_request(request, false).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), 200);
        // Within the windows, without a pause for the answers.
        for _ in 0..MESSAGES {
            send.send_data(Bytes::from_static(b"message"), false).unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
        let echoed = read(response.into_body()).await;
        assert_eq!(echoed.len(), MESSAGES * "message".len() + "end".len());
        assert!(echoed.ends_with(b"messageend"));
    }
    to_h2.stop().await;
    to_h1.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn handler_that_does_not_read_stops_its_tunnel_alone() {
    const MESSAGES: usize = 200_000;
    let may_read = Arc::new(Notify::new());
    let handler = {
        let may_read = may_read.clone();
        service_fn(move |request: Request| {
            let may_read = may_read.clone();
            async move {
                if request.method() == "POST" {
                    return Ok::<_, Infallible>(Response::new(Body::empty()));
                }
                Ok(upgrade::websocket(&request, async move |mut stream| {
                    // In another task, as the tasks of an application.
                    let read = tokio::spawn(async move {
                        stream.read_exact(&mut [0]).await.unwrap();
                        may_read.notified().await;
                        let mut all = Vec::new();
                        stream.read_to_end(&mut all).await.unwrap();
                        stream.write_all(all.len().to_string().as_bytes()).await.unwrap();
                        stream.shutdown().await.unwrap();
                    });
                    read.await.unwrap();
                }))
            }
        })
    };
    let budget = Budget::default();
    let of_server = budget.clone();
    let server = start_with(handler, move |s| s.budget(of_server)).await;
    let mut client = connect(server.addr).await;
    let request = extended_connect(server.addr, "/chat");
    let (response, mut send) = client.send_request(request, false).unwrap();
    for _ in 0..MESSAGES {
        send.send_data(Bytes::from_static(b"x"), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    let response = within(response).await.unwrap();
    // Its frames are sent in turn with those of the tunnel, of which most may come later.
    let other = http::Request::post(format!("http://{}/", server.addr)).body(()).unwrap();
    let (other, mut body) = client.send_request(other, false).unwrap();
    body.send_data(Bytes::from_static(b"x"), true).unwrap();
    assert_eq!(within(other).await.unwrap().status(), 200);
    within(async {
        while budget.usage().memory == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    may_read.notify_one();
    assert_eq!(read(response.into_body()).await, (MESSAGES - 1).to_string().as_bytes());
    assert_eq!(budget.usage().memory, 0);
    server.stop().await;
}

#[tokio::test]
async fn client_of_http2_reaches_a_server_of_http1() {
    let pair = pair(|b| b).await;
    let mut client = connect(pair.front.addr).await;
    for is_right in [true, false] {
        let request = extended_connect(pair.front.addr, "/chat");
        let (response, mut send) = client.send_request(request, false).unwrap();
        let mut server = pair.accept().await;
        let head = read_until(&mut server, "\r\n\r\n").await;
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("upgrade: websocket\r\nconnection: upgrade\r\n"), "{head}");
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let accept = if is_right { accept_of(key) } else { "x".to_owned() };
        let agree = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
        );
        server.write_all(agree.as_bytes()).await.unwrap();
        let response = within(response).await.unwrap();
        if !is_right {
            assert_eq!(response.status(), 502);
            continue;
        }
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        send.send_data(Bytes::from_static(b"to server"), true).unwrap();
        assert_eq!(read_all(&mut server).await, "to server");
        server.write_all(b" client").await.unwrap();
        drop(server);
        assert_eq!(read(response.into_body()).await, b"hello client");
        pair.active(0).await;
    }
}

#[tokio::test]
async fn shutdown_closes_a_tunnel_in_order_for_a_client_of_http2() {
    let options = TunnelOptions::new().drain_timeout(Duration::ZERO);
    let pair = pair(|b| b.tunnels(options)).await;
    let mut client = connect(pair.front.addr).await;
    let request = extended_connect(pair.front.addr, "/chat");
    let (response, mut send) = client.send_request(request, false).unwrap();
    let mut server = pair.accept().await;
    let head = read_until(&mut server, "\r\n\r\n").await;
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let agree = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(key)
    );
    server.write_all(agree.as_bytes()).await.unwrap();
    let mut messages = within(response).await.unwrap().into_body();
    let (from_server, from_client) = (b"\x81\x02hi", b"\x81\x82abcd\x09\x0b");
    server.write_all(from_server).await.unwrap();
    assert_eq!(within(messages.data()).await.unwrap().unwrap(), from_server[..]);
    send.send_data(Bytes::from_static(from_client), false).unwrap();
    within(server.read_exact(&mut [0; 8])).await.unwrap();
    let stop = tokio::spawn(pair.front.stop());
    // A close frame of 1001, and the end of the stream: a reset would be an error.
    assert_eq!(read(messages).await, b"\x88\x02\x03\xe9");
    let mut rest = Vec::new();
    within(server.read_to_end(&mut rest)).await.unwrap();
    assert_eq!((rest[..2].to_vec(), rest.len()), (vec![0x88, 0x82], 8));
    assert_eq!([rest[6] ^ rest[2], rest[7] ^ rest[3]], 1001u16.to_be_bytes());
    drop((send, client, server));
    stop.await.unwrap();
    assert_eq!(pair.upstream.tunnel_stats().active, 0);
}

fn accept_of(key: &str) -> String {
    let key = http::HeaderValue::from_str(key).unwrap();
    let mut request = Request::new(Body::empty());
    crate::semantics::upgrade::set(
        request.headers_mut(),
        http::HeaderValue::from_static("websocket"),
    );
    request.headers_mut().insert("sec-websocket-key", key);
    request.headers_mut().insert("sec-websocket-version", http::HeaderValue::from_static("13"));
    let response = upgrade::websocket(&request, |_| async {});
    response.headers()["sec-websocket-accept"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn client_of_http1_reaches_a_server_of_http2() {
    let server = echo(true).await;
    let proxy = proxy_to_h2(&server).await;
    for _ in 0..2 {
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        client.write_all([&websocket("/chat"), "hello"].concat().as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        assert_eq!(read_until(&mut client, "hello").await, "hello");
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, "end");
    }
    proxy.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn client_of_http2_reaches_a_server_of_http2() {
    let server = echo(true).await;
    let proxy = proxy_to_h2(&server).await;
    let mut client = connect(proxy.addr).await;
    let request = extended_connect(proxy.addr, "/chat");
    let (response, mut send) = client.send_request(request, false).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), 200);
    let large = vec![b'x'; 1 << 20];
    send.reserve_capacity(large.len());
    let sent = async {
        for piece in large.chunks(1 << 14) {
            within(std::future::poll_fn(|cx| {
                if send.capacity() >= piece.len() {
                    return std::task::Poll::Ready(());
                }
                send.poll_capacity(cx).map(|room| assert!(room.unwrap().is_ok()))
            }))
            .await;
            send.send_data(Bytes::copy_from_slice(piece), false).unwrap();
        }
        send.send_data(Bytes::new(), true).unwrap();
    };
    let (all, ()) = tokio::join!(read(response.into_body()), sent);
    assert!(all.len() == large.len() + 3 && all.ends_with(b"xend"), "{}", all.len());
}

#[tokio::test]
async fn server_of_http2_may_refuse_a_websocket() {
    let server = echo(true).await;
    let proxy = proxy_to_h2(&server).await;
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    for _ in 0..2 {
        client.write_all(websocket("/other").as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "no chat").await;
        assert_eq!(statuses(&answer), [404]);
    }
}

#[tokio::test]
async fn server_of_http2_without_extended_connect_is_502() {
    let server = echo(false).await;
    let proxy = proxy_to_h2(&server).await;
    let mut client = ask(proxy.addr).await;
    assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [502]);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[0, 0, len, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Reads frames up to one of this type, and returns its stream and payload.
async fn next_of(socket: &mut TcpStream, kind: u8) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        within(socket.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within(socket.read_exact(&mut payload)).await.unwrap();
        if head[3] == kind {
            return (head[8], payload);
        }
    }
}

#[tokio::test]
async fn websocket_waits_for_the_settings_of_a_new_connection() {
    let (headers, settings, ping) = (1, 4, 6);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let proxy = start(Upstream::new([address]).unwrap()).await;
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    client.write_all(websocket("/chat").as_bytes()).await.unwrap();

    let mut server = within(listener.accept()).await.unwrap().0;
    within(server.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
    // The client has sent all that it sends by itself. Only now it learns that extended CONNECT is allowed.
    let (_, payload) = next_of(&mut server, ping).await;
    let allowed = frame(settings, 0, 0, &[0, 8, 0, 0, 0, 1]);
    server.write_all(&[allowed, frame(ping, 1, 0, &payload)].concat()).await.unwrap();
    let (stream, _) = next_of(&mut server, headers).await;
    server.write_all(&frame(headers, 4, stream, &[0x88])).await.unwrap(); // `:status: 200`
    assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [101]);
}

#[tokio::test]
async fn server_that_sends_no_settings_is_502_after_the_timeout_of_heads() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let limits = Limits::new().head_timeout(Duration::from_millis(1));
    let proxy = start(Upstream::builder([address]).limits(limits).build().unwrap()).await;
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    client.write_all(websocket("/chat").as_bytes()).await.unwrap();
    let _server = within(listener.accept()).await.unwrap();
    assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [502]);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn websocket_to_a_secure_server_without_extended_connect_uses_http1() {
    use crate::net::tls::{Client, Host, Server, testing::Authority};
    let ca = Authority::new();
    let (chain, key) = ca.issue("server", &["localhost"]);
    let tls = Server::builder().host(Host::pem_files(chain, key)).build().unwrap();
    for allowed in [false, true] {
        let options = Http2Config::new().extended_connect(allowed);
        let tls = tls.clone();
        let server = start_with(echo_service(), |s| s.tls(tls).http2(options)).await;
        let address = format!("https://localhost:{}", server.addr.port());
        let client = Client::builder().roots(ca.file()).build().unwrap();
        let upstream = Upstream::builder([address]).tls(client).build().unwrap();
        let proxy = start(upstream.clone()).await;
        for _ in 0..2 {
            // A plain request before each, which uses the connection of HTTP/2.
            let answer = exchange(proxy.addr, "GET /version HTTP/1.0\r\nHost: a\r\n\r\n").await;
            assert!(answer.ends_with("\r\n\r\nHTTP/2.0"), "{answer}");
            let mut client = TcpStream::connect(proxy.addr).await.unwrap();
            client.write_all([&websocket("/chat"), "hello"].concat().as_bytes()).await.unwrap();
            let head = read_until(&mut client, "\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert_eq!(read_until(&mut client, "hello").await, "hello");
            client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client).await, "end");
        }
        proxy.stop().await;
        drop(upstream);
        server.stop().await;
    }
}
