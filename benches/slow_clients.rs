//! The effect of ten thousand slow clients on sixteen healthy ones, with two workers.
//!
//! `cargo bench --bench slow_clients -- [--clients N] [--seconds N]`. The server runs on core 0 with
//! two synchronous workers that take 5 ms for each request, behind the request and the response
//! buffer; all clients run on core 1. Nothing is asserted.
//!
//! 1. Sixteen healthy clients alone.
//! 2. Beside N clients that each upload 20 bytes per second.
//! 3. Beside N clients that each read a page of 1 MiB at 1 KiB per second.
//! 4. The time that a request occupies a worker, by the bandwidth of its client.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark may panic and reads the clock"
)]

use std::{
    convert::Infallible,
    env, fs, io,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::{JoinSet, LocalSet},
    time::sleep,
};
use tower::{ServiceBuilder, service_fn};
use vestibule::{
    Body, Budget, Router,
    layer::{RequestBufferLayer, ResponseBufferLayer},
    peer::MinRate,
    proto::h1::Limits,
    serve, worker,
};

/// The time that the application takes for a request, about that of a database query.
const WORK: Duration = Duration::from_millis(5);
const WORKERS: usize = 2;
const HEALTHY: usize = 16;
const PAGE: usize = 1 << 20;

fn main() {
    let mut args: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    raise_descriptors();
    if let Some(role) = args.first()
        && !role.starts_with("--")
    {
        let number = |i: usize| args.get(i).map_or(0, |v| v.parse().unwrap());
        return match role.as_str() {
            "server" => block_on(server()),
            "upload" => block_on(uploaders(args[1].parse().unwrap(), number(2))),
            "read" => block_on(readers(args[1].parse().unwrap(), number(2))),
            other => panic!("unknown role {other}"),
        };
    }
    let clients = option(&mut args, "--clients", 10_000);
    let seconds = Duration::from_secs(option(&mut args, "--seconds", 20));
    compare(clients, seconds);
}

fn option(args: &mut Vec<String>, name: &str, default: u64) -> u64 {
    let Some(at) = args.iter().position(|a| a == name) else { return default };
    let value = args.get(at + 1).and_then(|v| v.parse().ok()).expect("an option has a number");
    args.drain(at..=at + 1);
    value
}

/// Raises the limit of descriptors: each client needs a connection and perhaps a file.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let want = Some(65_536);
    if setrlimit(Resource::Nofile, Rlimit { current: want, maximum: want }).is_err() {
        let most = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    }
}

fn block_on(future: impl Future<Output = io::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future).unwrap();
}

