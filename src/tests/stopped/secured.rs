//! Stopped readers of TLS, which accepts up to 64 KiB more than the socket does.

use std::{io::ErrorKind, net::SocketAddr};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    conn::{Config, Connection, Transport},
    net::{DrainWatch, Stream},
    peer::Peer,
};

/// Connects by sockets with small buffers, and segments of 1,448 bytes as on Ethernet. Returns the client's end and the
/// server's.
async fn connect() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr: SocketAddr = listener.local_addr().unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_tcp_mss(1448).unwrap();
    client.set_recv_buffer_size(4 << 10).unwrap();
    client.connect(&addr.into()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (server, _) = listener.accept().await.unwrap();
    SockRef::from(&server).set_send_buffer_size(8 << 10).unwrap();
    (TcpStream::from_std(client.into()).unwrap(), server)
}

/// Serves `body` to a client over TLS. Returns the client, which has read the head of the response, and the server's
/// connection.
async fn serve(
    protocol: &str,
    body: impl Fn() -> Body + Send + 'static,
) -> (Box<dyn Any>, JoinHandle<std::io::Result<()>>) {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let (near, far) = connect().await;
    let body = Arc::new(Mutex::new(body));
    let app = service_fn(move |_: Request| {
        let body = body.lock().unwrap()();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let config = Config::new()
        .tls(Server::pem_files(chain, key).unwrap())
        .write_timeout(WRITE_TIMEOUT)
        .write_rate(MinRate::NONE);
    let transport = Transport::new(Stream::from(far), Peer::memory(), DrainWatch::never());
    let server = tokio::spawn(Connection::new(transport, app, Arc::new(config)));
    let client = secure(&ca, protocol, near).await;
    (request(protocol, client).await, server)
}

#[tokio::test]
async fn stopped_client_is_not_kept_by_events_that_tls_accepts() {
    for protocol in ["http/1.1", "h2"] {
        let events = || {
            let (sender, body) = Body::channel(None);
            tokio::spawn(async move {
                while sender.send(Bytes::from_static(&[b'x'; 1 << 10])).is_ok() {
                    sleep(10 * SECOND).await;
                }
            });
            body
        };
        let (_client, server) = serve(protocol, events).await;
        pause();
        let began = Instant::now();
        let error = server.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{protocol}");
        // The sockets take less than 30 events. TLS would take 60 more.
        let took = began.elapsed();
        assert!(took < 30 * 10 * SECOND + 2 * WRITE_TIMEOUT, "{protocol}: {took:?}");
        resume();
    }
}
