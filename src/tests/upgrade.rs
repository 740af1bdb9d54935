//! Streams after 101 Switching Protocols, and after an extended CONNECT.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};
use tower::service_fn;

use super::support::within;
use crate::{
    Body, HttpService, Request, Response,
    conn::{Config, Connection, Transport, access_log::Entry, upgrade},
    net::{Drain, DrainWatch},
    peer::Peer,
};

const SWITCH: &[u8] =
    b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Echoes in upper case after a switch on `/echo`, to its end; `/no` does not switch.
fn echo() -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    service_fn(async |request: Request| {
        let response = match request.uri().path() {
            "/echo" => upgrade::switch("websocket", |mut stream| async move {
                let mut all = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut all).await {
                    let text = all[..n].to_ascii_uppercase();
                    if stream.write_all(&text).await.is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"end").await;
                let _ = stream.shutdown().await;
            }),
            "/panic" => upgrade::switch("websocket", |_| async { panic!("as it was asked to") }),
            _ => Response::new(Body::from("no switch")),
        };
        Ok::<_, Infallible>(response)
    })
}

fn serve(config: Config, watch: DrainWatch) -> (DuplexStream, JoinHandle<std::io::Result<()>>) {
    let (client, io) = tokio::io::duplex(64 << 10);
    let transport = Transport::new(io, Peer::memory(), watch);
    (client, tokio::spawn(Connection::new(transport, echo(), Arc::new(config))))
}

async fn read_head(client: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(client.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn s1_stream_after_101_begins_with_the_bytes_after_the_request() {
    let log: Arc<Mutex<Vec<Entry>>> = Arc::default();
    let entries = log.clone();
    let config = Config::new().access_log(move |entry| entries.lock().unwrap().push(entry.clone()));
    let (mut client, task) = serve(config, DrainWatch::never());
    client.write_all(&[SWITCH, b"GET /"].concat()).await.unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\nconnection: upgrade\r\n"), "{head}");
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    assert!(log.lock().unwrap().is_empty(), "it is not complete");
    client.write_all(b" admin").await.unwrap();
    // The end of the client's half is not that of the server's.
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    within(client.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "GET / ADMINend");
    within(task).await.unwrap().unwrap();
    let log = log.lock().unwrap();
    assert_eq!((log.len(), log[0].status.unwrap().as_u16()), (1, 101));
    assert_eq!((log[0].bytes, log[0].complete), (14, true));
}

#[tokio::test]
async fn request_without_upgrade_gets_no_switch() {
    for request in [
        "GET /echo HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "GET /echo HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let (mut client, _task) = serve(Config::new(), DrainWatch::never());
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 500 "), "{request}");
    }
    // A service that answers otherwise keeps the connection.
    let (mut client, _task) = serve(Config::new(), DrainWatch::never());
    let other = String::from_utf8_lossy(SWITCH).replace("/echo", "/no");
    for _ in 0..2 {
        client.write_all(other.as_bytes()).await.unwrap();
        assert!(read_head(&mut client).await.starts_with("HTTP/1.1 200 "));
        let mut body = [0; 9];
        within(client.read_exact(&mut body)).await.unwrap();
    }
}

#[tokio::test]
async fn drain_waits_for_a_tunnel_and_aborts_it_in_the_end() {
    for is_aborted in [false, true] {
        let drain = Drain::new();
        let (mut client, task) = serve(Config::new(), drain.watch());
        client.write_all(SWITCH).await.unwrap();
        read_head(&mut client).await;
        drain.begin();
        client.write_all(b"x").await.unwrap();
        assert_eq!(within(client.read_u8()).await.unwrap(), b'X', "it goes on");
        if is_aborted {
            drain.abort();
        } else {
            client.shutdown().await.unwrap();
        }
        within(drain.ended()).await;
        within(task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn panic_in_a_tunnel_ends_its_connection_alone() {
    let (mut client, task) = serve(Config::new(), DrainWatch::never());
    let panics = String::from_utf8_lossy(SWITCH).replace("/echo", "/panic");
    client.write_all(panics.as_bytes()).await.unwrap();
    read_head(&mut client).await;
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    within(task).await.unwrap().unwrap();
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn extended_connect_is_the_same_request_for_the_service() {
    use bytes::Bytes;
    use h2::ext::Protocol;

    let (client, _task) = serve(Config::new(), DrainWatch::never());
    let (client, connection) = h2::client::handshake(client).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    within(async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let connect = |path: &str, protocol: &'static str| {
        http::Request::connect(format!("http://a{path}"))
            .extension(Protocol::from_static(protocol))
            .body(())
            .unwrap()
    };
    let (response, mut send) = client.send_request(connect("/echo", "websocket"), false).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("upgrade"));
    let mut recv = response.into_body();
    send.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let mut all = Vec::new();
    while let Some(data) = within(recv.data()).await {
        all.extend_from_slice(&data.unwrap());
    }
    assert_eq!(all, b"HELLOend");
    let (response, _send) = client.send_request(connect("/echo", "connect-udp"), false).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 501);
    let (response, _send) = client.send_request(connect("/no", "websocket"), false).unwrap();
    assert_eq!(within(response).await.unwrap().status(), 502, "200 would begin a tunnel");
}