/// This program in another role, on one core. It is killed on drop.
struct Role {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Role {
    fn start(core: u8, args: &[&str]) -> Self {
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(env::current_exe().unwrap())
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("taskset is installed");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Returns its maximum resident memory in MiB.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compare(clients: u64, seconds: Duration) {
    let mut server = Role::start(0, &["server"]);
    let address = server.line();
    let addr: SocketAddr = address.parse().unwrap();
    let count = clients.to_string();
    let mut rows = Vec::new();
    let mut measure = |what: &str| rows.push((what.to_owned(), healthy(addr, seconds)));

    healthy(addr, Duration::from_secs(2)); // a warm-up
    measure("alone");
    let mut slow = Role::start(1, &["upload", &address, &count]);
    assert_eq!(slow.line(), "ready");
    measure("beside slow uploads");
    drop(slow);
    measure("alone again");
    let before = stats(addr).served;
    let mut slow = Role::start(1, &["read", &address, &count]);
    assert_eq!(slow.line(), "ready");
    let began = Instant::now();
    while stats(addr).served < before + clients {
        assert!(
            began.elapsed() < Duration::from_secs(600),
            "slow clients occupy the workers: {:?}",
            stats(addr)
        );
        thread::sleep(Duration::from_millis(200));
    }
    println!(
        "all pages were rendered after {:.1} s; {:?}",
        began.elapsed().as_secs_f64(),
        stats(addr)
    );
    measure("beside slow readers");
    drop(slow);
    measure("alone at the end");

    let base = rows[0].1.clone();
    println!("\n{clients} slow clients, {HEALTHY} healthy ones for {} s each\n", seconds.as_secs());
    println!("| healthy clients | requests/s | ÷ alone | p50 ms | p99 ms | ÷ alone |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (what, r) in &rows {
        let (rate, p99) = (r.rate / base.rate, r.p99 / base.p99);
        println!("| {what} | {:.0} | {rate:.3} | {:.1} | {:.1} | {p99:.2} |", r.rate, r.p50, r.p99);
    }
    println!("\npeak memory of the server: {} MiB; {:?}", server.peak(), stats(addr));
    println!("\n| client's bytes/s | worker ms per request |\n| --- | --- |");
    for bandwidth in [8 << 10, 32 << 10, 256 << 10, usize::MAX] {
        let (before, n) = (stats(addr), 40);
        bandwidth_clients(addr, bandwidth, n);
        let after = stats(addr);
        let served = (after.served - before.served) as f64;
        let cost = (after.busy_us - before.busy_us) as f64 / served / 1000.0;
        let name = if bandwidth == usize::MAX { "any".into() } else { bandwidth.to_string() };
        println!("| {name} | {cost:.2} |");
    }
}

#[derive(Debug)]
struct Figures {
    served: u64,
    /// The sum of the microseconds that workers were busy.
    busy_us: u64,
    #[expect(dead_code, reason = "printed")]
    budget: String,
}

fn stats(addr: SocketAddr) -> Figures {
    use std::io::{Read, Write};
    #[allow(clippy::disallowed_types, reason = "a client of a few bytes")]
    let mut s = std::net::TcpStream::connect(addr).unwrap();
    s.write_all(b"GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    let mut parts = body.splitn(3, ' ');
    let mut number = || parts.next().unwrap().parse().unwrap();
    let (served, busy_us) = (number(), number());
    Figures { served, busy_us, budget: parts.next().unwrap().to_owned() }
}

#[derive(Clone)]
struct Healthy {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Runs sixteen clients that send the next request when they have received a response.
fn healthy(addr: SocketAddr, time: Duration) -> Healthy {
    pin(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut times: Vec<f64> = runtime.block_on(async {
        let (end, mut all) = (Instant::now() + time, JoinSet::new());
        for _ in 0..HEALTHY {
            all.spawn(async move {
                let mut client = TcpStream::connect(addr).await.unwrap();
                let (mut times, mut buf) = (Vec::new(), vec![0; 4096]);
                while Instant::now() < end {
                    let start = Instant::now();
                    client.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                    let n = client.read(&mut buf).await.unwrap();
                    assert!(buf[..n].starts_with(b"HTTP/1.1 200") && buf[..n].ends_with(b"hello"));
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                times
            });
        }
        all.join_all().await.concat()
    });
    times.sort_by(f64::total_cmp);
    let at = |q: f64| times[(times.len() as f64 * q) as usize];
    Healthy { rate: times.len() as f64 / time.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

fn pin(core: usize) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap();
}

async fn server() -> io::Result<()> {
    let app = || {
        worker::blocking(|request: Request<Bytes>| {
            thread::sleep(WORK);
            Response::new(match request.uri().path() {
                "/page" => Body::from(vec![b'p'; PAGE]),
                "/small-page" => Body::from(vec![b'p'; 64 << 10]),
                _ => Body::from("hello"),
            })
        })
    };
    let pool = worker::threads(WORKERS, app)
        .queue(20_000) // all clients may send at the same time
        .queue_timeout(Duration::from_secs(600))
        .start()
        .unwrap();
    let busy = Arc::new(AtomicU64::new(0));
    let budget = Budget::builder().max_disk(16 << 30).build();

    let (sampled, counter) = (pool.clone(), busy.clone());
    thread::spawn(move || {
        let mut last = Instant::now();
        loop {
            thread::sleep(Duration::from_micros(500));
            let now = Instant::now();
            let spent = (now - last).as_micros() as u64 * sampled.stats().busy as u64;
            counter.fetch_add(spent, Ordering::Relaxed);
            last = now;
        }
    });

    let (pool_stats, usage) = (pool.clone(), budget.clone());
    let stats = service_fn(move |_: Request<Body>| {
        let served = pool_stats.stats().served;
        let text = format!("{served} {} {:?}", busy.load(Ordering::Relaxed), usage.usage());
        async { Ok::<_, Infallible>(Response::new(Body::from(text))) }
    });
    let app = ServiceBuilder::new()
        .layer(ResponseBufferLayer::new().budget(budget.clone()))
        .layer(RequestBufferLayer::new().budget(budget))
        .service(pool);
    let site = Router::new().route("/stats", stats).fallback(app);
    // The clients are slower than the default minimum rate.
    let limits = Limits::new().body_rate(MinRate::NONE);
    let server = serve("127.0.0.1:0", site).limits(limits).connections(32_000).runtime_threads(1);
    let server = server.bind()?;
    println!("{}", server.local_addr()?);
    server.await
}

async fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(addr).await.unwrap()
}

/// Runs clients that each send 20 bytes per second of a body that is never complete.
async fn uploaders(addr: SocketAddr, n: usize) -> io::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..n {
        let mut client = connect(addr).await;
        client
            .write_all(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n")
            .await?;
        clients.push(client);
    }
    println!("ready");
    for mut client in clients {
        tokio::task::spawn_local(async move {
            loop {
                client.write_all(&[b'x'; 10]).await.expect("the connection was aborted");
                sleep(Duration::from_millis(500)).await;
            }
        });
    }
    std::future::pending().await
}

/// Runs clients that each request the page and read 1 KiB per second.
async fn readers(addr: SocketAddr, n: usize) -> io::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..n {
        let mut client = connect(addr).await;
        client.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        clients.push(client);
    }
    println!("ready");
    for mut client in clients {
        tokio::task::spawn_local(async move {
            let mut buf = [0; 1 << 10];
            while client.read(&mut buf).await.expect("the connection was aborted") > 0 {
                sleep(Duration::from_secs(1)).await;
            }
        });
    }
    std::future::pending().await
}

/// Runs `n` concurrent clients, each with one request of 4 KiB and a page of 64 KiB, at `bandwidth` bytes per
/// second in both directions.
fn bandwidth_clients(addr: SocketAddr, bandwidth: usize, n: usize) {
    block_on(async move {
        let mut all = JoinSet::new();
        for _ in 0..n {
            all.spawn(async move {
                let mut client = connect(addr).await;
                let head = "POST /small-page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4096\r\n\r\n";
                client.write_all(head.as_bytes()).await.unwrap();
                let step = (bandwidth / 20).min(64 << 10);
                let pause = Duration::from_millis(if bandwidth == usize::MAX { 0 } else { 50 });
                for piece in [b'x'; 4096].chunks(step) {
                    client.write_all(piece).await.unwrap();
                    sleep(pause).await;
                }
                let (mut got, mut buf) = (0, vec![0; step]);
                loop {
                    match client.read(&mut buf).await.unwrap() {
                        0 => break,
                        n => got += n,
                    }
                    sleep(pause).await;
                }
                assert!(got > 64 << 10, "{got}");
            });
        }
        all.join_all().await;
        Ok(())
    });
}
