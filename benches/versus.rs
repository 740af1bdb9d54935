//! A comparison of whole servers: this one, nginx, tower-http's `ServeDir` under axum, and a proxy with
//! hyper-util's client.
//!
//! `cargo build --release --examples && cargo bench --bench versus -- [SCENARIO ...] [--rounds N]
//! [--seconds N]`, with nginx and wrk installed. Servers run on core 0, the load and the backend on
//! core 1. Rounds alternate, and the ratios within a round are compared. Nothing is asserted.
//!
//! Scenarios: `static-1k`, `static-404`, `static-100k`, `static-10m`; `churn`, one connection per
//! request; `distinct`, 100,000 files in turn, for the memory; `proxy-1k`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a program that measures from outside, and may fail loudly"
)]

use std::{
    convert::Infallible,
    env, fs, io,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use vestibule::{Body, serve};

fn main() {
    let mut args: Vec<String> = env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.first().map(String::as_str) {
        // Roles of this same program.
        Some("backend") => return block_on(backend(&args[1])),
        Some("serve-dir") => return block_on(serve_dir(&args[1], args[2].clone())),
        Some("hyper-proxy") => return block_on(hyper_proxy(&args[1], args[2].clone())),
        _ => {}
    }
    let seconds = option(&mut args, "--seconds", 3);
    let rounds = option(&mut args, "--rounds", 5);
    for scenario in &SCENARIOS {
        if args.is_empty() || args.iter().any(|a| a == scenario.name) {
            compare(scenario, seconds, rounds);
        }
    }
}

/// A request, and the servers' expected status.
struct Scenario {
    name: &'static str,
    path: &'static str,
    /// Further arguments of wrk; `{}` is the folder.
    wrk: &'static [&'static str],
    status: u16,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario { name: "static-1k", path: "/1k", wrk: &[], status: 200 },
    Scenario { name: "static-404", path: "/none", wrk: &[], status: 404 },
    Scenario { name: "static-100k", path: "/100k", wrk: &[], status: 200 },
    Scenario { name: "static-10m", path: "/10m", wrk: &[], status: 200 },
    Scenario { name: "churn", path: "/1k", wrk: &["-H", "Connection: close"], status: 200 },
    Scenario { name: "distinct", path: "/", wrk: &["-s", "{}/distinct.lua"], status: 200 },
    Scenario { name: "proxy-1k", path: "/b/1k", wrk: &[], status: 200 },
];

/// A script of wrk that requests 100,000 files in turn.
const DISTINCT: &str = "local n = 0\n\
    request = function()\n\
      n = (n + 7919) % 100000\n\
      return wrk.format('GET', '/d/' .. n % 100 .. '/' .. n)\n\
    end\n";

/// Writes the files of a scenario.
fn write_files(scenario: &Scenario, dir: &Path) {
    for (name, len) in [("1k", 1 << 10), ("100k", 100 << 10), ("10m", 10 << 20)] {
        fs::write(dir.join(name), vec![b'x'; len]).unwrap();
    }
    if scenario.name == "distinct" {
        fs::write(dir.join("distinct.lua"), DISTINCT).unwrap();
        for n in 0..100_000 {
            let folder = dir.join(format!("d/{}", n % 100));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(n.to_string()), vec![b'x'; 1 << 10]).unwrap();
        }
    }
}

fn option(args: &mut Vec<String>, name: &str, default: u64) -> u64 {
    let Some(at) = args.iter().position(|a| a == name) else { return default };
    let value = args.get(at + 1).and_then(|v| v.parse().ok()).expect("an option has a number");
    args.drain(at..=at + 1);
    value
}

/// A running server, which is killed on drop.
struct Server {
    name: &'static str,
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(name: &'static str, core: u8, port: u16, command: &[&str]) -> Self {
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .args(command)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("taskset is installed");
        let server = Self { name, child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "{name} does not listen");
        }
        server
    }

    /// Returns the CPU seconds so far, user and system. None of the servers has child processes.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
        ticks / 100.0 // USER_HZ, the same on every Linux
    }

    /// Returns its private memory in MiB.
    fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

