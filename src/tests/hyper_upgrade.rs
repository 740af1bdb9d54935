//! An unchanged axum application with WebSockets.

use axum::{
    Extension, Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::get,
};
use futures_util::SinkExt;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error, Message as ClientMessage},
};
use tower::Layer;

use super::support::{exchange, start, statuses, within};
use crate::{
    Request, Response,
    layer::HyperUpgradeLayer,
    peer::Peer,
    upstream::{TunnelOptions, Upstream},
};

/// Sends the address of the client, and then echoes.
fn app() -> Router {
    let chat = async |Extension(peer): Extension<Peer>, upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(move |mut socket: WebSocket| async move {
            let ip = peer.ip().unwrap().to_string();
            let _ = socket.send(Message::text(ip)).await;
            while let Some(Ok(message)) = socket.recv().await {
                if matches!(message, Message::Close(_)) || socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    Router::new().route("/chat", get(chat)).route("/", get(async || "plain"))
}

#[tokio::test]
async fn axum_application_serves_websockets_unchanged() {
    let service = HyperUpgradeLayer::new().layer(app());
    let front = start(service.clone()).await;
    let http1 = start(Upstream::new([front.addr.to_string()]).unwrap()).await;
    let http2 = start(Upstream::new([format!("h2://{}", front.addr)]).unwrap()).await;
    for addr in [front.addr, http1.addr, http2.addr] {
        let stream = TcpStream::connect(addr).await.unwrap();
        let uri = format!("ws://{addr}/chat");
        let (mut socket, _) = within(client_async(uri, stream)).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), ClientMessage::text("127.0.0.1"));
        for message in [ClientMessage::text("hello"), ClientMessage::binary(vec![7; 1 << 20])] {
            within(socket.send(message.clone())).await.unwrap();
            assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
        }
        assert_eq!(service.tunnel_stats().active, 1);
        within(socket.close(None)).await.unwrap();
        while let Some(Ok(_)) = within(socket.next()).await {}
        drop(socket);
        within(async {
            while service.tunnel_stats().active > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(exchange(front.addr, request).await.ends_with("plain"));
    for server in [http2, http1, front] {
        server.stop().await;
    }
}

#[tokio::test]
async fn shutdown_closes_websockets_of_an_axum_application_in_order() {
    let options = TunnelOptions::new().drain_timeout(std::time::Duration::ZERO);
    let front = start(HyperUpgradeLayer::new().tunnels(options).layer(app())).await;
    let stream = TcpStream::connect(front.addr).await.unwrap();
    let uri = format!("ws://{}/chat", front.addr);
    let (mut socket, _) = within(client_async(uri, stream)).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), ClientMessage::text("127.0.0.1"));
    let hello = ClientMessage::text("hello");
    within(socket.send(hello.clone())).await.unwrap();
    assert_eq!(within(socket.next()).await.unwrap().unwrap(), hello);
    let stop = tokio::spawn(front.stop());
    let closed = within(socket.next()).await.unwrap().unwrap();
    let ClientMessage::Close(Some(frame)) = closed else { panic!("{closed}") };
    assert_eq!(u16::from(frame.code), 1001);
    assert!(within(socket.next()).await.is_none_or(|end| end.is_err()), "the end of the stream");
    drop(socket);
    within(stop).await.unwrap();
}

#[tokio::test]
async fn response_without_a_switch_is_returned_unchanged() {
    let front = start(HyperUpgradeLayer::new().layer(app())).await;
    let stream = TcpStream::connect(front.addr).await.unwrap();
    let uri = format!("ws://{}/", front.addr);
    let refused = within(client_async(uri, stream)).await.unwrap_err();
    let Error::Http(response) = refused else { panic!("{refused}") };
    assert_eq!(response.status(), 200);
    // The handshake of another version: axum's own answer.
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: x\r\n\r\n";
    assert_eq!(statuses(&exchange(front.addr, request).await), [400]);
    // A service that panics.
    let panics =
        tower::service_fn(async |_: Request| -> Result<Response, std::convert::Infallible> {
            panic!("as it was asked to")
        });
    let front = start(HyperUpgradeLayer::new().layer(panics)).await;
    let answer = exchange(front.addr, request).await;
    assert_eq!(statuses(&answer), [500], "{answer}");
}
