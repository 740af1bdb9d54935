//! Three tiers: this front, an application, and its database, on one machine or on three.
//!
//! ```sh
//! cargo run --example three_tiers -- --listen 127.0.0.1:8080 --app 127.0.0.1:8000
//! # The application on two other machines, and its database behind this front, too:
//! cargo run --example three_tiers -- --listen 0.0.0.0:80 --app 10.0.0.2:8000 --app 10.0.0.3:8000 \
//!     --database-listen 10.0.0.1:6379 --database 10.0.0.4:6379 --database 10.0.0.5:6379
//! ```
//!
//! There the application is, for example, the guest book, with PostgreSQL as the database (on port 5432 instead of 6379):
//!
//! ```sh
//! DATABASE_URL=postgresql://site@10.0.0.1/site cargo run --example django -- --listen 10.0.0.2:8000
//! ```
//!
//! Only the addresses differ: an application on another machine is an endpoint like one on this machine.

#[path = "three_tiers/front.rs"]
#[allow(unreachable_pub, reason = "module of a program")]
mod front;

use front::Options;
use lexopt::prelude::*;
use vestibule::{BoxError, serve::shutdown_signal};

const HELP: &str = "\
three_tiers [--listen ADDR] --app SERVER [--app SERVER ...]
            [--database-listen ADDR --database SERVER [--database SERVER ...]]

  --listen ADDR            host:port or unix:/path (127.0.0.1:8080)
  --app SERVER             a server of the application, as of the example proxy; may be repeated
  --database-listen ADDR   where the application reaches its database
  --database SERVER        host:port or unix:/path of a database; may be repeated";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut options = Options {
        listen: "127.0.0.1:8080".to_owned(),
        apps: Vec::new(),
        database_listen: None,
        databases: Vec::new(),
    };
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Long("listen") => options.listen = args.value()?.string()?,
            Long("app") => options.apps.push(args.value()?.string()?),
            Long("database-listen") => options.database_listen = Some(args.value()?.string()?),
            Long("database") => options.databases.push(args.value()?.string()?),
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    front::run(options, shutdown_signal()).await
}
