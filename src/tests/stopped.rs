//! Clients that stop reading in the middle of a response, and never read again: each is ended by the write timeout, and
//! what its response held is released.

mod secured;

use std::{
    any::Any,
    convert::Infallible,
    fs::File,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
    sync::oneshot,
    time::{Instant, pause, resume, sleep},
};
use tower::service_fn;

use super::support::{start_with, within};
use crate::{
    Body, Budget, Request, Response,
    body::FileSlice,
    net::tls::{
        Server,
        testing::{Authority, name},
    },
    peer::MinRate,
};

const SECOND: Duration = Duration::from_secs(1);
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The length of a response, 16 MiB: more than the kernel buffers.
const LEN: usize = 16 << 20;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// A value that a response holds. Its drop is an event.
struct Guard(#[expect(dead_code, reason = "dropped with the guard")] oneshot::Sender<()>);

/// A piece of memory that holds a guard.
struct Page(Vec<u8>, #[expect(dead_code, reason = "dropped with the page")] Guard);

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Returns a response's body of one kind, which holds `guard`.
fn body(kind: &str, guard: Guard) -> Body {
    match kind {
        "file" => {
            let file = tempfile::tempfile().unwrap();
            file.set_len(LEN as u64).unwrap();
            Body::file(FileSlice::new(Arc::<File>::new(file), 0, LEN as u64).with_guard(guard))
        }
        "pieces" => {
            let (sender, body) = Body::channel(None);
            tokio::spawn(async move {
                let _guard = guard;
                while sender.ready().await.is_ok() {
                    let _ = sender.send(Bytes::from_static(&[b'x'; 16 << 10]));
                }
            });
            body
        }
        _ => Bytes::from_owner(Page(vec![b'x'; LEN], guard)).into(),
    }
}

/// Connects with TLS, for this application protocol.
async fn secure<I>(ca: &Authority, protocol: &str, io: I) -> tokio_rustls::client::TlsStream<I>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    within(ca.client(&[protocol]).connect(name("a.example"), io)).await.unwrap()
}

/// Sends a request, reads the head of its response, and then nothing. Returns the open connection.
async fn request<I>(protocol: &str, mut io: I) -> Box<dyn Any>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if protocol == "h2" {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
        let (mut client, mut connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
        let request = http::Request::get("https://a.example/").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let response = tokio::select! {
            response = within(response) => response.unwrap(),
            ended = &mut connection => panic!("{ended:?}"),
        };
        return Box::new((client, connection, response));
    }
    io.write_all(GET).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(io.read_u8()).await.unwrap());
    }
    Box::new(io)
}

/// Has a client stop in a response of this kind, while another client is served.
async fn stop(protocol: &str, is_secured: bool, kind: &'static str) {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let (dropped, mut is_dropped) = oneshot::channel();
    let guard = Arc::new(Mutex::new(Some(Guard(dropped))));
    let app = service_fn(move |_: Request| {
        let guard = guard.lock().unwrap().take();
        let body = guard.map_or_else(|| Body::from("hello"), |guard| body(kind, guard));
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let budget = Budget::default();
    let server = start_with(app, |s| {
        let s = s.write_timeout(WRITE_TIMEOUT).budget(budget.clone());
        let s = s.write_rate(MinRate::NONE);
        if is_secured { s.tls(Server::pem_files(chain, key).unwrap()) } else { s }
    })
    .await;
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.connect(server.addr).await.unwrap()
    };
    let stopped = if is_secured {
        request(protocol, secure(&ca, protocol, connect().await).await).await
    } else {
        request(protocol, connect().await).await
    };
    let mut other: Box<dyn Connected> = if is_secured {
        Box::new(secure(&ca, "http/1.1", connect().await).await)
    } else {
        Box::new(connect().await)
    };

    pause();
    let began = Instant::now();
    loop {
        tokio::select! {
            _ = &mut is_dropped => break,
            () = sleep(10 * SECOND) => {
                assert!(began.elapsed() < WRITE_TIMEOUT * 3, "{kind} over {protocol} is kept");
                // Sockets take real time, for which the paused clock does not wait.
                resume();
                within(exchange(&mut *other)).await;
                pause();
            }
        }
    }
    // The client stopped before the clock did. The clock does not wait for the kernel, whose last progress, such as an
    // acknowledgement, may be seen late.
    let took = began.elapsed();
    let case = format!("{kind} over {protocol}, {is_secured}: {took:?}");
    assert!(WRITE_TIMEOUT * 3 / 4 < took && took < WRITE_TIMEOUT * 3, "{case}");
    assert_eq!(budget.usage().memory, 0, "{case}");
    drop(other);
    let ends = Instant::now();
    server.stop().await; // waits for all connections
    assert!(ends.elapsed() < SECOND, "{case}");
    drop(stopped);
    resume();
}

/// Sends a request, and reads the response of 5 bytes.
async fn exchange(io: &mut dyn Connected) {
    io.write_all(GET).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        answer.push(io.read_u8().await.unwrap());
    }
}

trait Connected: AsyncRead + AsyncWrite + Unpin {}

impl<I: AsyncRead + AsyncWrite + Unpin> Connected for I {}

#[tokio::test(start_paused = true)]
async fn client_that_stops_reading_is_ended_by_the_write_timeout() {
    resume(); // until the client stops: sockets take real time
    for kind in ["file", "pieces", "page"] {
        for is_secured in [false, true] {
            for protocol in ["http/1.1", "h2"] {
                stop(protocol, is_secured, kind).await;
            }
        }
    }
}
