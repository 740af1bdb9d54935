//! A reverse proxy to one or several HTTP servers.
//!
//! Run with `cargo run --release --example proxy -- --listen 127.0.0.1:8080 127.0.0.1:3000 127.0.0.1:3001`. `--check
//! /healthz` checks the servers' health, `--servers FILE` reads them from a file that may change, and `--status
//! 127.0.0.1:8081` shows the state of each.

use std::{fmt::Write, time::Duration};

use tower::{Layer, ServiceBuilder, service_fn};
use vestibule::{
    Body, BoxError, HttpService, Request, Response,
    cache::{CacheLayer, Heuristic, SetCookie},
    conn::ProxyProtocol,
    layer,
    net::Address,
    policy::{
        health::HealthOptions,
        pick::{
            ConsistentHash, First, LeastOutstanding, PeakEwma, Pick, PowerOfTwoChoices, Random,
            RequestKey, RoundRobin, Sticky,
        },
    },
    serve::{Serve, serve, shutdown_signal},
    tls,
    upstream::{
        EmptySet, EndpointLimits, QueueOptions, Upstream,
        check::{CheckOptions, HttpCheck, connects},
        discover::FileSource,
    },
};

const HELP: &str = "\
proxy [--listen ADDR] [--threads N] [--tls-cert FILE --tls-key FILE]
      [--proxy-protocol-from NETWORK] [--buffer]
      [--cache memory|DIR] [--log] [OPTION ...] UPSTREAM [UPSTREAM ...]

  --listen ADDR   host:port or unix:/path (127.0.0.1:8080)
  --threads N     N threads with a runtime each (0: one per core); by default one runtime
  --tls-cert FILE serves HTTPS, HTTP/2 and HTTP/1.1, with this certificate chain (PEM)
  --tls-key FILE  and its private key (PEM)
  --proxy-protocol-from NETWORK   reads a PROXY header in front of each connection from there, as
                  10.0.0.0/24; several times for several networks
  --buffer        buffers requests and responses, so that no server waits for a slow client
  --cache WHERE   stores responses as far as the servers permit: in memory, or in the folder WHERE too
  --cache-heuristic    with --cache: derives a lifetime from Last-Modified if there is no other
  --cache-max-in-memory N   with --cache DIR: sends contents above N bytes from their files
  --cache-set-cookie   with --cache: stores Set-Cookie too, as RFC 9111 permits
  --log           logs a line for each request
  --upstream-ca FILE   the authorities of https:// servers (PEM); by default those of the system
  --policy NAME   turns (the default), random, least, two, ewma, first, sticky,
                  hash (of the client's address), hash-path, maglev
  --check PATH|tcp     asks each server for PATH every second, or whether it accepts connections
  --slow-start SECS    gives a server that comes back a growing share for so long
  --max N         at most N requests at a time to each server
  --queue N       lets N requests wait when all servers have that many
  --servers FILE  follows a file with a server in each line, as `10.0.0.1:3000 weight=2`
  --status ADDR   shows the state of all servers there
  UPSTREAM        host:port, http://host, https://host (HTTP/2 or HTTP/1.1 by ALPN), a URL also with a
                  port, h2://host:port (HTTP/2 without TLS) or unix:/path; none with --servers";

#[tokio::main]
#[allow(clippy::disallowed_methods, reason = "the tasks end with the process")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse()?;
    let cache = args.cache_layer()?;
    let servers = upstream(&args)?;
    // Servers may be started later. With `?` instead, a missing server would be an error.
    if let Err(error) = servers.check().await {
        tracing::warn!("{error}");
    }
    if let Some(path) = &args.servers {
        tokio::spawn(servers.follow(FileSource::new(path)));
    }
    let every_second = CheckOptions::new().interval(Duration::from_secs(1));
    match args.check.as_deref() {
        None => {}
        Some("tcp") => drop(tokio::spawn(servers.balance().check(connects, every_second))),
        Some(path) => {
            let check = HttpCheck::new(path).ok_or("--check: expected a path or `tcp`")?;
            tokio::spawn(servers.balance().check(check, every_second));
        }
    }
    if let Some(addr) = &args.status {
        let status = serve(addr.as_str(), status_page(servers.clone())).bind()?;
        tokio::spawn(status.into_future());
    }
    let Args { listen, buffer, .. } = args;
    let front =
        Front { threads: args.threads, tls: args.tls, senders: args.senders, log: args.log };
    let buffered = |servers| {
        ServiceBuilder::new()
            // A server is idle after its response, even if the client reads slowly.
            .layer(layer::ResponseBufferLayer::new())
            // A server receives complete requests, even if the client sends slowly.
            .layer(layer::RequestBufferLayer::new().max_body(1 << 30))
            .service(servers)
    };
    match (buffer, cache) {
        (false, None) => run(serve(listen, servers), front).await,
        (true, None) => run(serve(listen, buffered(servers)), front).await,
        // Outside of the buffers, which hits do not need.
        (false, Some(cache)) => run(serve(listen, cache.layer(servers)), front).await,
        (true, Some(cache)) => run(serve(listen, cache.layer(buffered(servers))), front).await,
    }
}

