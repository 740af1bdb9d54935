//! Connections that do not have a server yet.

use super::*;
use crate::upstream::QueueOptions;

/// A balancer without a server, whose connections wait for one, however long.
async fn waiting() -> Front {
    let queue = QueueOptions::new(8).timeout(Duration::MAX);
    start(TcpBalance::builder([""; 0]).empty(EmptySet::Wait).queue(queue)).await
}

/// Waits until so many connections are queued.
async fn queued(front: &Front, n: usize) {
    until(|| front.balance.balance().queue_stats().waiting == n).await;
}

#[tokio::test]
async fn abort_resets_a_connection_that_waits_for_a_server() {
    let front = waiting().await;
    let mut client = front.connect().await;
    queued(&front, 1).await;
    front.drain.begin();
    front.task.await.unwrap().unwrap();
    assert_eq!(front.drain.len(), 1, "it may still get a server");
    front.drain.abort();
    within(front.drain.ended()).await;
    assert!(is_reset(&mut client).await);
    assert_eq!(front.balance.balance().queue_stats().waiting, 0);
    assert_eq!((front.balance.stats().active, front.balance.stats().failed), (0, 0));
}

#[tokio::test]
async fn abort_ends_the_wait_for_a_proxy_header() {
    let senders = ProxyProtocol::new().trust("127.0.0.0/8".parse().unwrap());
    let front = start(TcpBalance::builder([refusing()]).read_proxy_protocol(senders)).await;
    let mut client = front.connect().await;
    until(|| front.balance.stats().active == 1).await;
    front.drain.abort();
    within(front.drain.ended()).await;
    assert!(is_reset(&mut client).await);
    assert_eq!(front.balance.stats().failed, 0);
}

#[tokio::test]
async fn client_that_resets_its_connection_leaves_the_queue() {
    let front = waiting().await;
    let client = front.connect().await;
    queued(&front, 1).await;
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    queued(&front, 0).await;
    until(|| front.balance.stats().active == 0).await;
    assert_eq!(front.balance.stats().failed, 0);
    front.stop().await;
}

#[tokio::test]
async fn client_that_closes_its_connection_without_a_byte_leaves_the_queue() {
    let front = waiting().await;
    let client = front.connect().await;
    queued(&front, 1).await;
    drop(client);
    queued(&front, 0).await;
    until(|| front.balance.stats().active == 0).await;
    assert_eq!(front.balance.stats().failed, 0);
    front.stop().await;
}

#[tokio::test]
async fn client_that_ends_its_sending_half_after_a_byte_still_gets_a_server() {
    let front = waiting().await;
    let mut client = front.connect().await;
    client.write_all(b"QUIT\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    queued(&front, 1).await;
    let (listener, addr) = server().await;
    front.balance.follow(fixed([addr.parse::<Target>().unwrap()])).await;
    let (mut server, _) = within(listener.accept()).await.unwrap();
    assert_eq!(read_all(&mut server).await, b"QUIT\r\n");
    server.write_all(b"+OK").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await, b"+OK");
    front.stop().await;
}

#[tokio::test]
async fn client_that_ends_its_sending_half_at_once_reads_what_a_free_server_sends() {
    let (listener, addr) = server().await;
    let front = start(TcpBalance::builder([addr])).await;
    let mut client = front.connect().await;
    client.shutdown().await.unwrap();
    let (mut server, _) = within(listener.accept()).await.unwrap();
    server.write_all(b"220 ready").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await, b"220 ready");
    front.stop().await;
}

#[tokio::test]
async fn client_that_ends_its_sending_half_keeps_the_server_that_is_being_connected_to() {
    let (servers, _sockets) = hanging();
    let balance = TcpBalance::builder(&servers[..1]).build().unwrap();
    let (client, mut remote) = pair().await;
    remote.shutdown().await.unwrap();
    pause();
    let result = balance.forward(client, &Peer::memory(), b"", DrainWatch::never()).await;
    assert!(matches!(result, Err(TcpError::NoServer(_))), "{result:?}");
}

/// Returns the addresses of 200 servers that do not answer: one listener whose queue is full, and what fills it.
fn hanging() -> (Vec<String>, [socket2::Socket; 2]) {
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let (listener, first) = (socket().unwrap(), socket().unwrap());
    listener.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    first.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    ((1..=200).map(|n| format!("127.0.0.{n}:{port}")).collect(), [listener, first])
}

#[tokio::test]
async fn connection_is_reset_at_its_total_connect_timeout() {
    let (servers, _sockets) = hanging();
    let balance = TcpBalance::builder(servers).build().unwrap();
    let (client, mut remote) = pair().await;
    pause();
    let began = tokio::time::Instant::now();
    let result = balance.forward(client, &Peer::memory(), b"", DrainWatch::never()).await;
    assert!(matches!(result, Err(TcpError::NoServer(_))), "{result:?}");
    assert_eq!(began.elapsed().as_secs(), TCP_TOTAL_CONNECT_TIMEOUT.as_secs());
    assert!(is_reset(&mut remote).await);
    let endpoints = balance.balance().endpoints();
    let tried = endpoints.iter().filter(|e| e.handle().last_error().is_some()).count();
    assert_eq!((endpoints.len(), tried), (200, 6), "each takes 5 s");
}

#[tokio::test]
async fn connection_leaves_the_queue_at_its_total_connect_timeout() {
    let queue = QueueOptions::new(8).timeout(Duration::MAX);
    let builder = TcpBalance::builder([""; 0]).empty(EmptySet::Wait).queue(queue);
    let balance = builder.total_connect_timeout(7 * SEC).build().unwrap();
    let (client, _remote) = pair().await;
    pause();
    let began = tokio::time::Instant::now();
    let result = balance.forward(client, &Peer::memory(), b"", DrainWatch::never()).await;
    assert!(matches!(result, Err(TcpError::NoServer(_))), "{result:?}");
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(balance.balance().queue_stats().timed_out, 1);
}

#[tokio::test]
async fn server_that_does_not_read_the_first_bytes_is_given_up_at_the_idle_timeout() {
    let (listener, addr) = server().await;
    let balance = TcpBalance::builder([addr]).idle_timeout(10 * SEC).build().unwrap();
    let (client, _remote) = pair().await;
    let first = vec![b'x'; 16 << 20]; // more than all buffers between them hold
    let forward = async {
        balance.forward(client, &Peer::memory(), &first, DrainWatch::never()).await.unwrap()
    };
    let accept = async {
        let accepted = listener.accept().await.unwrap();
        pause(); // the clock advances when all wait
        accepted
    };
    let forwarded = async { tokio::join!(forward, accept) };
    let (Transferred { sent, end, .. }, _server) =
        tokio::time::timeout(3_600 * SEC, forwarded).await.expect("it has a bound");
    assert!(matches!(end, End::Idle), "{end:?}");
    assert!((1..16 << 20).contains(&sent), "{sent}");
}
