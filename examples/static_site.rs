//! Serves a folder as a web site.
//!
//! Run it with `cargo run --release --example static_site -- DIR` and open the address that it prints. On a
//! terminal it logs a line for each request.

use std::io::IsTerminal;

use vestibule::{
    HttpService,
    conn::ProxyProtocol,
    files::{self, DirBuilder},
    net::Address,
    serve::{Serve, serve, shutdown_signal},
    tls,
};

const HELP: &str = "\
static_site [--listen ADDR] [--threads N] [--tls-cert FILE --tls-key FILE]
            [--proxy-protocol-from NETWORK] [OPTION ...] [DIR]

  --listen ADDR     host:port or unix:/path (127.0.0.1:8080)
  --threads N       N threads with a runtime each (0: one per core); by default one runtime
  --tls-cert FILE   serves HTTPS, HTTP/2 and HTTP/1.1, with this certificate chain (PEM)
  --tls-key FILE    and its private key (PEM)
  --proxy-protocol-from NETWORK
                    reads a PROXY header in front of each connection from there, as 10.0.0.0/24;
                    several times for several networks
  --log             logs a line for each request, even if stderr is not a terminal
  --list            lists folders without an index.html
  --precompressed   sends a.js.zst, a.js.br or a.js.gz for a.js to clients that accept it
  --fallback FILE   sends this file of DIR, with 200, for paths that do not exist: the page of a
                    single-page application
  DIR               the folder (the current one)";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_target(false).with_writer(std::io::stderr).init();
    let Args { listen, threads, tls, senders, log, list, precompressed, fallback, dir } =
        Args::parse()?;

    let mut site = DirBuilder::dir(&dir).cache_policy(|path| {
        // The name changes with the content, so a response never becomes stale.
        files::is_hashed(path)
            .then(|| "public, max-age=31536000, immutable".parse().expect("ASCII"))
    });
    if list {
        site = site.listing();
    }
    if precompressed {
        site = site.precompressed();
    }
    if let Some(page) = fallback {
        site = site.fallback_page(page);
    }
    let site = site.try_build()?;
    let shown = std::path::absolute(&dir).unwrap_or_else(|_| dir.into());
    eprintln!("Serving {}", shown.display());
    let mut server = serve(listen, site);
    let scheme = if tls.is_some() { "https" } else { "http" };
    if let Some((chain, key)) = tls {
        server = server.tls(tls::Server::pem_files(chain, key)?);
    }
    if let Some(senders) = senders {
        server = server.proxy_protocol(senders);
    }
    let shows_lines = log || std::io::stderr().is_terminal();
    let server = if shows_lines { server } else { server.without_access_log() };
    run(server, threads, scheme).await
}

async fn run<S>(
    server: Serve<S>,
    threads: Option<usize>,
    scheme: &str,
) -> Result<(), Box<dyn std::error::Error>>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // Ctrl-C or SIGTERM begins a graceful shutdown; a second one ends the process at once.
    let server = server.shutdown(shutdown_signal());
    let server = match threads {
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

struct Args {
    listen: String,
    threads: Option<usize>,
    /// The files of the certificate and of its key.
    tls: Option<(String, String)>,
    /// The senders of the PROXY protocol.
    senders: Option<ProxyProtocol>,
    log: bool,
    list: bool,
    precompressed: bool,
    fallback: Option<String>,
    dir: String,
}

impl Args {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut args = Self {
            listen: "127.0.0.1:8080".into(),
            threads: None,
            tls: None,
            senders: None,
            log: false,
            list: false,
            precompressed: false,
            fallback: None,
            dir: ".".into(),
        };
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
                Long("log") => args.log = true,
                Long("list") => args.list = true,
                Long("precompressed") => args.precompressed = true,
                Long("fallback") => args.fallback = Some(parser.value()?.string()?),
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                Value(dir) => args.dir = dir.string()?,
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
