//! Whole servers side by side: ours, nginx, and hyper-util's client as a proxy.
//!
//! `cargo build --release --examples && cargo bench --bench versus -- [SCENARIO ...] [--rounds N]
//! [--seconds N]`, with nginx and wrk installed. Scenarios: `static-1k`, `static-100k`, `proxy-1k`.
//! Servers run on core 0, the load and the backend on core 1; rounds alternate; what counts is
//! the ratio within a round. Nothing here judges.
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
        Some("hyper-proxy") => return block_on(hyper_proxy(&args[1], args[2].clone())),
        _ => {}
    }
    let seconds = option(&mut args, "--seconds", 3);
    let rounds = option(&mut args, "--rounds", 5);
    for scenario in ["static-1k", "static-100k", "proxy-1k"] {
        if args.is_empty() || args.iter().any(|a| a == scenario) {
            compare(scenario, seconds, rounds);
        }
    }
}

fn option(args: &mut Vec<String>, name: &str, default: u64) -> u64 {
    let Some(at) = args.iter().position(|a| a == name) else { return default };
    let value = args.get(at + 1).and_then(|v| v.parse().ok()).expect("an option has a number");
    args.drain(at..=at + 1);
    value
}

/// A started server; it ends with this.
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

    /// Processor seconds so far, of user and kernel; none of the servers has children.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|f| f.parse::<f64>().unwrap()).sum();
        ticks / 100.0 // USER_HZ, the same on every Linux
    }
}

fn compare(scenario: &str, seconds: u64, rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    for (name, len) in [("1k", 1 << 10), ("100k", 100 << 10)] {
        fs::write(dir.path().join(name), vec![b'x'; len]).unwrap();
    }
    let me = env::current_exe().unwrap();
    let me = me.to_str().unwrap();
    let backend = free_port();
    let address = |port: u16| format!("127.0.0.1:{port}");
    let _backend = Server::start("backend", 1, backend, &[me, "backend", &address(backend)]);

    let (ours, path) = match scenario {
        "static-1k" => ("static_site", "/1k"),
        "static-100k" => ("static_site", "/100k"),
        _ => ("proxy", "/b/1k"),
    };
    let to = address(backend);
    let root = dir.path().to_str().unwrap().to_owned();
    let target = if ours == "proxy" { &to } else { &root };
    let example = example(ours);
    let mut servers = Vec::new();
    let port = free_port();
    let conf = nginx(dir.path(), port, backend);
    servers.push(Server::start("nginx", 0, port, &["nginx", "-p", &root, "-c", &conf]));
    if ours == "proxy" {
        let port = free_port();
        let command = [me, "hyper-proxy", &address(port), &to];
        servers.push(Server::start("hyper-util", 0, port, &command));
    }
    let port = free_port();
    let command = [&example, "--listen", &address(port), "--threads", "1", target];
    servers.push(Server::start("vestibule", 0, port, &command));

    let mut results = vec![Vec::new(); servers.len()];
    for round in 0..=rounds {
        for (server, results) in servers.iter().zip(&mut results) {
            let result = load(server, path, if round == 0 { 1 } else { seconds });
            if round > 0 {
                results.push(result); // the first one warms up
            }
        }
    }
    println!("\n{scenario}: {rounds} alternating rounds of {seconds} s; medians (min-max)\n");
    println!("| server | requests/s | ÷ nginx | CPU µs a request | ÷ nginx |");
    println!("| --- | --- | --- | --- | --- |");
    for (server, own) in servers.iter().zip(&results) {
        let of = |pick: fn(&(f64, f64)) -> f64| own.iter().map(pick).collect::<Vec<_>>();
        let ratio = |pick: fn(&(f64, f64)) -> f64| {
            own.iter().zip(&results[0]).map(|(a, b)| pick(a) / pick(b)).collect::<Vec<_>>()
        };
        println!(
            "| {} | {} | {} | {} | {} |",
            server.name,
            spread(of(|r| r.0), 0),
            spread(ratio(|r| r.0), 2),
            spread(of(|r| r.1), 2),
            spread(ratio(|r| r.1), 2),
        );
    }
}

/// Requests a second, and microseconds of processor for each.
fn load(server: &Server, path: &str, seconds: u64) -> (f64, f64) {
    let before = server.cpu();
    let url = format!("http://127.0.0.1:{}{path}", server.port);
    let wrk = ["-c", "1", "wrk", "-t1", "-c64", &format!("-d{seconds}s"), &url];
    let out = Command::new("taskset").args(wrk).output().expect("wrk is installed");
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!out.contains("Non-2xx"), "{}: {out}", server.name);
    let word_before = |what| out.split(what).next().unwrap().split_whitespace().last().unwrap();
    let requests: f64 = word_before(" requests in").parse().expect("wrk says how many");
    let rate = out.split("Requests/sec:").nth(1).unwrap().split_whitespace().next().unwrap();
    (rate.parse().unwrap(), (server.cpu() - before) / requests * 1e6)
}

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (first, last) = (values[0], values[values.len() - 1]);
    format!("{:.digits$} ({first:.digits$}-{last:.digits$})", values[values.len() / 2])
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An example of this crate, built for release.
fn example(name: &str) -> String {
    let bench: PathBuf = env::current_exe().unwrap();
    let path = bench.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "first: cargo build --release --examples");
    path.to_str().unwrap().to_owned()
}

/// nginx as somebody would set it who wants to win this.
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

/// Answers 1 KiB to everything.
async fn backend(listen: &str) -> io::Result<()> {
    let page = Bytes::from(vec![b'x'; 1 << 10]);
    let app = tower::service_fn(move |_: Request<Body>| {
        let response = Response::new(Body::from(page.clone()));
        async { Ok::<_, Infallible>(response) }
    });
    serve(listen, app).await
}

/// The shortest proxy that hyper-util's pooling client makes, on hyper's own server.
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
            *request.uri_mut() = uri.build().expect("made of two good ones");
            request.headers_mut().remove(header::CONNECTION);
            client.request(request)
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}
