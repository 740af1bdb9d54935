//! Tests of graceful shutdown: what it waits for, and what it does not.

use std::{
    convert::Infallible, env, future::IntoFuture, io::ErrorKind::WouldBlock, os::fd::AsFd,
    path::Path, process::Stdio, sync::Arc, time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines},
    net::{TcpListener, TcpStream, UnixStream},
    process::{Child, ChildStdout, Command},
    sync::Semaphore,
    task::JoinHandle,
    time::Instant,
};
use tower::service_fn;

use super::support::{read_all, read_until, start_with, statuses, within};
use crate::{
    Body, Request, Response,
    conn::{Config, Connection, Http1Config, Transport},
    net::{Drain, Gate, Stream},
    peer::Peer,
    serve::{self, Bind, serve},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request whose body is too large to be discarded: the connection lingers after the response.
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";

const HOUR: Duration = Duration::from_secs(3600);

/// Responds without reading the body; never responds to `/never`.
async fn early(request: Request) -> Result<Response, Infallible> {
    if request.uri().path() == "/never" {
        println!("begun");
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Body::from("early")))
}

fn connect(drain: &Drain) -> (DuplexStream, JoinHandle<std::io::Result<()>>) {
    let (client, io) = tokio::io::duplex(1 << 10);
    let config = Config::new().http1(Http1Config::new().linger(HOUR));
    let transport = Transport::new(io, Peer::memory(), drain.watch());
    (client, tokio::spawn(Connection::new(transport, service_fn(early), Arc::new(config))))
}

/// Lets the connections run until they wait for time.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn incomplete_head_holds_a_drain_for_one_second() {
    for before in [&b""[..], GET] {
        let drain = Drain::new();
        let (mut client, _task) = connect(&drain);
        client.write_all(before).await.unwrap();
        client.write_all(&GET[..20]).await.unwrap();
        settle().await;
        let began = Instant::now();
        drain.begin();
        drain.ended().await;
        assert_eq!(began.elapsed().as_secs(), 1);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer).len(), before.len() / GET.len(), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_that_is_completed_during_a_drain_is_answered() {
    let drain = Drain::new();
    let (mut client, task) = connect(&drain);
    client.write_all(&GET[..20]).await.unwrap();
    settle().await;
    drain.begin();
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.write_all(&GET[20..]).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("early"), "{answer}");
    task.await.unwrap().unwrap();
    assert!(drain.is_empty());
}

#[tokio::test(start_paused = true)]
async fn request_that_has_arrived_when_a_drain_begins_is_answered() {
    for earlier in [0, 1] {
        let drain = Drain::new();
        let (mut client, task) = connect(&drain);
        for _ in 0..earlier {
            client.write_all(GET).await.unwrap();
            read_response(&mut client).await;
        }
        settle().await;
        // The connection is not polled between these two.
        client.write_all(GET).await.unwrap();
        drain.begin();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer), [200], "after {earlier} requests");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn request_that_only_the_kernel_has_received_when_a_drain_begins_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let drain = Drain::new();
    let transport = Transport::new(Stream::from(stream), Peer::memory(), drain.watch());
    let task = tokio::spawn(Connection::new(transport, service_fn(early), Arc::default()));
    client.write_all(GET).await.unwrap();
    read_until(&mut client, "early").await;
    settle().await;
    // The runtime does not ask the kernel for events before it polls the connection, which the drain wakes.
    assert_eq!(client.try_write(GET).unwrap(), GET.len());
    drain.begin();
    let answer = read_all(&mut client).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    drop(client);
    within(task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn pipelined_request_behind_full_output_is_answered_in_a_drain_and_after_a_half_close() {
    for is_half_closed in [false, true] {
        let drain = Drain::new();
        let (mut client, io) = tokio::io::duplex(1 << 10);
        // Five responses fill the output; the sixth request is read and waits.
        let service = service_fn(async |_: Request| {
            Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; 16_000])))
        });
        let transport = Transport::new(io, Peer::memory(), drain.watch());
        let task = tokio::spawn(Connection::new(transport, service, Arc::default()));
        client.write_all(&GET.repeat(6)).await.unwrap();
        if is_half_closed {
            client.shutdown().await.unwrap();
        }
        settle().await;
        if !is_half_closed {
            drain.begin();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer), [200; 6]);
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn request_at_a_closed_gate_is_answered_in_a_drain() {
    for earlier in [0, 1] {
        let (drain, permits) = (Drain::new(), Arc::new(Semaphore::new(1)));
        let (mut client, io) = tokio::io::duplex(1 << 10);
        let config = Config::new().gate(Gate::new(permits.clone()));
        let transport = Transport::new(io, Peer::memory(), drain.watch());
        tokio::spawn(Connection::new(transport, service_fn(early), Arc::new(config)));
        for _ in 0..earlier {
            client.write_all(GET).await.unwrap();
            read_response(&mut client).await;
        }
        let _permit = permits.acquire().await.unwrap();
        client.write_all(GET).await.unwrap();
        settle().await;
        drain.begin();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer), [200], "after {earlier} requests");
    }
}

