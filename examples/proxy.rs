//! A reverse proxy to one or several HTTP/1.1 servers, in turn.
//!
//! Run with `cargo run --release --example proxy -- --listen 127.0.0.1:8080 127.0.0.1:3000`.

use tower::ServiceBuilder;
use vestibule::{
    HttpService, layer,
    serve::{Serve, serve, shutdown_signal},
    upstream::Upstream,
};

const HELP: &str = "\
proxy [--listen ADDR] [--threads N] [--buffer] [--log] UPSTREAM [UPSTREAM ...]

  --listen ADDR   host:port or unix:/path (127.0.0.1:8080)
  --threads N     N threads with a runtime each (0: one per core); by default one runtime
  --buffer        buffers requests and responses, so that no server waits for a slow client
  --log           logs a line for each request
  UPSTREAM        host:port, http://host:port or unix:/path";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { listen, threads, buffer, log, upstreams } = Args::parse()?;

    let servers = Upstream::new(upstreams)?;
    // Servers may be started later. With `?` instead, a missing server would be an error.
    if let Err(error) = servers.check().await {
        tracing::warn!("{error}");
    }
    if !buffer {
        return run(serve(listen, servers), threads, log).await;
    }
    let buffered = ServiceBuilder::new()
        // A server is free once it has answered, even if the client reads slowly.
        .layer(layer::ResponseBufferLayer::new())
        // A server receives complete requests, even if the client sends slowly.
        .layer(layer::RequestBufferLayer::new().max_body(1 << 30))
        .service(servers);
    run(serve(listen, buffered), threads, log).await
}

async fn run<S>(
    server: Serve<S>,
    threads: Option<usize>,
    log: bool,
) -> Result<(), Box<dyn std::error::Error>>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Ctrl-C or SIGTERM begins a graceful shutdown; a second one ends the process at once.
    let mut server = server.shutdown(shutdown_signal());
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
    buffer: bool,
    log: bool,
    upstreams: Vec<String>,
}

impl Args {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let listen = "127.0.0.1:8080".into();
        let mut args = Self { listen, threads: None, buffer: false, log: false, upstreams: vec![] };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
                Long("buffer") => args.buffer = true,
                Long("log") => args.log = true,
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                Value(server) => args.upstreams.push(server.string()?),
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(args)
    }
}
