use std::convert::Infallible;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::{Instant, sleep},
};
use tower::service_fn;

use super::*;
use crate::{
    Body, Request, Response,
    conn::{Connection, Transport},
    net::{Address, Listener},
    peer::Peer,
};

/// The server's limit of connections.
const FULL: usize = 500;

/// A server with a connection limit, whose application answers `/` and no other path.
struct Full {
    admission: Admission,
    shedding: Shedding,
    config: Arc<Config>,
}

impl Full {
    fn new() -> Self {
        let config: Arc<Config> = Arc::default();
        let admission = Admission::new(1, FULL, config.clone());
        Self { admission, shedding: Shedding::default(), config }
    }

    /// Admits a client that has sent a request for `path`.
    async fn connect(&mut self, path: &str) -> DuplexStream {
        self.admission.acquire_permit(&mut self.shedding).await;
        let app = service_fn(|request: Request| async move {
            if request.uri().path() != "/" {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Body::from("hi")))
        });
        let (mut client, io) = tokio::io::duplex(1 << 10);
        let transport = Transport::new(io, Peer::memory(), self.admission.drain(0).watch());
        tokio::spawn(Connection::new(transport, app, self.config.clone()));
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        if path == "/" {
            let mut answer = [0; 1 << 10];
            assert!(client.read(&mut answer).await.unwrap() > 0);
        }
        client
    }
}

/// Returns how many of the clients the server has closed.
async fn closed(clients: &mut [DuplexStream]) -> usize {
    let mut closed = 0;
    for client in clients {
        let read = tokio::time::timeout(Duration::ZERO, client.read_u8()).await;
        closed += usize::from(read.is_ok_and(|byte| byte.is_err()));
    }
    closed
}

#[tokio::test(start_paused = true)]
async fn full_server_sheds_idle_connections_in_batches() {
    const NEW: usize = 200;
    let mut server = Full::new();
    let mut idle = Vec::new();
    for _ in 0..FULL {
        idle.push(server.connect("/").await);
    }
    sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let mut new = Vec::new();
    for _ in 0..NEW {
        new.push(server.connect("/").await);
    }
    let waited = began.elapsed();
    assert!(waited <= 3 * SHED_PAUSE, "virtual time: {waited:?}");
    assert_eq!(closed(&mut new).await, 0);
    let shed = closed(&mut idle).await;
    assert!(
        (NEW..=NEW + SHED_BATCH).contains(&shed),
        "{shed}: one for each new client, and less than a batch more"
    );
}

#[tokio::test(start_paused = true)]
async fn full_server_closes_the_few_idle_connections_and_no_active_one() {
    const IDLE: usize = 8;
    let mut server = Full::new();
    let (mut active, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..FULL - IDLE {
        active.push(server.connect("/never").await);
    }
    for _ in 0..IDLE {
        idle.push(server.connect("/").await);
    }
    sleep(Duration::from_secs(1)).await;
    for path in ["/never"; IDLE] {
        let began = Instant::now();
        active.push(server.connect(path).await);
        let waited = began.elapsed();
        assert!(waited <= 4 * SHED_PAUSE, "virtual time: {waited:?}");
    }
    assert_eq!((closed(&mut idle).await, closed(&mut active).await), (IDLE, 0));
    let wait = tokio::time::timeout(Duration::from_secs(10), server.connect("/"));
    assert!(wait.await.is_err(), "no connection is idle");
    assert_eq!(closed(&mut active).await, 0);
}

#[tokio::test]
async fn connection_that_waits_for_a_permit_is_kept_when_its_future_is_dropped() {
    let address = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&address, false).unwrap();
    let Address::Tcp(address) = listener.local_addr().unwrap() else { panic!("not TCP") };
    let mut acceptor = Acceptor::new(listener).unwrap();
    let admission = Admission::new(1, 1, Arc::default());
    assert!(admission.try_acquire_permit());
    let _client = TcpStream::connect(&*address).await.unwrap();
    let (mut shedding, mut waiting) = (Shedding::default(), None);
    while waiting.is_none() {
        let next = admission.next(&mut acceptor, &mut shedding, &mut waiting);
        assert!(tokio::time::timeout(Duration::ZERO, next).await.is_err(), "there is no permit");
    }
    let watch = admission.drain(0).watch();
    drop(watch); // returns the permit
    admission.next(&mut acceptor, &mut shedding, &mut waiting).await;
    assert!(waiting.is_none());
}
