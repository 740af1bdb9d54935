//! A reverse proxy to one or several HTTP servers, in turn.
//!
//! Run with `cargo run --release --example proxy -- --listen 127.0.0.1:8080 127.0.0.1:3000`.

use tower::{Layer, ServiceBuilder};
use vestibule::{
    HttpService,
    cache::{CacheLayer, Heuristic, SetCookie},
    layer,
    serve::{Serve, serve, shutdown_signal},
    tls,
    upstream::Upstream,
};

const HELP: &str = "\
proxy [--listen ADDR] [--threads N] [--tls-cert FILE --tls-key FILE] [--buffer]
      [--cache memory|DIR] [--log] UPSTREAM [UPSTREAM ...]

  --listen ADDR   host:port or unix:/path (127.0.0.1:8080)
  --threads N     N threads with a runtime each (0: one per core); by default one runtime
  --tls-cert FILE serves HTTPS, HTTP/2 and HTTP/1.1, with this certificate chain (PEM)
  --tls-key FILE  and its private key (PEM)
  --buffer        buffers requests and responses, so that no server waits for a slow client
  --cache WHERE   stores responses as far as the servers permit: in memory, or in the folder WHERE too
  --cache-heuristic    with --cache: derives a lifetime from Last-Modified if there is no other
  --cache-set-cookie   with --cache: stores Set-Cookie too, as RFC 9111 permits
  --log           logs a line for each request
  --upstream-ca FILE   the authorities of https:// servers (PEM); by default those of the system
  UPSTREAM        host:port, http://host:port, https://host:port (HTTP/2 or HTTP/1.1 by ALPN),
                  h2://host:port (HTTP/2 without TLS) or unix:/path";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse()?;
    let cache = args.cache_layer()?;
    let Args { listen, threads, tls, upstream_ca, buffer, log, upstreams, .. } = args;

    let mut servers = Upstream::builder(upstreams);
    if let Some(authorities) = upstream_ca {
        servers = servers.tls(tls::Client::builder().roots(authorities).build()?);
    }
    let servers = servers.build()?;
    // Servers may be started later. With `?` instead, a missing server would be an error.
    if let Err(error) = servers.check().await {
        tracing::warn!("{error}");
    }
    let buffered = |servers| {
        ServiceBuilder::new()
            // A server is free once it has answered, even if the client reads slowly.
            .layer(layer::ResponseBufferLayer::new())
            // A server receives complete requests, even if the client sends slowly.
            .layer(layer::RequestBufferLayer::new().max_body(1 << 30))
            .service(servers)
    };
    match (buffer, cache) {
        (false, None) => run(serve(listen, servers), threads, tls, log).await,
        (true, None) => run(serve(listen, buffered(servers)), threads, tls, log).await,
        // Outside of the buffers: hits need none.
        (false, Some(cache)) => run(serve(listen, cache.layer(servers)), threads, tls, log).await,
        (true, Some(cache)) => {
            run(serve(listen, cache.layer(buffered(servers))), threads, tls, log).await
        }
    }
}

async fn run<S>(
    server: Serve<S>,
    threads: Option<usize>,
    tls: Option<(String, String)>,
    log: bool,
) -> Result<(), Box<dyn std::error::Error>>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Ctrl-C or SIGTERM begins a graceful shutdown; a second one ends the process at once.
    let mut server = server.shutdown(shutdown_signal());
    if let Some((chain, key)) = tls {
        server = server.tls(tls::Server::pem_files(chain, key)?);
    }
    if !log {
        server = server.without_access_log();
    }
    let server = match threads {
        None => server,
        Some(0) => server.thread_per_core(),
        Some(n) => server.runtime_threads(n),
    };
    Ok(server.await?)
}

struct Args {
    listen: String,
    threads: Option<usize>,
    /// The files of the certificate and of its key.
    tls: Option<(String, String)>,
    /// The authorities of servers with TLS.
    upstream_ca: Option<String>,
    buffer: bool,
    cache: Option<String>,
    heuristic: bool,
    set_cookie: bool,
    log: bool,
    upstreams: Vec<String>,
}

impl Args {
    /// Reads the objects in a folder, which may take a while.
    fn cache_layer(&self) -> std::io::Result<Option<CacheLayer>> {
        let mut builder = CacheLayer::builder().cache_status("proxy");
        if self.heuristic {
            builder = builder.heuristic(Heuristic::default());
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
        let listen = "127.0.0.1:8080".into();
        let mut args = Self {
            listen,
            threads: None,
            tls: None,
            upstream_ca: None,
            buffer: false,
            cache: None,
            heuristic: false,
            set_cookie: false,
            log: false,
            upstreams: vec![],
        };
        let (mut chain, mut key) = (None, None);
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
                Long("tls-cert") => chain = Some(parser.value()?.string()?),
                Long("tls-key") => key = Some(parser.value()?.string()?),
                Long("upstream-ca") => args.upstream_ca = Some(parser.value()?.string()?),
                Long("buffer") => args.buffer = true,
                Long("cache") => args.cache = Some(parser.value()?.string()?),
                Long("cache-heuristic") => args.heuristic = true,
                Long("cache-set-cookie") => args.set_cookie = true,
                Long("log") => args.log = true,
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