#[tokio::test(start_paused = true)]
async fn connection_at_a_closed_gate_leaves_it_when_a_drain_begins() {
    let (drain, permits) = (Drain::new(), Arc::new(Semaphore::new(1)));
    let (mut client, io) = tokio::io::duplex(1 << 10);
    let config = Config::new().gate(Gate::new(permits.clone()));
    let transport = Transport::new(io, Peer::memory(), drain.watch());
    let permit = permits.acquire().await.unwrap();
    tokio::spawn(Connection::new(transport, service_fn(early), Arc::new(config)));
    tokio::time::sleep(HOUR).await;
    drain.begin();
    settle().await;
    drop(permit);
    assert_eq!(permits.available_permits(), 1, "no waiter keeps it");
    // Its time for a request has just begun.
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.write_all(GET).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(statuses(&answer), [200]);
}

#[tokio::test(start_paused = true)]
async fn new_connection_has_one_second_for_its_request_in_a_drain() {
    for is_sent in [false, true] {
        let drain = Drain::new();
        let (mut client, _task) = connect(&drain);
        settle().await;
        let began = Instant::now();
        drain.begin();
        if is_sent {
            tokio::time::sleep(Duration::from_millis(900)).await;
            client.write_all(GET).await.unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(statuses(&answer), [200; 1][..usize::from(is_sent)]);
        drop(client);
        drain.ended().await;
        assert_eq!(began.elapsed().as_millis(), if is_sent { 900 } else { 1000 });
    }
}

#[tokio::test(start_paused = true)]
async fn idle_connection_does_not_hold_a_drain_after_its_first_request() {
    for empty_line in [&b""[..], b"\r\n"] {
        let drain = Drain::new();
        let (mut client, _task) = connect(&drain);
        client.write_all(GET).await.unwrap();
        read_response(&mut client).await;
        client.write_all(empty_line).await.unwrap();
        settle().await;
        let began = Instant::now();
        drain.begin();
        drain.ended().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

/// Reads a response to [`GET`].
async fn read_response(client: &mut DuplexStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"early") {
        answer.push(client.read_u8().await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn lingering_connection_does_not_hold_a_drain() {
    for begins_first in [false, true] {
        let drain = Drain::new();
        let (mut client, task) = connect(&drain);
        client.write_all(&POST[..20]).await.unwrap();
        settle().await;
        let began = Instant::now();
        if begins_first {
            drain.begin();
        }
        client.write_all(&POST[20..]).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("early"), "{answer}");
        drain.begin();
        drain.ended().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        // The server continues to read, so that the client gets the response.
        client.write_all(&[0; 100_000]).await.unwrap();
        assert!(!task.is_finished());
        drop(client);
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn server_ends_while_a_connection_lingers() {
    let http1 = Http1Config::new().linger(HOUR);
    let server = start_with(service_fn(early), |s| s.shutdown_timeout(HOUR).http1(http1)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(POST).await.unwrap();
    read_until(&mut client, "early").await;
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0, "its end has come");
    server.stop().await;
}

#[tokio::test]
async fn clients_in_the_accept_queue_are_served_in_a_shutdown() {
    for is_passed in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kept = listener.as_fd().try_clone_to_owned().unwrap();
        let bind: Bind = if is_passed { listener.into() } else { "127.0.0.1:0".into() };
        let server = serve(bind, service_fn(early)).shutdown(std::future::ready(()));
        let server = server.bind().unwrap();
        let addr = server.local_addr().unwrap().to_string();
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = TcpStream::connect(&*addr).await.unwrap();
            client.write_all(GET).await.unwrap();
            clients.push(client);
        }
        within(server.into_future()).await.unwrap();
        for client in &mut clients {
            if is_passed {
                assert!(client.try_read(&mut [0]).is_err_and(|e| e.kind() == WouldBlock));
            } else {
                let answer = read_all(client).await;
                assert!(answer.contains("connection: close\r\n"), "{answer}");
            }
        }
        drop(kept);
    }
}

#[tokio::test]
async fn clients_that_wait_for_a_permit_are_served_in_a_shutdown() {
    let server = start_with(service_fn(early), |s| s.connections(1)).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(GET).await.unwrap();
    read_until(&mut idle, "early").await;
    // The first of them may have been accepted when the shutdown begins.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(GET).await.unwrap();
        clients.push(client);
    }
    server.stop().await;
    for client in &mut clients {
        let answer = read_all(client).await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    assert_eq!(read_all(&mut idle).await, "");
}

#[tokio::test]
async fn client_that_waits_at_a_closed_gate_is_served_in_a_shutdown() {
    let gate = Gate::new(Arc::new(Semaphore::new(0)));
    let server = start_with(service_fn(early), |s| s.gate(gate)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    server.stop().await;
    let answer = read_all(&mut client).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn server_leaves_a_socket_file_that_is_no_longer_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let server = serve(format!("unix:{}", path.display()), service_fn(early)).bind().unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
    // It removes its own socket file, although it was never awaited.
    std::fs::remove_file(&path).unwrap();
    drop(serve(format!("unix:{}", path.display()), service_fn(early)).bind().unwrap());
    assert!(!path.exists());
}

/// The environment variable of the child process, which runs the server: the path of its socket.
const CHILD: &str = "VESTIBULE_TEST_SIGNALS";

async fn child(path: &Path) -> (Child, UnixStream, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads=1"]);
    child.arg("tests::shutdown::signal_drains_a_server_and_a_second_one_ends_the_process");
    child.env(CHILD, path).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_for(&mut lines, "listening").await;
    // When it responds, its signal handlers are installed.
    let mut client = UnixStream::connect(path).await.unwrap();
    client.write_all(GET).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"early") {
        answer.push(within(client.read_u8()).await.unwrap());
    }
    (child, client, lines)
}

async fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) {
    while !within(lines.next_line()).await.unwrap().unwrap().contains(text) {}
}

fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
async fn signal_drains_a_server_and_a_second_one_ends_the_process() {
    if let Some(path) = env::var_os(CHILD) {
        let address = format!("unix:{}", path.to_str().unwrap());
        let server = serve(address, service_fn(early)).shutdown(serve::shutdown_signal());
        let server = server.bind().unwrap();
        println!("listening");
        return server.await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    for signal in [Signal::TERM, Signal::INT] {
        let (mut server, mut client, _output) = child(&path).await;
        send(&server, signal);
        assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0, "the idle one is closed");
        assert_eq!(within(server.wait()).await.unwrap().code(), Some(0));
        assert!(!path.exists(), "the socket's file is removed");
    }
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (mut server, mut client, mut lines) = child(&path).await;
        client.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        wait_for(&mut lines, "begun").await;
        send(&server, Signal::TERM);
        within(async {
            while path.exists() {
                tokio::task::yield_now().await; // until the first one has come
            }
        })
        .await;
        // Those directly after the first one repeat it, and a later one ends the process.
        let ended = within(async {
            loop {
                if let Some(ended) = server.try_wait().unwrap() {
                    break ended;
                }
                send(&server, signal);
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(ended.await.code(), Some(status));
    }
}
