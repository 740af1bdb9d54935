//! A PHP site without NGINX: php-fpm is started, supervised and reloaded by this program.
//!
//! `cargo run --release --example php` runs the guest book in `examples/php`; give another folder with an `index.php`
//! to run that. `kill -HUP` replaces php-fpm without losing a request.

use std::{path::PathBuf, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tower::{Layer, ServiceBuilder};
use vestibule::{
    Router,
    files::{self, XAccelRedirectLayer},
    layer, serve,
    worker::{self, Php},
};

const HELP: &str = "\
php [--listen ADDR] [--children N] [--user UID:GID] [--data DIR] [--log] [DIR]

  --listen ADDR    host:port or unix:/path (127.0.0.1:8080)
  --children N     processes of PHP (twice the number of cores)
  --user UID:GID   user and group of the scripts, needed if root starts this
  --data DIR       where the application keeps its data (examples/php/var)
  --log            logs a line for each request
  DIR              a folder with an index.php, and static files in its folder assets (examples/php/public)";

/// The application that comes with the example.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/php");

/// Maximum size of a request body: 16 MiB.
const MAX_BODY: u64 = 16 << 20;

// One thread: the scripts run in processes.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_target(false).with_writer(std::io::stderr).init();
    let args = Args::parse()?;
    let mut php = worker::php(&args.dir)
        .env("BOOK_DATA", args.data.display().to_string())
        .ini("upload_max_filesize", "8M")
        .ini("post_max_size", "16M")
        .recycle_after(10_000);
    if let Some(children) = args.children {
        php = php.children(children);
    }
    if let Some((uid, gid)) = args.user {
        php = php.user(uid, gid);
    }
    let php = php.start()?;
    #[allow(clippy::disallowed_methods, reason = "the task ends with the process")]
    tokio::spawn(reload_on_hangup(php.clone()));

    // A file that a script names in X-Accel-Redirect is sent from here, while its process is idle.
    let uploads = XAccelRedirectLayer::new(files::dir(args.data.join("files"))).prefix("/private");
    let app = ServiceBuilder::new()
        // PHP is idle after its response, even if the client reads slowly.
        .layer(layer::ResponseBufferLayer::new())
        // PHP receives complete requests, whose length is known.
        .layer(layer::RequestBufferLayer::new().max_body(MAX_BODY))
        .layer(layer::RequestDeadlineLayer::new(Duration::from_secs(30)))
        .service(uploads.layer(php.clone()));
    let front = ServiceBuilder::new().layer(layer::RescueLayer::new()).service(
        // A folder without scripts. The folder of the scripts must not be served, since that would show their source.
        Router::new().nest("/assets", files::dir(args.dir.join("assets"))).fallback(app),
    );
    let mut server = serve(args.listen.as_str(), front).shutdown(serve::shutdown_signal());
    if !args.log {
        server = server.without_access_log();
    }
    let server = server.bind()?;
    eprintln!("Open http://{}/ in a browser. Ctrl-C stops the server.", server.local_addr()?);
    server.await?;
    php.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

async fn reload_on_hangup(php: Php) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match php.reload().await {
            Ok(()) => eprintln!("PHP was replaced: {:?}", php.stats()),
            Err(error) => eprintln!("{error}"),
        }
    }
}

struct Args {
    listen: String,
    children: Option<usize>,
    user: Option<(u32, u32)>,
    data: PathBuf,
    log: bool,
    dir: PathBuf,
}

impl Args {
    fn parse() -> Result<Self, lexopt::Error> {
        use lexopt::prelude::*;
        let shipped = PathBuf::from(SHIPPED);
        let mut args = Self {
            listen: "127.0.0.1:8080".into(),
            children: None,
            user: None,
            data: shipped.join("var"),
            log: false,
            dir: shipped.join("public"),
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Long("listen") => args.listen = parser.value()?.string()?,
                Long("children") => args.children = Some(parser.value()?.parse()?),
                Long("user") => args.user = Some(parser.value()?.parse_with(user)?),
                Long("data") => args.data = parser.value()?.into(),
                Long("log") => args.log = true,
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    std::process::exit(0);
                }
                Value(dir) => args.dir = dir.into(),
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(args)
    }
}

/// `33:33`.
fn user(text: &str) -> Result<(u32, u32), String> {
    let ids = text.split_once(':').and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
    ids.ok_or_else(|| format!("'{text}' is not UID:GID"))
}
