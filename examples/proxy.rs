//! A reverse proxy over one or several HTTP/1.1 servers, in turn.
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
  --threads N     N threads with a runtime each (0: one for each core); without it, one runtime
  --buffer        buffers whole requests and responses, so that no server waits for a slow client
  --log           logs a line for each request
  UPSTREAM        host:port, http://host:port or unix:/path";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { listen, threads, buffer, log, upstreams } = Args::parse()?;

    let servers = Upstream::new(upstreams)?;
    // A server may be started later than this; with `?` it would have to be there.
    if let Err(error) = servers.check().await {
        tracing::warn!("{error}");
    }
    if !buffer {
        return run(serve(listen, servers), threads, log).await;
    }
    let buffered = ServiceBuilder::new()
        // The server is free when it has answered, however slow the client.
        .layer(layer::ResponseBufferLayer::new())
        // It is asked when the request is whole, however slow the client.
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
    // Ctrl-C or SIGTERM: finishes what is under way. A second one ends the process at once.
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
