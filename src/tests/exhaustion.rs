//! Tests of servers without descriptors or threads, and of freed memory, in child processes.

use std::{
    convert::Infallible,
    env,
    fs::{self, Permissions},
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use rustix::{
    process::{Resource, Rlimit, Uid, getrlimit, setrlimit},
    thread::set_thread_uid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_stream::StreamExt;
use tower::{Layer, ServiceExt, service_fn};

use super::support::{exchange, read_until, start, statuses, within};
use crate::{
    Body, BoxError, Budget, Request, Response, Router,
    conn::testing::Lines,
    files,
    layer::{RequestBufferLayer, RescueLayer, ResponseBufferLayer},
    net::reclaim,
    serve,
};

/// The environment variable of the child process, which runs the server.
const CHILD: &str = "VESTIBULE_TEST_CHILD";

/// The limit of descriptors in the child.
const DESCRIPTORS: u64 = 40;

/// Descriptors of the child that are free when it begins to accept, one of which it keeps in reserve.
const FREE: usize = 10;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn server_without_descriptors_refuses_clients_and_recovers() {
    if env::var_os(CHILD).is_some() {
        return be_the_server().await;
    }
    let test = "server_without_descriptors_refuses_clients_and_recovers";
    let (mut child, addr) = child_that_listens(test).await;
    let (begin, rest) = GET.split_at(10);
    // R10: more clients than descriptors. Each is served or closed; none remains in the accept queue.
    let mut clients = Vec::new();
    for _ in 0..2 * FREE {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(begin.as_bytes()).await.unwrap(); // not idle
        clients.push(client);
    }
    let mut refused = 0;
    for client in &mut clients[FREE..] {
        let mut byte = [0];
        match within(client.read(&mut byte)).await {
            Ok(0) => refused += 1,
            Err(e) if e.kind() == ErrorKind::ConnectionReset => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, FREE);
    // A connection that was accepted before is still served.
    clients[0].write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(clients[0].read_to_string(&mut answer)).await.unwrap();
    assert_eq!(statuses(&answer), [200]);
    // When the clients have disconnected, the server accepts again.
    drop(clients);
    within(async { while statuses(&exchange(addr, GET).await) != [200] {} }).await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn server_without_descriptors_closes_idle_connections_for_new_clients() {
    if env::var_os(CHILD).is_some() {
        return be_the_server().await;
    }
    let test = "server_without_descriptors_closes_idle_connections_for_new_clients";
    let (mut child, addr) = child_that_listens(test).await;
    let mut clients = Vec::new();
    for _ in 0..3 * FREE {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(statuses(&read_until(&mut client, "hello").await), [200]);
        clients.push(client);
    }
    child.kill().await.unwrap();
}

/// Runs a test of this module in a child process, where it is a server. Returns the server's address.
async fn child_that_listens(test: &str) -> (Child, SocketAddr) {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads=1"]);
    child.arg(format!("tests::exhaustion::{test}"));
    child.env(CHILD, "1").kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = within(lines.next_line()).await.unwrap().expect("the child says its address");
        if let Some((_, addr)) = line.split_once("listening on ") {
            return (child, addr.parse().unwrap());
        }
    }
}

/// Serves with a few free descriptors.
async fn be_the_server() {
    let maximum = Some(DESCRIPTORS);
    setrlimit(Resource::Nofile, Rlimit { current: Some(30), maximum }).unwrap();
    let hello =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) });
    let lines = Lines::default();
    let bind = || serve("127.0.0.1:0", hello).bind().unwrap();
    let server = tracing::subscriber::with_default(lines.subscriber(), bind);
    assert_eq!(getrlimit(Resource::Nofile).current, maximum, "the soft limit is raised");
    let lines = lines.of("vestibule::serve").concat();
    assert!(lines.contains("connections=15"), "three eighths of the limit: {lines}");
    let mut held: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    held.truncate(held.len() - FREE);
    println!("listening on {}", server.local_addr().unwrap());
    server.await.unwrap();
}

