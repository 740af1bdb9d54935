//! A server that runs out of descriptors, in a process of its own.

use std::{convert::Infallible, env, io::ErrorKind, process::Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};
use tower::service_fn;

use super::support::{exchange, statuses, within};
use crate::{Body, Request, Response, serve};

/// Set in the child, which then is the server.
const CHILD: &str = "VESTIBULE_TEST_CHILD";

/// What the child may have open: some 15 are its own.
const DESCRIPTORS: u64 = 40;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn server_without_descriptors_refuses_clients_and_recovers() {
    if env::var_os(CHILD).is_some() {
        return be_the_server().await;
    }
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads=1"]);
    child.arg("tests::exhaustion::server_without_descriptors_refuses_clients_and_recovers");
    child.env(CHILD, "1").kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addr = loop {
        let line = within(lines.next_line()).await.unwrap().expect("the child says its address");
        if let Some((_, addr)) = line.split_once("listening on ") {
            break addr.parse().unwrap();
        }
    };
    // R10: more clients than descriptors. Each is either kept or closed; none is left hanging in
    // the kernel's queue.
    let mut clients = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        clients.push(TcpStream::connect(addr).await.unwrap());
    }
    let mut refused = 0;
    for client in &mut clients[DESCRIPTORS as usize..] {
        let mut byte = [0];
        match within(client.read(&mut byte)).await {
            Ok(0) => refused += 1,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, DESCRIPTORS);
    // One that was accepted before is served all the while.
    clients[0].write_all(GET.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(clients[0].read_to_string(&mut answer)).await.unwrap();
    assert_eq!(statuses(&answer), [200]);
    // When they have gone it accepts again. It learns of that when it does.
    drop(clients);
    within(async { while statuses(&exchange(addr, GET).await) != [200] {} }).await;
    child.kill().await.unwrap();
}

async fn be_the_server() {
    let limit = Some(DESCRIPTORS);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    let hello =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) });
    let server = serve("127.0.0.1:0", hello).bind().unwrap();
    println!("listening on {}", server.local_addr().unwrap());
    server.await.unwrap();
}
