//! Tests of graceful shutdown: what it waits for, and what it does not.

use std::{convert::Infallible, env, path::Path, process::Stdio, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines},
    net::{TcpStream, UnixStream},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
    time::Instant,
};
use tower::service_fn;

use super::support::{read_until, start_with, statuses, within};
use crate::{
    Body, Request, Response,
    conn::{Config, Connection, Http1Config, Transport},
    net::Drain,
    peer::Peer,
    serve::{self, serve},
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
        send(&server, signal);
        assert_eq!(within(server.wait()).await.unwrap().code(), Some(status));
    }
}
