//! The cost of passing a request to a worker thread and its response back.
//!
//! `cargo bench --bench hand_over -- [--threads N] [--clients N] [--rounds N] [--seconds N]`, with wrk installed. The
//! server runs on core 0 with the same small handler, inline in the connection's task and in a pool of worker
//! threads; the load runs on core 1. Rounds alternate. The last columns are the cost of the pool compared with the
//! inline handler in the same round. Nothing is asserted.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a program that measures from outside, and may fail loudly"
)]

use std::{
    convert::Infallible,
    env, fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use http::{Request, Response};
use tower::service_fn;
use vestibule::{Body, HttpService, serve, worker};

fn main() {
    let mut args: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Some("server") = args.first().map(String::as_str) {
        return server(args[1].parse().unwrap());
    }
    let threads = option(&mut args, "--threads", 4);
    let clients = option(&mut args, "--clients", 512);
    let rounds = option(&mut args, "--rounds", 5);
    let seconds = option(&mut args, "--seconds", 2);
    compare(threads, clients, rounds, seconds);
}

fn option(args: &mut Vec<String>, name: &str, default: u64) -> u64 {
    let Some(at) = args.iter().position(|a| a == name) else { return default };
    let value = args.get(at + 1).and_then(|v| v.parse().ok()).expect("an option has a number");
    args.drain(at..=at + 1);
    value
}

/// Serves with this number of worker threads, or inline with 0.
fn server(threads: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if threads == 0 {
            let inline = |_: Request<Body>| async { Ok::<_, Infallible>(hello()) };
            return listen(service_fn(inline)).await;
        }
        let pool = worker::threads(threads, || worker::blocking(|_request| hello())).queue(4096);
        listen(pool.start().unwrap()).await;
    });
}

fn hello() -> Response<Body> {
    Response::new(Body::from("hello"))
}

async fn listen<S>(service: S)
where
    S: HttpService<Body, Future: Send> + Clone + Send + Sync + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    serve(listener, service).await.unwrap();
}

/// A server on core 0.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(threads: u64) -> Self {
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(env::current_exe().unwrap())
            .args(["server", &threads.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("taskset is installed");
        let mut address = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        Self { child, url: format!("http://{}/", address.trim()) }
    }

    /// Returns CPU seconds and context switches of all threads so far.
    fn usage(&self) -> (f64, f64) {
        let (mut nanos, mut switches) = (0, 0);
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let dir = task.unwrap().path();
            let schedstat = fs::read_to_string(dir.join("schedstat")).unwrap();
            nanos += schedstat.split(' ').next().unwrap().parse::<u64>().unwrap();
            let status = fs::read_to_string(dir.join("status")).unwrap();
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            let number = |line: &str| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap();
            switches += counts.map(number).sum::<u64>();
        }
        (nanos as f64 / 1e9, switches as f64)
    }

    fn load(&self, clients: u64, seconds: u64) -> Round {
        let before = self.usage();
        let out = Command::new("taskset")
            .args(["-c", "1", "wrk", "-t1", "--latency", &format!("-c{clients}")])
            .args([&format!("-d{seconds}s"), &self.url])
            .output()
            .expect("wrk is installed");
        let after = self.usage();
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!out.contains("Non-2xx") && !out.contains("Socket errors"), "{out}");
        let word = |what: &str| out.split(what).nth(1).unwrap().split_whitespace().next().unwrap();
        let before_word = out.split(" requests in").next().unwrap();
        let requests: f64 = before_word.split_whitespace().last().unwrap().parse().unwrap();
        Round {
            rate: word("Requests/sec:").parse().unwrap(),
            cpu: (after.0 - before.0) / requests * 1e6,
            switches: (after.1 - before.1) / requests,
            p50: millis(word(" 50%")),
            p99: millis(word(" 99%")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Round {
    rate: f64,
    /// Microseconds for each request.
    cpu: f64,
    switches: f64,
    p50: f64,
    p99: f64,
}

/// Parses a time in the format of wrk.
fn millis(text: &str) -> f64 {
    let (number, factor) = match text {
        _ if text.ends_with("us") => (&text[..text.len() - 2], 1e-3),
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1.0),
        _ => (&text[..text.len() - 1], 1e3),
    };
    number.parse::<f64>().unwrap() * factor
}

fn compare(threads: u64, clients: u64, rounds: u64, seconds: u64) {
    let servers = [Server::start(0), Server::start(threads)];
    let mut all = [Vec::new(), Vec::new()];
    for server in &servers {
        server.load(clients, 1); // warms up
    }
    for _ in 0..rounds {
        for (server, all) in servers.iter().zip(&mut all) {
            all.push(server.load(clients, seconds));
        }
    }
    println!("{clients} clients, {rounds} rounds of {seconds} s: median (min-max)\n");
    println!("| handler | requests/s | CPU us | switches | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|");
    for (name, all) in ["inline".to_owned(), format!("{threads} threads")].iter().zip(&all) {
        let of = |value: fn(&Round) -> f64, digits| spread(all.iter().map(value).collect(), digits);
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            of(|r| r.rate, 0),
            of(|r| r.cpu, 2),
            of(|r| r.switches, 2),
            of(|r| r.p50, 2),
            of(|r| r.p99, 2)
        );
    }
    let pairs = || all[0].iter().zip(&all[1]);
    println!(
        "\nthe hand-over: {} us of CPU, p99 times {}",
        spread(pairs().map(|(inline, pool)| pool.cpu - inline.cpu).collect(), 2),
        spread(pairs().map(|(inline, pool)| pool.p99 / inline.p99).collect(), 2)
    );
}

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let (min, max) = (values[0], values[values.len() - 1]);
    format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
}