/// Returns the proxy's service.
fn upstream(args: &Args) -> Result<Upstream, Box<dyn std::error::Error>> {
    let health = HealthOptions::new().slow_start(args.slow_start);
    let mut builder = Upstream::builder(&args.upstreams).health(health);
    if args.servers.is_some() {
        builder = builder.empty(EmptySet::Fail);
    }
    if let Some(authorities) = &args.upstream_ca {
        builder = builder.tls(tls::Client::builder().roots(authorities).build()?);
    }
    if let Some(n) = args.max {
        builder = builder.server_limits(EndpointLimits::new().in_flight(n));
    }
    if let Some(n) = args.queue {
        builder = builder.queue(QueueOptions::new(n));
    }
    let client = RequestKey::client_address;
    let policy: Box<dyn Pick> = match &*args.policy {
        "turns" => Box::new(RoundRobin::new()),
        "random" => Box::new(Random::new()),
        "least" => Box::new(LeastOutstanding::new()),
        "two" => Box::new(PowerOfTwoChoices::new()),
        "ewma" => Box::new(PeakEwma::new()),
        "first" => Box::new(First::new()),
        // All gateways of a site need the same secret, which must not be published like this one.
        "sticky" => Box::new(Sticky::new(*b"of an example...", PeakEwma::new())),
        "hash" => Box::new(ConsistentHash::ring(client()).bounded_load(125)),
        "hash-path" => Box::new(ConsistentHash::ring(RequestKey::path())),
        "maglev" => Box::new(ConsistentHash::maglev(client())),
        other => return Err(format!("--policy: unknown policy '{other}'").into()),
    };
    Ok(builder.policy(policy).build()?)
}

/// Returns the status page: a line for each server, and one for the queue.
fn status_page(servers: Upstream) -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    service_fn(move |_: Request| {
        let mut text = String::new();
        for s in servers.balance().status() {
            let _ = writeln!(
                text,
                "{} {:?} weight {} in flight {} latency {:?} success {}.{} % requests {}",
                s.key,
                s.phase,
                s.weight,
                s.in_flight,
                s.latency,
                s.success / 10,
                s.success % 10,
                s.requests,
            );
            for error in s.last_errors {
                let _ = writeln!(text, "    {:?} ago: {}", error.age, error.text);
            }
        }
        let _ = writeln!(text, "{:?}", servers.balance().queue_stats());
        std::future::ready(Ok::<_, BoxError>(Response::new(Body::from(text))))
    })
}

/// The options of the listener.
struct Front {
    threads: Option<usize>,
    tls: Option<(String, String)>,
    senders: Option<ProxyProtocol>,
    log: bool,
}