#[tokio::test]
async fn files_of_the_cache_are_served_without_descriptors() {
    if env::var_os(CHILD).is_some() {
        return serve_files_without_descriptors().await;
    }
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads=1"]);
    child.arg("tests::exhaustion::files_of_the_cache_are_served_without_descriptors");
    child.env(CHILD, "1").kill_on_drop(true).stdin(Stdio::null());
    let output = within(child.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn serve_files_without_descriptors() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("small.txt"), "small").unwrap();
    fs::write(directory.path().join("large.txt"), "7".repeat(100_000)).unwrap();
    fs::write(directory.path().join("other.txt"), "other").unwrap();
    // Each request looks up the path again.
    let dir = files::DirBuilder::dir(directory.path()).revalidate(Duration::from_nanos(1)).build();
    let server = start(RescueLayer::new().layer(dir)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    let mut get = async |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await;
        let (_, len) = head.split_once("content-length: ").unwrap();
        let len = len.split("\r\n").next().unwrap().parse().unwrap();
        within(client.read_exact(&mut vec![0; len])).await.unwrap();
        statuses(&head)
    };
    for path in ["/small.txt", "/large.txt"] {
        assert_eq!(get(path).await, [200]);
    }
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..usual }).unwrap();
    assert!(fs::File::open(directory.path()).is_err(), "the limit holds");
    for path in ["/small.txt", "/large.txt"] {
        assert_eq!(get(path).await, [200]);
    }
    for path in ["/other.txt", "/none"] {
        assert_eq!(get(path).await, [503]);
    }
    setrlimit(Resource::Nofile, usual).unwrap();
    assert_eq!(get("/other.txt").await, [200]);
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_root), ignore = "run as root: the child takes another uid")]
async fn server_survives_when_no_thread_can_be_started() {
    if let Some(directory) = env::var_os(CHILD) {
        return serve_without_threads(Path::new(&directory)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    fs::write(directory.path().join("large.bin"), vec![b'7'; 100_000]).unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads=1"]);
    child.arg("tests::exhaustion::server_survives_when_no_thread_can_be_started");
    child.env(CHILD, directory.path()).kill_on_drop(true).stdin(Stdio::null());
    let output = within(child.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Serves on this thread as a user that cannot start another one.
async fn serve_without_threads(directory: &Path) {
    let budget = Budget::builder().spill_dir(directory).build();
    let app = service_fn(async |request: Request| -> Result<Response, BoxError> {
        match request.uri().path() {
            "/panic" => panic!("a fault of the application"),
            "/large" => {
                let pieces = (0..30).map(|_| Ok::<_, BoxError>(vec![b'1'; 10_000]));
                Ok(Response::new(Body::from_stream(tokio_stream::iter(pieces))))
            }
            _ => Ok(Response::new(request.into_body())),
        }
    });
    let app = RequestBufferLayer::new().budget(budget.clone()).layer(app);
    let app = ResponseBufferLayer::new().max_memory(1000).budget(budget).layer(app);
    let site = Router::new().nest("/files", files::dir(directory)).fallback(app);
    let server = start(RescueLayer::new().layer(site)).await;
    let get = async |path: &str| {
        let head = "Host: a\r\nConnection: close\r\n\r\n";
        exchange(server.addr, format!("GET {path} HTTP/1.1\r\n{head}")).await
    };
    let post = async |path: &str| {
        let head = "Host: a\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n";
        let body = "x".repeat(300_000);
        exchange(server.addr, format!("POST {path} HTTP/1.1\r\n{head}{body}")).await
    };
    let usual = getrlimit(Resource::Nproc);
    set_thread_uid(Uid::from_raw(65_534)).unwrap();
    let none = Rlimit { current: Some(0), maximum: usual.maximum };
    setrlimit(Resource::Nproc, none).unwrap();
    assert!(thread::Builder::new().spawn(|| ()).is_err(), "the limit holds");
    // Each path twice: no client waits for a lookup that did not begin.
    for _ in 0..2 {
        assert_eq!(statuses(&post("/echo").await), [503]);
        assert_eq!(statuses(&get("/files/large.bin").await), [503]);
        assert_eq!(statuses(&get("/files/none").await), [503]);
        let large = get("/large").await; // from memory
        assert_eq!((statuses(&large), large.matches('1').count() > 300_000), (vec![200], true));
    }
    setrlimit(Resource::Nproc, usual).unwrap();
    assert_eq!(statuses(&get("/files/large.bin").await), [200]);
    assert_eq!(statuses(&post("/echo").await), [200]);
    // The body is dropped while the handler's panic unwinds.
    assert_eq!(statuses(&post("/panic").await), [500]);
    assert_eq!(statuses(&post("/echo").await), [200]);
    server.stop().await;
}

#[tokio::test]
async fn memory_of_slow_readers_returns_to_the_system() {
    if env::var_os(CHILD).is_some() {
        return buffer_for_slow_readers().await;
    }
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads=1"]);
    child.arg("tests::exhaustion::memory_of_slow_readers_returns_to_the_system");
    child.env(CHILD, "1").kill_on_drop(true).stdin(Stdio::null());
    let output = within(child.output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Returns the resident memory of this process in bytes, without the pages of its program. How many of these the kernel maps
/// depends on what is in the page cache: they can be more than the buffers of this test.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    memory.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

async fn buffer_for_slow_readers() {
    const READERS: usize = 600;
    let app = service_fn(async |_: Request| -> Result<Response, BoxError> {
        // 256 KiB at once, and the rest later.
        let pieces = (0..16).map(|_| Ok::<_, BoxError>(vec![1_u8; 16 << 10]));
        let pieces = tokio_stream::iter(pieces).chain(tokio_stream::pending());
        Ok(Response::new(Body::from_stream(pieces)))
    });
    let app = ResponseBufferLayer::new().max_memory(1 << 20).layer(app);
    let before = resident();
    let (mut responses, mut others) = (Vec::new(), Vec::new());
    for _ in 0..READERS {
        responses.push(app.clone().oneshot(Request::new(Body::empty())).await.unwrap());
        others.push(vec![1_u8; 200]); // small allocations that stay, as those of other requests
    }
    assert!(resident() - before > READERS * (250 << 10), "{before} {}", resident());
    drop(responses);
    // On a busy machine a trim may come while the buffers are being freed. Then less than what triggers another one remains.
    let limit = before + reclaim::MIN_FALL as usize + (20 << 20);
    within(async {
        while resident() > limit {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(others.len(), READERS);
}
