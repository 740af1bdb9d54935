//! WebSockets through the proxy, byte by byte, with scripted servers.

mod connect;
#[cfg(feature = "h2")]
mod http2;

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceBuilder;

use super::support::{Running, exchange, read_all, read_until, reset, start, statuses, within};
use crate::{
    layer::ConcurrencyLimitLayer,
    upstream::{EndpointStatus, PoolConfig, TunnelOptions, Upstream, UpstreamBuilder},
};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A proxy before one scripted server.
struct Pair {
    server: TcpListener,
    upstream: Upstream,
    front: Running,
}

async fn pair(options: impl FnOnce(UpstreamBuilder) -> UpstreamBuilder) -> Pair {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = server.local_addr().unwrap();
    let upstream = options(Upstream::builder([addr.to_string()])).build().unwrap();
    let front = start(upstream.clone()).await;
    Pair { server, upstream, front }
}

impl Pair {
    async fn accept(&self) -> TcpStream {
        within(self.server.accept()).await.unwrap().0
    }

    fn status(&self) -> EndpointStatus {
        self.upstream.balance().status().remove(0)
    }

    /// Opens a tunnel. Returns the client's side and the server's.
    async fn tunnel(&self) -> (TcpStream, TcpStream) {
        let mut client = ask(self.front.addr).await;
        let mut server = self.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(AGREE.as_bytes()).await.unwrap();
        assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [101]);
        (client, server)
    }

    /// Waits until there are this many tunnels.
    async fn active(&self, n: usize) {
        within(async {
            while self.upstream.tunnel_stats().active != n {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn ask(proxy: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn tunnel_carries_bytes_both_ways_and_keeps_half_close() {
    let pair = pair(|b| b).await;
    let (mut client, mut server) = pair.tunnel().await;
    client.write_all(b"to server").await.unwrap();
    assert_eq!(read_until(&mut server, "server").await, "to server");
    server.write_all(b"to client").await.unwrap();
    assert_eq!(read_until(&mut client, "client").await, "to client");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await, "");
    assert_eq!(pair.upstream.tunnel_stats().active, 1, "one direction is left");
    server.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await.len(), 1 << 20);
    pair.active(0).await;
    let stats = pair.upstream.tunnel_stats();
    assert_eq!((stats.opened, stats.sent, stats.received), (1, 9, 9 + (1 << 20)));
    pair.front.stop().await;
}

#[tokio::test]
async fn request_for_a_websocket_reaches_the_server_with_its_fields() {
    let pair = pair(|b| b).await;
    let mut client = ask(pair.front.addr).await;
    let mut server = pair.accept().await;
    assert_eq!(
        read_until(&mut server, "\r\n\r\n").await,
        "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nx-forwarded-for: 127.0.0.1\r\n\
         x-forwarded-proto: http\r\nx-forwarded-host: a\r\nupgrade: WebSocket\r\n\
         connection: upgrade\r\n\r\n"
    );
    // The first bytes of the tunnel come with the response.
    server.write_all([AGREE, "hello"].concat().as_bytes()).await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(head.contains("upgrade: WebSocket\r\nconnection: upgrade\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    assert_eq!(read_until(&mut client, "hello").await, "hello");
}

#[tokio::test]
async fn s1_bytes_after_the_request_are_not_tunnelled_before_the_server_agrees() {
    let pair = pair(|b| b).await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = TcpStream::connect(pair.front.addr).await.unwrap();
    client.write_all([ASK, smuggled].concat().as_bytes()).await.unwrap();
    let mut server = pair.accept().await;
    read_until(&mut server, "\r\n\r\n").await;
    // This response of the same runtime arrives after anything that the proxy would have sent.
    exchange(pair.front.addr, "BAD\r\n\r\n").await;
    let error = server.try_read(&mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    // The server refuses: the bytes are the next request, on the same connections.
    server.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(statuses(&read_until(&mut client, "\r\n\r\n").await), [426]);
    let next = read_until(&mut server, "\r\n\r\n").await;
    assert!(next.starts_with("GET /admin HTTP/1.1\r\n") && next.contains("x-forwarded-for"));
    assert!(!next.contains("upgrade"), "{next}");
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(statuses(&read_until(&mut client, "ok").await), [200]);
    assert_eq!(pair.upstream.tunnel_stats().opened, 0);
    pair.active(0).await;
    pair.front.stop().await;
}

#[tokio::test]
async fn ambiguous_request_for_a_switch_is_sent_without_it() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: websocket, other\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: unknown\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let options = TunnelOptions::new().protocols(["websocket", "h2c", "other"]);
        let pair = pair(|b| b.tunnels(options)).await;
        let server = async {
            let mut server = pair.accept().await;
            let head = read_until(&mut server, "\r\n\r\n").await;
            assert!(!head.contains("upgrade"), "{head}");
            // It switches nevertheless.
            server.write_all(AGREE.as_bytes()).await.unwrap();
            assert_eq!(read_all(&mut server).await.trim_start_matches('x'), "");
        };
        let (answer, ()) = tokio::join!(exchange(pair.front.addr, request), server);
        assert_eq!(statuses(&answer), [502], "{request}");
        assert_eq!(pair.upstream.tunnel_stats().opened, 0);
    }
}

#[tokio::test]
async fn switch_to_another_protocol_than_asked_for_is_502() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
    ] {
        let pair = pair(|b| b).await;
        let mut client = ask(pair.front.addr).await;
        let mut server = pair.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(answer.as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(statuses(&head), [502], "{answer}");
        assert_eq!(read_all(&mut server).await, "", "it is closed");
    }
}

#[tokio::test]
async fn request_for_a_tunnel_is_not_sent_twice() {
    let pair = pair(|b| b.attempts(3)).await;
    let mut client = ask(pair.front.addr).await;
    let mut server = pair.accept().await;
    read_until(&mut server, "\r\n\r\n").await;
    drop(server); // it may have acted on the request
    let answer = async { statuses(&read_until(&mut client, "\r\n\r\n").await) };
    tokio::select! {
        _ = pair.accept() => panic!("it was sent again"),
        statuses = answer => assert_eq!(statuses, [502]),
    }
}

#[tokio::test]
async fn tunnel_holds_permits_and_counts_until_it_has_ended() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = PoolConfig::new().max_connections(1).max_queued(0);
    let addr = server.local_addr().unwrap().to_string();
    let upstream = Upstream::builder([addr]).pool(pool).build().unwrap();
    let limit = ConcurrencyLimitLayer::builder(1).queue(0).build();
    let service = ServiceBuilder::new().layer(limit.clone()).service(upstream.clone());
    let pair = Pair { server, front: start(service).await, upstream };
    for _ in 0..2 {
        let (client, server) = pair.tunnel().await;
        assert_eq!(limit.stats().in_flight, 1);
        assert_eq!((pair.status().in_flight, pair.status().pending), (1, 0));
        let mut refused = ask(pair.front.addr).await;
        assert_eq!(statuses(&read_until(&mut refused, "\r\n\r\n").await), [503]);
        drop(client);
        drop(server);
        within(async {
            while limit.stats().in_flight > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(pair.status().in_flight, 0);
        assert!(pair.status().last_errors.is_empty(), "its end is no failure");
    }
    pair.front.stop().await;
}

#[tokio::test]
async fn number_of_tunnels_is_bounded() {
    let pair = pair(|b| b.tunnels(TunnelOptions::new().max_tunnels(1))).await;
    let (client, server) = pair.tunnel().await;
    let mut second = ask(pair.front.addr).await;
    assert_eq!(statuses(&read_until(&mut second, "\r\n\r\n").await), [503]);
    assert_eq!(pair.upstream.tunnel_stats().refused, 1);
    drop((client, server));
    pair.active(0).await;
    pair.tunnel().await;
}

#[tokio::test]
async fn broken_tunnel_is_reset_on_its_other_side() {
    let pair = pair(|b| b).await;
    for client_breaks in [false, true] {
        let (client, server) = pair.tunnel().await;
        let (broken, mut other) = if client_breaks { (client, server) } else { (server, client) };
        reset(broken);
        let error = within(other.read_u8()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        pair.active(0).await;
    }
}

#[tokio::test]
async fn shutdown_closes_a_tunnel_in_order_after_its_time() {
    for is_cut in [false, true] {
        let options = TunnelOptions::new().drain_timeout(Duration::ZERO);
        let pair = pair(|b| b.tunnels(options)).await;
        let (mut client, mut server) = pair.tunnel().await;
        let (from_server, from_client) = (b"\x81\x02hi", b"\x81\x82abcd\x09\x0b");
        let sent = if is_cut { 3 } else { from_server.len() };
        server.write_all(&from_server[..sent]).await.unwrap();
        client.write_all(from_client).await.unwrap();
        within(client.read_exact(&mut [0; 4][..sent])).await.unwrap();
        within(server.read_exact(&mut [0; 8])).await.unwrap();
        let stop = tokio::spawn(pair.front.stop());
        // The end of the stream, not a reset, though bytes are on their way.
        client.write_all(b"late").await.unwrap();
        let mut rest = Vec::new();
        within(client.read_to_end(&mut rest)).await.unwrap();
        let close: &[u8] = if is_cut { b"" } else { b"\x88\x02\x03\xe9" };
        assert_eq!(rest, close, "no frame within a frame");
        let mut rest = Vec::new();
        within(server.read_to_end(&mut rest)).await.unwrap();
        // It may follow an incomplete frame that arrived late.
        if rest.starts_with(b"\x88") {
            let unmasked = [rest[6] ^ rest[2], rest[7] ^ rest[3]];
            assert_eq!((rest[1], rest.len(), u16::from_be_bytes(unmasked)), (0x82, 8, 1001));
        } else {
            assert_eq!(rest, b"late");
        }
        drop((client, server));
        stop.await.unwrap();
        assert_eq!(pair.upstream.tunnel_stats().active, 0);
    }
}
