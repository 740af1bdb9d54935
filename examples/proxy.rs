//! A reverse proxy over one or several HTTP/1.1 servers, in turn.
//!
//! Run with `cargo run --release --example proxy -- --listen 127.0.0.1:8080 127.0.0.1:3000`.

use vestibule::{serve, upstream::Upstream};

const HELP: &str = "\
proxy --listen ADDR [--threads N] UPSTREAM [UPSTREAM ...]

  --listen ADDR   host:port or unix:/path
  --threads N     one runtime a thread (0: one a core); without it, the caller's runtime
  UPSTREAM        host:port, http://host:port or unix:/path";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { listen, threads, upstreams } = Args::parse()?;

    let servers = Upstream::new(upstreams)?;
    let mut server = serve(listen, servers).shutdown(async {
        let _ = tokio::signal::ctrl_c().await;
    });
    if let Some(n) = threads {
        server = server.threads(n);
    }
    let server = server.bind()?;
    eprintln!("proxy on {}", server.local_addr()?);
    Ok(server.await?)
}

struct Args {
    listen: String,
    threads: Option<usize>,
    upstreams: Vec<String>,
}

impl Args {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut args = Self { listen: "127.0.0.1:8080".into(), threads: None, upstreams: vec![] };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
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
