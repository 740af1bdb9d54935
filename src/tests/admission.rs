//! Tests of admission to a full server: no capacity is reserved for clients that are awaited, and idle connections
//! are closed for others.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
};
use tower::service_fn;

use super::support::{exchange, read_all, read_until, start_with, statuses, within};
use crate::{
    Body, Request, Response,
    conn::{Config, Connection, Http1Config, ProxyProtocol, Transport},
    net::{Drain, DrainWatch, Gate, Stream},
    peer::Peer,
    serve::Serve,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

async fn hello(_: Request) -> Result<Response, Infallible> {
    Ok(Response::new(Body::from("hi")))
}

#[tokio::test]
async fn idle_connections_are_shed_for_waiting_ones() {
    let server = start_with(service_fn(hello), |s| s.connections(2)).await;
    let mut idle = [
        TcpStream::connect(server.addr).await.unwrap(),
        TcpStream::connect(server.addr).await.unwrap(),
    ];
    for client in &mut idle {
        client.write_all(GET.as_bytes()).await.unwrap();
        read_until(client, "hi").await;
    }
    // Long before the idle timeout of the two.
    for _ in 0..2 {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(GET.as_bytes()).await.unwrap();
        read_until(&mut client, "hi").await;
        drop(client);
    }
    let mut next = TcpStream::connect(server.addr).await.unwrap();
    next.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut next, "hi").await;
    // At least one of the two has been closed, between exchanges.
    drop(next);
    server.stop().await;
    for client in &mut idle {
        assert_eq!(read_all(client).await, "");
    }
}

#[tokio::test]
async fn connection_whose_request_only_the_kernel_has_received_is_not_shed() {
    let sender = ProxyProtocol::new().trust("127.0.0.0/8".parse().unwrap());
    let begin = format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{GET}");
    not_shed(Config::new(), [GET, GET]).await;
    not_shed(Config::new().proxy_protocol(sender), [&begin, GET]).await;
}