fn compare(scenario: &Scenario, seconds: u64, rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    write_files(scenario, dir.path());
    let me = env::current_exe().unwrap();
    let me = me.to_str().unwrap();
    let backend = free_port();
    let address = |port: u16| format!("127.0.0.1:{port}");
    let _backend = Server::start("backend", 1, backend, &[me, "backend", &address(backend)]);

    let proxies = scenario.name.starts_with("proxy");
    let (to, root) = (address(backend), dir.path().to_str().unwrap().to_owned());
    let (ours, target, peer) = if proxies {
        ("proxy", &to, ("hyper-util", "hyper-proxy"))
    } else {
        ("static_site", &root, ("ServeDir", "serve-dir"))
    };
    let example = example(ours);
    let mut servers = Vec::new();
    let port = free_port();
    let conf = nginx(dir.path(), port, backend);
    servers.push(Server::start("nginx", 0, port, &["nginx", "-p", &root, "-c", &conf]));
    let port = free_port();
    servers.push(Server::start(peer.0, 0, port, &[me, peer.1, &address(port), target]));
    let port = free_port();
    let command = [&example, "--listen", &address(port), "--threads", "1", target];
    servers.push(Server::start("vestibule", 0, port, &command));

    let wrk: Vec<_> = scenario.wrk.iter().map(|arg| arg.replace("{}", &root)).collect();
    let mut results = vec![Vec::new(); servers.len()];
    for round in 0..=rounds {
        for (server, results) in servers.iter().zip(&mut results) {
            let result = load(server, scenario, &wrk, if round == 0 { 1 } else { seconds });
            if round > 0 {
                results.push(result); // the first one is a warm-up
            }
        }
    }
    let name = scenario.name;
    println!("\n{name}: {rounds} alternating rounds of {seconds} s; medians (min-max)\n");
    println!(
        "| server | requests/s | ÷ nginx | CPU µs a request | ÷ nginx | MiB after each round |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (server, own) in servers.iter().zip(&results) {
        let of = |pick: fn(&Round) -> f64| own.iter().map(pick).collect::<Vec<_>>();
        let ratio = |pick: fn(&Round) -> f64| {
            own.iter().zip(&results[0]).map(|(a, b)| pick(a) / pick(b)).collect::<Vec<_>>()
        };
        let memory: Vec<_> = own.iter().map(|r| format!("{:.0}", r.memory)).collect();
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            server.name,
            spread(of(|r| r.rate), 0),
            spread(ratio(|r| r.rate), 2),
            spread(of(|r| r.cpu), 2),
            spread(ratio(|r| r.cpu), 2),
            memory.join(" "),
        );
    }
}

/// The result of a round: requests per second, CPU microseconds per request, and MiB of memory.
#[derive(Clone)]
struct Round {
    rate: f64,
    cpu: f64,
    memory: f64,
}

fn load(server: &Server, scenario: &Scenario, wrk: &[String], seconds: u64) -> Round {
    let before = server.cpu();
    let url = format!("http://127.0.0.1:{}{}", server.port, scenario.path);
    let out = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", "-c64", &format!("-d{seconds}s")])
        .args(wrk)
        .arg(&url)
        .output()
        .expect("wrk is installed");
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!(out.contains("Non-2xx"), scenario.status != 200, "{}: {out}", server.name);
    let word_before = |what| out.split(what).next().unwrap().split_whitespace().last().unwrap();
    let requests: f64 = word_before(" requests in").parse().expect("wrk prints the number");
    let rate = out.split("Requests/sec:").nth(1).unwrap().split_whitespace().next().unwrap();
    Round {
        rate: rate.parse().unwrap(),
        cpu: (server.cpu() - before) / requests * 1e6,
        memory: server.memory(),
    }
}

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (first, last) = (values[0], values[values.len() - 1]);
    format!("{:.digits$} ({first:.digits$}-{last:.digits$})", values[values.len() / 2])
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Returns the path of an example of this crate, built for release.
fn example(name: &str) -> String {
    let bench: PathBuf = env::current_exe().unwrap();
    let path = bench.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "missing: run cargo build --release --examples first");
    path.to_str().unwrap().to_owned()
}

/// Writes a configuration of nginx that is tuned for these scenarios.
fn nginx(dir: &Path, port: u16, backend: u16) -> String {
    let at = dir.display();
    let conf = format!(
        "user root; daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off; sendfile on; tcp_nopush on; open_file_cache max=1000;\n\
           keepalive_requests 1000000000;\n\
           upstream backend {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}\n\
           server {{\n\
             listen 127.0.0.1:{port} backlog=4096; root {at};\n\
             location /b/ {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n\
           }}\n\
         }}\n"
    );
    let path = dir.join("conf");
    fs::write(&path, conf).unwrap();
    path.to_str().unwrap().to_owned()
}

fn block_on(future: impl Future<Output = io::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future).unwrap();
}

/// Responds with 1 KiB to every request.
async fn backend(listen: &str) -> io::Result<()> {
    let page = Bytes::from(vec![b'x'; 1 << 10]);
    let app = tower::service_fn(move |_: Request<Body>| {
        let response = Response::new(Body::from(page.clone()));
        async { Ok::<_, Infallible>(response) }
    });
    serve(listen, app).await
}

/// Serves a folder with axum, on one thread as the other servers.
async fn serve_dir(listen: &str, root: String) -> io::Result<()> {
    let app = axum::Router::new().fallback_service(tower_http::services::ServeDir::new(root));
    axum::serve(tokio::net::TcpListener::bind(listen).await?, app).await
}

/// A minimal proxy with hyper-util's pooling client and hyper's server.
async fn hyper_proxy(listen: &str, to: String) -> io::Result<()> {
    use hyper_util::{
        client::legacy::Client,
        rt::{TokioExecutor, TokioIo},
    };
    let client = Client::builder(TokioExecutor::new()).build_http::<hyper::body::Incoming>();
    let listener = tokio::net::TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, to) = (client.clone(), to.clone());
        let service = hyper::service::service_fn(move |mut request: Request<_>| {
            let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
            let uri = Uri::builder().scheme("http").authority(to.as_str()).path_and_query(path);
            *request.uri_mut() = uri.build().expect("its parts are valid");
            request.headers_mut().remove(header::CONNECTION);
            client.request(request)
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}
