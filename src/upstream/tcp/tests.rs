//! Tests of connections through the balancer, over loopback.

mod opening;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{advance, pause, resume},
};

use super::*;
use crate::{
    net::{Address, Drain, Listener},
    policy::{
        health::HealthOptions,
        pick::{Candidates, Pick},
    },
    upstream::{
        EmptySet, EndpointLimits,
        check::{CheckOptions, connects},
        discover::{Target, fixed},
        tests::within,
    },
};

const SEC: Duration = Duration::from_secs(1);

/// A running balancer, and the end of its accept loop.
struct Front {
    addr: SocketAddr,
    balance: TcpBalance,
    drain: Drain,
    task: JoinHandle<io::Result<()>>,
}

async fn start(builder: TcpBalanceBuilder) -> Front {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
    let Address::Tcp(addr) = listener.local_addr().unwrap() else { panic!("it is TCP") };
    let (balance, drain) = (builder.build().unwrap(), Drain::new());
    let (serving, watched) = (balance.clone(), drain.clone());
    let task = tokio::spawn(async move { serving.serve(listener, &watched).await });
    Front { addr: addr.parse().unwrap(), balance, drain, task }
}

impl Front {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    async fn stop(self) {
        self.drain.begin();
        self.drain.ended().await;
        self.task.await.unwrap().unwrap();
    }
}

async fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

/// Returns an address of its own that refuses connections. The port of a listener that was closed would not do: another
/// test may get it at once.
fn refusing() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    // No service: IANA has assigned the port to TCPMUX (RFC 1078).
    format!("127.76.1.{}:1", COUNT.fetch_add(1, Relaxed))
}

async fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    all
}

/// A connection, and its other end.
async fn pair() -> (Stream, TcpStream) {
    let (listener, addr) = server().await;
    let client = TcpStream::connect(addr).await.unwrap();
    (client.into(), listener.accept().await.unwrap().0)
}

/// Waits until a condition holds.
async fn until(mut is_met: impl FnMut() -> bool) {
    let met = async {
        while !is_met() {
            tokio::task::yield_now().await;
        }
    };
    within(met).await;
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let result = stream.read(&mut [0; 16]).await;
    matches!(result, Err(e) if e.kind() == io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn connection_forwards_bytes_and_the_end_of_each_direction() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr])).await;
    let mut client = front.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    // More bytes than all buffers between them hold.
    let up: Vec<u8> =
        (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let down: Vec<u8> = up.iter().rev().copied().collect();
    let (mut client_read, mut client_write) = client.split();
    let (mut server_read, mut server_write) = server.split();
    let sending = async {
        client_write.write_all(&up).await.unwrap();
        client_write.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let receiving = async {
        server_read.read_to_end(&mut received).await.unwrap();
        // The client has ended its sending half, and still reads.
        server_write.write_all(&down).await.unwrap();
        server_write.shutdown().await.unwrap();
    };
    let mut answered = Vec::new();
    let reading = client_read.read_to_end(&mut answered);
    let ((), (), read) = tokio::join!(sending, receiving, reading);
    read.unwrap();
    assert!(received == up && answered == down);
    let balance = front.balance.clone();
    front.stop().await;
    let stats = balance.stats();
    assert_eq!((stats.sent, stats.received), (3_000_000, 3_000_000));
    assert_eq!((stats.accepted, stats.active, stats.failed), (1, 0, 0));
    assert_eq!(balance.balance().endpoints()[0].handle().in_flight(), 0);
}

#[tokio::test]
async fn connection_goes_to_another_server_if_one_refuses() {
    let (listener, addr) = server().await;
    let dead = refusing();
    let front = start(TcpBalance::builder([dead, addr])).await;
    for _ in 0..3 {
        let mut client = front.connect().await;
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"hello").await.unwrap();
        drop(server);
        assert_eq!(read_all(&mut client).await, b"hello");
    }
    assert!(!front.balance.balance().endpoints()[0].handle().is_available(), "it is ejected");
    front.stop().await;
}

#[tokio::test]
async fn connection_without_a_server_is_reset() {
    let front = start(TcpBalance::builder([refusing(), refusing()])).await;
    let mut client = front.connect().await;
    assert!(is_reset(&mut client).await);
    assert_eq!(front.balance.stats().failed, 1);
    front.stop().await;
}

#[tokio::test]
async fn connection_that_breaks_on_one_side_is_reset_on_the_other() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr])).await;
    let mut client = front.connect().await;
    let (server, _) = listener.accept().await.unwrap();
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    drop(server);
    assert!(is_reset(&mut client).await);
    let client = front.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    assert!(is_reset(&mut server).await);
    front.stop().await;
}

#[tokio::test]
async fn connection_without_traffic_is_closed_at_its_idle_timeout() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr]).idle_timeout(60 * SEC)).await;
    let mut client = front.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    pause();
    for _ in 0..3 {
        advance(59 * SEC).await;
        resume();
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x', "it moves, so it is not idle");
        pause();
    }
    advance(61 * SEC).await;
    resume();
    assert!(is_reset(&mut client).await);
    front.stop().await;
}

