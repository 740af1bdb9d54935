//! A folder as a web site.
//!
//! Run with `cargo run --release --example static_site -- --listen 127.0.0.1:8080 DIR`.

use vestibule::{files, serve};

const HELP: &str = "\
static_site --listen ADDR [--threads N] DIR

  --listen ADDR   host:port or unix:/path
  --threads N     one runtime a thread (0: one a core); without it, the caller's runtime
  DIR             the folder";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { listen, threads, dir } = Args::parse()?;

    let mut server = serve(listen, files::dir(dir)).shutdown(async {
        let _ = tokio::signal::ctrl_c().await;
    });
    if let Some(n) = threads {
        server = server.threads(n);
    }
    let server = server.bind()?;
    eprintln!("site on {}", server.local_addr()?);
    Ok(server.await?)
}

struct Args {
    listen: String,
    threads: Option<usize>,
    dir: String,
}

impl Args {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let mut args = Self { listen: "127.0.0.1:8080".into(), threads: None, dir: ".".into() };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("threads") => args.threads = Some(parser.value()?.parse()?),
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                Value(dir) => args.dir = dir.string()?,
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(args)
    }
}