async fn not_shed(config: Config, requests: [&str; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let drain = Drain::new();
    let peer = Peer::tcp(client.local_addr().unwrap(), client.peer_addr().unwrap());
    let transport = Transport::new(Stream::from(stream), peer, drain.watch());
    tokio::spawn(Connection::new(transport, service_fn(hello), Arc::new(config)));
    for request in requests {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
        // The runtime does not ask the kernel for events before it polls the connection, which is woken.
        assert_eq!(client.try_write(request.as_bytes()).unwrap(), request.len());
        drain.request_shed(1);
        drain.wake_next(1);
        read_until(&mut client, "hi").await;
    }
    // It is idle, so the request to end still applies to it.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    drain.wake_next(1);
    assert_eq!(read_all(&mut client).await, "");
}

#[tokio::test]
async fn active_connection_is_not_shed() {
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (b, g) = (began.clone(), go_on.clone());
    let app = service_fn(move |_: Request| {
        let (began, go_on) = (b.clone(), g.clone());
        async move {
            began.notify_one();
            go_on.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(Response::new(Body::from("hi")))
        }
    });
    let server = start_with(app, |s| s.connections(1)).await;
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(GET.as_bytes()).await.unwrap();
    within(began.notified()).await;
    let mut waiting = TcpStream::connect(server.addr).await.unwrap();
    waiting.write_all(GET.as_bytes()).await.unwrap();
    let patience = Duration::from_millis(400); // longer than the idle timeout
    assert!(tokio::time::timeout(patience, began.notified()).await.is_err(), "let in beside it");
    go_on.add_permits(2);
    read_until(&mut busy, "hi").await;
    // It is closed when it becomes idle.
    read_until(&mut waiting, "hi").await;
    assert_eq!(read_all(&mut busy).await, "");
    drop(waiting);
    server.stop().await;
}

#[tokio::test]
async fn client_has_bounded_number_of_connections() {
    let server = start_with(service_fn(hello), |s| s.connections_per_client(2)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(GET.as_bytes()).await.unwrap();
        read_until(&mut client, "hi").await;
        held.push(client);
    }
    assert_eq!(exchange(server.addr, "").await, "", "closed as it came");
    // Another client is not affected; loopback has many addresses.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(server.addr).await.unwrap();
    other.write_all(LAST.as_bytes()).await.unwrap();
    assert_eq!(statuses(&read_all(&mut other).await), [200]);
    // A connection that has ended is not counted.
    held.pop().unwrap().shutdown().await.unwrap();
    within(async {
        while statuses(&exchange(server.addr, LAST).await) != [200] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn closed_gate_stops_accepting_and_reading_heads() {
    let places = Arc::new(Semaphore::new(1));
    let gate = Gate::new(places.clone());
    let server = start_with(service_fn(hello), |s| s.gate(gate)).await;
    let mut kept = TcpStream::connect(server.addr).await.unwrap();
    kept.write_all(GET.as_bytes()).await.unwrap();
    read_until(&mut kept, "hi").await;
    let place = places.clone().acquire_owned().await.unwrap();
    // Neither on an open connection nor on a new one.
    let mut new = TcpStream::connect(server.addr).await.unwrap();
    for client in [&mut kept, &mut new] {
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(50), client.read(&mut byte));
        assert!(read.await.is_err(), "answered though the gate is closed");
    }
    drop(place);
    read_until(&mut kept, "hi").await;
    read_until(&mut new, "hi").await;
    assert_eq!(places.available_permits(), 1, "nothing is kept by those who waited");
    // A shutdown does not wait for the gate.
    let _place = places.acquire_owned().await.unwrap();
    server.stop().await;
    assert_eq!(read_all(&mut kept).await, "");
}

#[tokio::test]
async fn client_waiting_at_gate_is_not_idle() {
    let places = Arc::new(Semaphore::new(1));
    let gate = Gate::new(places.clone());
    let limits = crate::proto::h1::Limits {
        idle_timeout: Duration::from_millis(700),
        ..crate::proto::h1::Limits::default()
    };
    let server = start_with(service_fn(hello), |s| s.limits(limits).gate(gate)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    let place = places.clone().acquire_owned();
    read_until(&mut client, "hi").await;
    let place = place.await.unwrap();
    client.write_all(LAST.as_bytes()).await.unwrap();
    let mut byte = [0];
    // Three times the idle timeout.
    let read = tokio::time::timeout(Duration::from_millis(2100), client.read(&mut byte));
    assert!(read.await.is_err(), "closed, or answered");
    drop(place);
    assert!(read_all(&mut client).await.starts_with("HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test]
async fn waiting_heads_and_answers_are_charged_and_spent_budget_refuses_requests() {
    const PAGE: usize = 12_000; // copied into the buffer of its head
    let budget = crate::Budget::builder().hard_limit(200_000).build();
    let page = service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'p'; PAGE])))
    });
    let config = Arc::new(Config::new().budget(budget.clone()));
    let connect = |pipe| {
        let (client, io) = tokio::io::duplex(pipe);
        let (peer, watch) = (Peer::memory(), DrainWatch::never());
        let connection = crate::conn::h1::server::Connection::new(
            Transport::new(io, peer, watch),
            page,
            config.clone(),
        );
        tokio::spawn(connection);
        client
    };
    let settled = async |want: &dyn Fn(u64) -> bool| {
        within(async {
            while !want(budget.usage().memory) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    let mut half = connect(1 << 16);
    half.write_all(&GET.as_bytes()[..20]).await.unwrap();
    settled(&|n| n == 20).await;
    half.write_all(&GET.as_bytes()[20..]).await.unwrap();
    let mut answer = vec![0; PAGE + 50];
    half.read_exact(&mut answer).await.unwrap();
    settled(&|n| n == 0).await;

    let mut slow = Vec::new();
    while budget.usage().memory < 200_000 {
        let before = budget.usage().memory;
        let mut client = connect(256);
        client.write_all(GET.as_bytes()).await.unwrap();
        settled(&|n| n >= before + 10_000).await;
        slow.push(client);
    }
    let mut refused = connect(1 << 16);
    refused.write_all(GET.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(refused.read_to_string(&mut answer)).await.unwrap();
    assert_eq!((statuses(&answer), budget.usage().refused), (vec![503], 1));
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    drop((slow, half));
    settled(&|n| n == 0).await;
}

#[tokio::test]
async fn connections_release_their_slots_however_they_end() {
    let app = service_fn(|request: Request| async move {
        match request.uri().path() {
            "/panic" => panic!("expected"),
            "/never" => std::future::pending::<()>().await,
            _ => {}
        }
        let (tx, body) = Body::channel(Some(100_000));
        let _ = tx.send(vec![b'x'; 50_000].into());
        drop(tx); // aborts the body
        Ok::<_, Infallible>(Response::new(body))
    });
    // With `half_close` of zero, an orderly end cancels the request as a reset does.
    let http1 = Http1Config::new().half_close(Duration::ZERO);
    let options = |s: Serve<_>| s.connections(4).connections_per_client(4).http1(http1);
    let server = start_with(app, options).await;
    let addr = server.addr;
    let one = async |n: usize| {
        let Ok(mut client) = TcpStream::connect(addr).await else { return };
        let request: &[u8] = match n % 8 {
            0 => b"",
            1 => b"GET / HT",
            2 => b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
            3 => b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n",
            4 => b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
            5 => b"\0\0 nonsense\r\n\r\n",
            6 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            _ => b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n",
        };
        let _ = client.write_all(request).await;
        if n.is_multiple_of(3) {
            let _ = client.read(&mut [0; 100]).await;
        }
        if n.is_multiple_of(2) {
            // Closes with a reset.
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }
    };
    // The clients that would get no response are abandoned.
    for n in 0..400 {
        let _ = tokio::time::timeout(Duration::from_millis(20), one(n)).await;
    }
    let last = tokio::spawn(async move { exchange(addr, "GET /x HTTP/1.0\r\n\r\n").await });
    assert_eq!(statuses(&within(last).await.unwrap()), [200]);
    server.stop().await;
}