#[tokio::test]
async fn connection_ends_at_its_total_timeout_despite_traffic() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr]).total_timeout(60 * SEC)).await;
    let mut client = front.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    pause();
    advance(61 * SEC).await;
    resume();
    assert!(is_reset(&mut client).await);
    front.stop().await;
}

#[tokio::test]
async fn connection_above_the_bound_is_closed_at_once() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr]).max_connections(1)).await;
    let first = front.connect().await;
    let (server, _) = listener.accept().await.unwrap();
    let mut second = front.connect().await;
    assert!(is_reset(&mut second).await);
    assert_eq!((front.balance.stats().active, front.balance.stats().refused), (1, 1));
    drop((first, server));
    front.stop().await;
}

#[tokio::test]
async fn drain_waits_for_connections_and_abort_resets_them() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr])).await;
    let mut client = front.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    front.drain.begin();
    front.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(front.addr).await.is_err(), "the listener is closed");
    client.write_all(b"x").await.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
    assert_eq!(front.drain.len(), 1);
    front.drain.abort();
    front.drain.ended().await;
    assert!(is_reset(&mut client).await && is_reset(&mut server).await);
}

#[tokio::test]
async fn server_gets_the_address_of_the_client_by_the_proxy_protocol() {
    for version in [proxy::Version::V1, proxy::Version::V2] {
        let (listener, addr) = server().await;
        let front = start(TcpBalance::builder([addr]).proxy_protocol(version)).await;
        let mut client = front.connect().await;
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut all = BytesMut::from(&read_all(&mut server).await[..]);
        let header = proxy::parse(&mut all).unwrap().unwrap();
        let told = header.addresses.unwrap();
        assert_eq!((header.version, &all[..]), (version, &b"hello"[..]));
        assert_eq!((told.client, told.destination), (client.local_addr().unwrap(), front.addr));
        drop(server);
        drop(client);
        front.stop().await;
    }
}

#[tokio::test]
async fn bytes_that_were_read_ahead_are_sent_first() {
    let (listener, addr) = server().await;
    let balance = TcpBalance::builder([addr]).build().unwrap();
    let (client, mut remote) = pair().await;
    remote.write_all(b" and more").await.unwrap();
    remote.shutdown().await.unwrap();
    let peer = Peer::memory();
    let forward = balance.forward(client, &peer, b"first", DrainWatch::never());
    let serve = async {
        let (mut server, _) = listener.accept().await.unwrap();
        read_all(&mut server).await
    };
    let (forwarded, all) = tokio::join!(forward, serve);
    let Transferred { sent, received, end } = forwarded.unwrap();
    assert_eq!((&all[..], sent, received), (&b"first and more"[..], 14, 0));
    assert!(matches!(end, End::Complete), "{end:?}");
}

/// Picks the second endpoint, whatever its health.
struct Second;

impl Pick for Second {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        (candidates.len() > 1).then_some(1)
    }
}

#[tokio::test]
async fn policy_decides_where_a_connection_goes() {
    let ((_first, a), (second, b)) = (server().await, server().await);
    let front = start(TcpBalance::builder([a, b]).policy(Second)).await;
    let client = front.connect().await;
    let (server, _) = second.accept().await.unwrap();
    assert_eq!(front.balance.balance().endpoints()[1].handle().in_flight(), 1);
    drop((client, server));
    front.stop().await;
}

#[test]
fn builder_returns_error_with_the_invalid_address() {
    let error = TcpBalance::builder(["a:1", "no port"]).build().unwrap_err();
    assert!(error.to_string().contains("no port"), "{error}");
    assert!(TcpBalance::builder([""; 0]).build().is_err());
    assert!(TcpBalance::builder(["a:1", "a:1"]).build().is_err());
}

#[tokio::test]
async fn servers_of_a_source_are_checked_and_limited() {
    let ((listener, addr), dead) = (server().await, refusing());
    let builder = TcpBalance::builder([""; 0])
        .empty(EmptySet::Fail)
        .health(HealthOptions::new().fall(1))
        .server_limits(EndpointLimits::new().in_flight(1));
    let front = start(builder).await;
    let mut early = front.connect().await;
    assert!(is_reset(&mut early).await, "there is no server yet");

    let targets = [&dead, &addr].map(|server| server.parse::<Target>().unwrap());
    front.balance.follow(fixed(targets)).await; // it ends with the source
    let balance = front.balance.balance();
    let checks = tokio::spawn(balance.check(connects, CheckOptions::new()));
    until(|| !balance.endpoint(&dead).unwrap().is_available()).await;
    let error = balance.endpoint(&dead).unwrap().last_error().unwrap();
    assert!(error.starts_with(&format!("check: cannot connect to {dead}: ")), "{error}");
    drop(listener.accept().await.unwrap()); // that of the check

    let client = front.connect().await;
    let (server, _) = listener.accept().await.unwrap();
    let mut above = front.connect().await;
    assert!(is_reset(&mut above).await, "the server has one connection");
    drop((client, server));
    checks.abort();
    front.stop().await;
}
