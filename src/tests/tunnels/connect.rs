//! Tunnels by CONNECT: over HTTP/1.1 and HTTP/2, and what is refused.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::Layer;

use crate::{
    Router,
    proto::h1::Limits,
    tests::support::{
        Running, exchange, read_all, read_until, refusing, start, start_with, statuses, within,
    },
    upstream::{ConnectLayer, TunnelOptions},
};

/// A forward proxy to one scripted server.
struct Proxy {
    server: TcpListener,
    target: SocketAddr,
    layer: ConnectLayer,
    front: Running,
}

async fn proxy(options: impl FnOnce(ConnectLayer) -> ConnectLayer) -> Proxy {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap();
    let layer = options(
        ConnectLayer::new()
            .allow("127.0.0.1".parse().unwrap(), [target.port()])
            .allow("localhost".parse().unwrap(), [target.port()])
            .allow_network("127.0.0.0/8".parse().unwrap()),
    );
    let front = serve(&layer).await;
    Proxy { server, target, layer, front }
}

async fn serve(layer: &ConnectLayer) -> Running {
    let options = Limits::new().allow_connect(true);
    start_with(layer.layer(Router::new()), |s| s.limits(options)).await
}

fn connect(target: impl std::fmt::Display) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

impl Proxy {
    async fn tunnel(&self, early: &str) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.front.addr).await.unwrap();
        let request = connect(self.target) + early;
        client.write_all(request.as_bytes()).await.unwrap();
        let server = within(self.server.accept()).await.unwrap().0;
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        (client, server)
    }

    async fn active(&self, n: usize) {
        within(async {
            while self.layer.stats().active != n {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn connect_moves_bytes_both_ways_and_keeps_half_closes() {
    let proxy = proxy(|layer| layer).await;
    for early in ["", "early "] {
        let (mut client, mut server) = proxy.tunnel(early).await;
        assert_eq!(proxy.layer.stats().active, 1);
        client.write_all(b"to server").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut server).await, [early, "to server"].concat());
        server.write_all(b"to client").await.unwrap();
        drop(server);
        assert_eq!(read_all(&mut client).await, "to client");
        proxy.active(0).await;
    }
    let stats = proxy.layer.stats();
    assert_eq!((stats.opened, stats.sent, stats.received), (2, 24, 18));
    let answer = exchange(proxy.front.addr, "GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(statuses(&answer), [404], "of the inner service");
    proxy.front.stop().await;
}

#[tokio::test]
async fn connect_is_off_unless_the_limits_allow_it() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap();
    let layer = ConnectLayer::new()
        .allow("*".parse().unwrap(), [target.port()])
        .allow_network("127.0.0.0/8".parse().unwrap());
    let front = start(layer.layer(Router::new())).await;
    assert_eq!(statuses(&exchange(front.addr, connect(target)).await), [501]);
}

#[tokio::test]
async fn connect_to_a_destination_that_is_not_allowed_is_403() {
    let proxy = proxy(|layer| layer.allow("*".parse().unwrap(), [1])).await;
    let port = proxy.target.port();
    for target in [
        format!("127.0.0.1:{}", port ^ 1), // another port
        format!("127.0.0.2:{port}"),       // another host
        "[::1]:1".to_owned(),              // an allowed host, but no allowed address
        "10.0.0.1:1".to_owned(),
        "169.254.169.254:1".to_owned(),
    ] {
        // What follows is no request: the client may have taken it for the tunnel's.
        let bytes = connect(&target) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        // The type does not make it a request of gRPC, which would be answered with 200.
        let bytes = bytes.replacen("\r\n\r\n", "\r\nContent-Type: application/grpc\r\n\r\n", 1);
        let answer = exchange(proxy.front.addr, bytes).await;
        assert_eq!(statuses(&answer), [403], "{target}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    assert_eq!((proxy.layer.stats().opened, proxy.layer.stats().active), (0, 0));

    // The rule of names alone does not reach this machine.
    let layer = ConnectLayer::new().allow("localhost".parse().unwrap(), [port]);
    let front = serve(&layer).await;
    let answer = exchange(front.addr, connect(format!("localhost:{port}"))).await;
    assert_eq!(statuses(&answer), [403]);
}

#[tokio::test]
async fn connect_resolves_an_allowed_name() {
    let proxy = proxy(|layer| layer).await;
    let mut client = TcpStream::connect(proxy.front.addr).await.unwrap();
    let target = format!("localhost:{}", proxy.target.port());
    client.write_all(connect(target).as_bytes()).await.unwrap();
    assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [200]);
}

#[tokio::test]
async fn connect_to_a_server_that_refuses_is_502() {
    let target = refusing();
    let layer = ConnectLayer::new()
        .allow(target.ip().to_string().parse().unwrap(), [target.port()])
        .allow_network("127.0.0.0/8".parse().unwrap());
    let front = serve(&layer).await;
    assert_eq!(statuses(&exchange(front.addr, connect(target)).await), [502]);
    assert_eq!(layer.stats().active, 0);
}

#[tokio::test]
async fn connect_to_a_server_that_does_not_answer_is_504() {
    // Its queue is full, so that the kernel answers no further client.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let target = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(target).await.unwrap();
    let layer = ConnectLayer::new()
        .allow("127.0.0.1".parse().unwrap(), [target.port()])
        .allow_network("127.0.0.0/8".parse().unwrap())
        .connect_timeout(Duration::from_millis(1));
    let front = serve(&layer).await;
    assert_eq!(statuses(&exchange(front.addr, connect(target)).await), [504]);
}

#[tokio::test]
async fn number_of_tunnels_by_connect_is_bounded() {
    let proxy = proxy(|layer| layer.tunnels(TunnelOptions::new().max_tunnels(1))).await;
    let tunnel = proxy.tunnel("").await;
    let answer = exchange(proxy.front.addr, connect(proxy.target)).await;
    assert_eq!((statuses(&answer), proxy.layer.stats().refused), (vec![503], 1));
    drop(tunnel);
    proxy.active(0).await;
    proxy.tunnel("").await;
}

#[tokio::test]
async fn idle_tunnel_by_connect_is_reset() {
    let options = TunnelOptions::new().idle_timeout(Duration::from_millis(1));
    let proxy = proxy(|layer| layer.tunnels(options)).await;
    let (mut client, _server) = proxy.tunnel("").await;
    let error = within(client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    proxy.active(0).await;
}

#[tokio::test]
async fn shutdown_ends_a_tunnel_by_connect_after_its_time() {
    let options = TunnelOptions::new().drain_timeout(Duration::ZERO);
    let proxy = proxy(|layer| layer.tunnels(options)).await;
    let (mut client, mut server) = proxy.tunnel("").await;
    let stop = tokio::spawn(proxy.front.stop());
    assert_eq!(read_all(&mut client).await, "");
    assert_eq!(read_all(&mut server).await, "");
    drop((client, server));
    stop.await.unwrap();
    assert_eq!(proxy.layer.stats().active, 0);
}

#[cfg(feature = "h2")]
mod http2 {
    use bytes::Bytes;
    use h2::client::{ResponseFuture, SendRequest};

    use super::*;

    async fn client(addr: SocketAddr) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        client.ready().await.unwrap()
    }

    fn send(
        client: &mut SendRequest<Bytes>,
        target: impl std::fmt::Display,
    ) -> (ResponseFuture, h2::SendStream<Bytes>) {
        let request = http::Request::connect(target.to_string()).body(()).unwrap();
        client.send_request(request, false).unwrap()
    }

    #[tokio::test]
    async fn connect_is_a_tunnel_in_a_stream() {
        let proxy = proxy(|layer| layer).await;
        let mut client = client(proxy.front.addr).await;
        for _ in 0..2 {
            let (response, mut stream) = send(&mut client, proxy.target);
            let mut server = within(proxy.server.accept()).await.unwrap().0;
            let response = within(response).await.unwrap();
            assert_eq!(response.status(), 200);
            assert!(!response.headers().contains_key("content-length"));
            stream.send_data(Bytes::from_static(b"to server"), true).unwrap();
            assert_eq!(read_all(&mut server).await, "to server");
            server.write_all(b"to client").await.unwrap();
            drop(server);
            let mut body = response.into_body();
            let mut all = Vec::new();
            while let Some(data) = within(body.data()).await {
                all.extend_from_slice(&data.unwrap());
            }
            assert_eq!(all, b"to client");
            proxy.active(0).await;
        }
    }

    #[tokio::test]
    async fn reset_by_the_destination_is_a_connect_error() {
        let proxy = proxy(|layer| layer).await;
        let mut client = client(proxy.front.addr).await;
        let (response, _stream) = send(&mut client, proxy.target);
        let server = within(proxy.server.accept()).await.unwrap().0;
        let response = within(response).await.unwrap();
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        let error = within(response.into_body().data()).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CONNECT_ERROR));
    }

    #[tokio::test]
    async fn connect_that_is_refused_leaves_other_streams_alone() {
        let proxy = proxy(|layer| layer).await;
        let mut client = client(proxy.front.addr).await;
        for (target, status) in [("10.0.0.1:443", 403), ("a", 400), ("a:0", 400)] {
            let (response, _stream) = send(&mut client, target);
            assert_eq!(within(response).await.unwrap().status(), status, "{target}");
        }
        let request = http::Request::get("http://a/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(within(response).await.unwrap().status(), 404);
    }

    #[tokio::test]
    async fn connect_is_off_unless_the_limits_allow_it() {
        let front = start(ConnectLayer::new().layer(Router::new())).await;
        let (response, _stream) = send(&mut client(front.addr).await, "a.example:443");
        assert_eq!(within(response).await.unwrap().status(), 501);
    }
}
