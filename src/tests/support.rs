//! Helpers: a server on a free port, and clients that send bytes.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tower_service::Service;

use crate::{
    Body, BoxError,
    net::Address,
    serve::{Serve, serve},
};

/// The timeout of tests that hang. No test waits for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// A running server, which ends at once when it is dropped.
pub(super) struct Running {
    pub(super) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Begins a graceful shutdown and waits for its end.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        within(self.task).await.unwrap().unwrap();
    }
}

/// Returns an address that refuses connections. The port of a listener that was closed would not do: another test may get
/// it at once.
pub(super) fn refusing() -> SocketAddr {
    ([127, 76, 0, 1], 1).into() // of no other test, and no service: IANA has assigned the port to TCPMUX (RFC 1078)
}

/// Serves on a free port, with default options.
pub(super) async fn start<S, B>(service: S) -> Running
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    start_with(service, |s| s).await
}

/// Serves on a free port, with options.
pub(super) async fn start_with<S, B>(
    service: S,
    options: impl FnOnce(Serve<S>) -> Serve<S>,
) -> Running
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (stop, stopped) = oneshot::channel();
    let signal = async {
        if stopped.await.is_err() {
            std::future::pending::<()>().await; // the test has ended, and the runtime drops this task
        }
    };
    let server = options(serve("127.0.0.1:0", service)).shutdown(signal).bind().unwrap();
    let Address::Tcp(addr) = server.local_addr().unwrap() else { panic!("not TCP") };
    let task = tokio::spawn(server.into_future());
    Running { addr: addr.parse().unwrap(), stop, task }
}

/// Awaits a future. Panics after [`TIMEOUT`].
pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TIMEOUT, future).await.expect("it hangs")
}

/// Sends bytes on a connection and reads until the server closes it.
pub(super) async fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(bytes.as_ref()).await.unwrap();
    read_all(&mut client).await
}

/// Reads until the server closes or resets the connection.
pub(super) async fn read_all(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = within(client.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the text ends in `end`.
pub(super) async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    within(async {
        while !answer.ends_with(end.as_bytes()) {
            let byte = client
                .read_u8()
                .await
                .unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&answer)));
            answer.push(byte);
        }
    })
    .await;
    String::from_utf8(answer).unwrap()
}

/// Closes the connection with a reset, so that the server sees that the client has disconnected.
pub(super) fn reset(client: TcpStream) {
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
}

/// Returns the statuses of all responses in `text`.
pub(super) fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ")
        .map(|(at, m)| text[at + m.len()..][..3].parse().unwrap())
        .collect()
}
