//! Connections to a server that vanishes: from then on, all packets to and from it are lost.

use std::{fs, thread};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

use super::super::machines::Network;
use crate::{
    Body, Request,
    net::{Address, Drain, KeepAlive, Listener},
    tests::support::within,
    upstream::{AttemptErrorKind, Delivery, PoolConfig, Remote, TcpBalance, Upstream},
};

const SEC: std::time::Duration = std::time::Duration::from_secs(1);

/// A connection fails after two seconds.
fn keep_alive() -> KeepAlive {
    KeepAlive::new().idle(SEC).interval(SEC).probes(1)
}

fn pool() -> PoolConfig {
    PoolConfig::new().keep_alive(keep_alive()).connect_timeout(SEC)
}

fn request(method: &str) -> Request {
    Request::builder().method(method).uri("/").body(Body::empty()).unwrap()
}

/// Runs a test on a machine. It gets a server on another one, and a function that makes that machine vanish.
fn run<F: Future>(name: &str, test: impl Send + FnOnce(TcpListener, Box<dyn Fn()>) -> F) {
    let (network, [front, far, _]) = Network::new(name);
    // A socket stays in the namespace of the thread that has made it.
    let bind = async { TcpListener::bind((&*far.ip, 8000)).await.unwrap().into_std().unwrap() };
    let bound = thread::scope(|scope| scope.spawn(|| far.run(bind)).join().unwrap());
    thread::scope(|scope| {
        let front = &front;
        let test = scope.spawn(move || {
            front.run(async move {
                let listener = TcpListener::from_std(bound).unwrap();
                test(listener, Box::new(move || network.set_link(&far, false))).await;
            });
        });
        test.join().unwrap();
    });
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

async fn read_head(server: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(server.read_u8().await.unwrap());
    }
}

/// Accepts a connection, and answers a request on it.
async fn serve_one(listener: &TcpListener) -> TcpStream {
    let mut server = listener.accept().await.unwrap().0;
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    server
}

/// Waits until the open connections to port 8000 on the machine of this thread meet a condition. Each is given by the
/// bytes of its send queue, which have not been acknowledged, as hexadecimal digits.
async fn until(is_met: impl Fn(Vec<String>) -> bool) {
    // The fields are a number, the own address, that of the peer, the state (01 is ESTABLISHED), and the lengths of the
    // queues (proc_pid_net(5)).
    let unsent = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_open = fields[2].ends_with(":1F40") && fields[3] == "01";
        is_open.then(|| fields[4].split(':').next().unwrap_or_default().to_owned())
    };
    within(async {
        loop {
            let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
            if is_met(table.lines().filter_map(unsent).collect()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
#[cfg_attr(not(all(peer_root, peer_ip)), ignore = "it needs root and ip")]
fn request_fails_by_keep_alive_if_server_vanishes_before_it_answers() {
    run("w", |listener, vanish| async move {
        let address: Address = address(&listener).parse().unwrap();
        let remote = Remote::builder(address).pool(pool()).build();
        let exchange =
            async { tokio::join!(remote.clone().oneshot(request("GET")), serve_one(&listener)) };
        let (first, mut server) = within(exchange).await;
        first.unwrap();
        let lost = async {
            read_head(&mut server).await;
            // While the request is not acknowledged, it is repeated, and there are no probes.
            until(|unsent| unsent == ["00000000"]).await;
            vanish();
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            result = within(remote.oneshot(request("GET"))) => result.unwrap_err(),
            () = lost => unreachable!("it is pending"),
        };
        // The server is lost, which counts against it. It has not closed an idle connection.
        assert_eq!(error.kind(), AttemptErrorKind::ConnectionLost);
    });
}

#[test]
#[cfg_attr(not(all(peer_root, peer_ip)), ignore = "it needs root and ip")]
fn idle_connection_to_a_server_that_vanished_is_not_used() {
    run("i", |listener, vanish| async move {
        let address: Address = address(&listener).parse().unwrap();
        let remote = Remote::builder(address).pool(pool()).build();
        let exchange =
            async { tokio::join!(remote.clone().oneshot(request("GET")), serve_one(&listener)) };
        let (first, _server) = within(exchange).await;
        first.unwrap();
        assert_eq!(remote.idle_connections(), 1);
        vanish();
        until(|open| open.is_empty()).await;
        let error = within(remote.oneshot(request("POST"))).await.unwrap_err();
        let expected = (AttemptErrorKind::Unreachable, Delivery::NotSent);
        assert_eq!((error.kind(), error.delivery()), expected);
    });
}

#[test]
#[cfg_attr(not(all(peer_root, peer_ip)), ignore = "it needs root and ip")]
fn tcp_balance_resets_client_of_a_server_that_vanished() {
    run("t", |listener, vanish| async move {
        let balance = TcpBalance::builder([address(&listener)]).keep_alive(keep_alive()).build();
        let balance = balance.unwrap();
        let front = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
        let at = front.local_addr().unwrap().to_string();
        let drain = Drain::new();
        let serving = balance.serve(front, &drain);
        let client = async {
            let mut client = TcpStream::connect(at).await.unwrap();
            client.write_all(b"x").await.unwrap();
            let mut server = listener.accept().await.unwrap().0;
            assert_eq!(server.read_u8().await.unwrap(), b'x');
            // While the byte is not acknowledged, it is repeated, and there are no probes.
            until(|unsent| unsent == ["00000000"]).await;
            vanish();
            let end = client.read_u8().await.unwrap_err();
            assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
        };
        tokio::select! {
            () = within(client) => {}
            _ = serving => unreachable!("it is not drained"),
        }
    });
}

#[cfg(feature = "h2")]
#[test]
#[cfg_attr(not(all(peer_root, peer_ip)), ignore = "it needs root and ip")]
fn shared_connection_fails_if_its_requests_are_not_acknowledged() {
    run("s", |listener, vanish| async move {
        let address = format!("h2://{}", address(&listener));
        let upstream = Upstream::builder([address]).pool(pool()).attempts(1).build().unwrap();
        let server = async {
            let socket = listener.accept().await.unwrap().0;
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(accepted) = connection.accept().await {
                let (_, mut respond) = accepted.unwrap();
                respond.send_response(http::Response::new(()), true).unwrap();
            }
        };
        let client = async {
            let first = within(upstream.clone().oneshot(request("GET"))).await;
            assert_eq!(first.unwrap().status(), 200);
            vanish();
            let error = within(upstream.clone().oneshot(request("GET"))).await.unwrap_err();
            let error = crate::error::Chain(&*error).to_string();
            assert!(error.contains("timed out"), "{error}");
        };
        tokio::select! {
            () = client => {}
            () = server => unreachable!("the client keeps the connection"),
        }
    });
}
