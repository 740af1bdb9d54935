//! Stopped readers of TLS, which accepts up to 64 KiB more than the socket does.

use std::{io::ErrorKind, net::SocketAddr};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::{
    conn::{Config, Connection, Transport},
    net::{DrainWatch, Io, Stream},
    peer::Peer,
    proto::h2::PREFACE,
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

/// Serves `body` on `far` to a client over TLS on `near`. Returns the client and the server's connection.
async fn serve_on<I, F>(
    protocol: &str,
    (near, far): (I, F),
    body: impl Fn() -> Body + Send + 'static,
) -> (TlsStream<I>, JoinHandle<std::io::Result<()>>)
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Io + 'static,
{
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let body = Arc::new(Mutex::new(body));
    let app = service_fn(move |_: Request| {
        let body = body.lock().unwrap()();
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let config = Config::new()
        .tls(Server::pem_files(chain, key).unwrap())
        .write_timeout(WRITE_TIMEOUT)
        .write_rate(MinRate::NONE);
    let transport = Transport::new(far, Peer::memory(), DrainWatch::never());
    let server = tokio::spawn(Connection::new(transport, app, Arc::new(config)));
    (secure(&ca, protocol, near).await, server)
}

/// Serves `body` to a client over TLS. Returns the client, which has read the head of the response, and the server's
/// connection.
async fn serve(
    protocol: &str,
    body: impl Fn() -> Body + Send + 'static,
) -> (Box<dyn Any>, JoinHandle<std::io::Result<()>>) {
    let (near, far) = connect().await;
    let (client, server) = serve_on(protocol, (near, Stream::from(far)), body).await;
    (request(protocol, client).await, server)
}

#[tokio::test(start_paused = true)]
async fn stopped_client_is_not_kept_by_events_that_tls_accepts() {
    resume(); // until the client stops: sockets take real time
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
        // The sockets take less than 30 events. TLS would take 60 more.
        let ended = timeout(30 * 10 * SECOND + 2 * WRITE_TIMEOUT, server).await;
        let error = ended.expect("the client is kept").unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{protocol}");
        resume();
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_a_tls_stream_slowly_is_kept_until_it_stops() {
    let h2 = [
        PREFACE,
        b"\0\0\x06\x04\0\0\0\0\0\0\x04\x01\0\0\0", // SETTINGS_INITIAL_WINDOW_SIZE of 16 MiB
        b"\0\0\x04\x08\0\0\0\0\0\x01\0\0\0",       // the same for the connection
        b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01a", // GET https://a/
    ];
    for (protocol, get) in [("http/1.1", GET.to_vec()), ("h2", h2.concat())] {
        let (near, far) = tokio::io::duplex(8 << 10);
        let body = || Body::from(vec![b'x'; 1 << 20]);
        let (mut client, server) = serve_on(protocol, (near, far), body).await;
        client.write_all(&get).await.unwrap();
        client.flush().await.unwrap();
        let mut raw = client.into_inner().0;
        for second in (0..20 * WRITE_TIMEOUT.as_secs()).step_by(10) {
            raw.read_exact(&mut [0; 1000]).await.unwrap();
            sleep(10 * SECOND).await;
            assert!(!server.is_finished(), "{protocol}: after {second} s");
        }
        let ended = timeout(2 * WRITE_TIMEOUT, server).await;
        let error = ended.expect("the client is kept").unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{protocol}");
    }
}