async fn run<S>(server: Serve<S>, front: Front) -> Result<(), Box<dyn std::error::Error>>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Ctrl-C or SIGTERM begins a graceful shutdown; a second one ends the process at once.
    let mut server = server.shutdown(shutdown_signal());
    let scheme = if front.tls.is_some() { "https" } else { "http" };
    if let Some((chain, key)) = front.tls {
        server = server.tls(tls::Server::pem_files(chain, key)?);
    }
    if let Some(senders) = front.senders {
        server = server.proxy_protocol(senders);
    }
    if !front.log {
        server = server.without_access_log();
    }
    let server = match front.threads {
        None => server,
        Some(0) => server.thread_per_core(),
        Some(n) => server.runtime_threads(n),
    };
    let server = server.bind()?;
    match server.local_addr()? {
        at @ Address::Tcp(_) => eprintln!("Open {scheme}://{at}/"),
        at @ Address::Unix(_) => eprintln!("Listening on {at}"),
    }
    Ok(server.await?)
}

#[derive(Default)]
struct Args {
    listen: String,
    threads: Option<usize>,
    /// The files of the certificate and of its key.
    tls: Option<(String, String)>,
    /// The senders of the PROXY protocol.
    senders: Option<ProxyProtocol>,
    /// The authorities of servers with TLS.
    upstream_ca: Option<String>,
    buffer: bool,
    cache: Option<String>,
    max_in_memory: Option<u64>,
    heuristic: bool,
    set_cookie: bool,
    log: bool,
    policy: String,
    check: Option<String>,
    slow_start: Duration,
    max: Option<usize>,
    queue: Option<usize>,
    servers: Option<String>,
    status: Option<String>,
    upstreams: Vec<String>,
}

impl Args {
    /// Reads the objects in a folder, which may take a while.
    fn cache_layer(&self) -> std::io::Result<Option<CacheLayer>> {
        let mut builder = CacheLayer::builder().cache_status("proxy");
        if self.heuristic {
            builder = builder.heuristic(Heuristic::default());
        }
        if let Some(bytes) = self.max_in_memory {
            builder = builder.max_object(bytes);
        }
        if self.set_cookie {
            builder = builder.set_cookie(SetCookie::Store);
        }
        Ok(match self.cache.as_deref() {
            None => None,
            Some("memory") => Some(builder.build()),
            Some(folder) => Some(builder.open(folder)?),
        })
    }

    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let (listen, policy) = ("127.0.0.1:8080".into(), "turns".into());
        let mut args = Self { listen, policy, ..Self::default() };
        let (mut chain, mut key) = (None, None);
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
                Long("tls-cert") => chain = Some(parser.value()?.string()?),
                Long("tls-key") => key = Some(parser.value()?.string()?),
                Long("proxy-protocol-from") => {
                    let senders = args.senders.take().unwrap_or_default();
                    args.senders = Some(senders.trust(parser.value()?.parse()?));
                }
                Long("upstream-ca") => args.upstream_ca = Some(parser.value()?.string()?),
                Long("buffer") => args.buffer = true,
                Long("cache") => args.cache = Some(parser.value()?.string()?),
                Long("cache-max-in-memory") => args.max_in_memory = Some(parser.value()?.parse()?),
                Long("cache-heuristic") => args.heuristic = true,
                Long("cache-set-cookie") => args.set_cookie = true,
                Long("log") => args.log = true,
                Long("policy") => args.policy = parser.value()?.string()?,
                Long("check") => args.check = Some(parser.value()?.string()?),
                Long("slow-start") => {
                    args.slow_start = Duration::from_secs(parser.value()?.parse()?);
                }
                Long("max") => args.max = Some(parser.value()?.parse()?),
                Long("queue") => args.queue = Some(parser.value()?.parse()?),
                Long("servers") => args.servers = Some(parser.value()?.string()?),
                Long("status") => args.status = Some(parser.value()?.string()?),
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                Value(server) => args.upstreams.push(server.string()?),
                _ => return Err(arg.unexpected()),
            }
        }
        args.tls = match (chain, key) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            _ => return Err("--tls-cert and --tls-key belong together".into()),
        };
        Ok(args)
    }
}
