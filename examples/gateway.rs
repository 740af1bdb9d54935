//! NGINX and Gunicorn in one program: a web site, an application on worker threads, and an API balanced
//! over two servers.
//!
//! Run it with `cargo run --release --example gateway` and open the address that it prints.

#![allow(unreachable_pub, reason = "modules of a program")]

#[path = "gateway/api.rs"]
mod api;
#[path = "gateway/args.rs"]
mod args;
#[path = "gateway/guestbook.rs"]
mod guestbook;
#[path = "gateway/site.rs"]
mod site;

use std::time::Duration;

use args::Args;
use tower::{Layer, ServiceBuilder};
use vestibule::{Router, files, layer, net::Address, serve, upstream::Upstream, worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse()?;
    tracing_subscriber::fmt().with_target(false).with_writer(std::io::stderr).init();

    // The application tier: each thread has its own instance; all of them share the book.
    let book = guestbook::Book::default();
    let app = worker::threads(args.workers, move || {
        let mut guest_book = guestbook::GuestBook::new(book.clone());
        worker::blocking(move |request| guest_book.handle(&request))
    })
    .start()?;

    let site = args.site()?;

    // Two remote servers. In this example they are tasks of this process.
    let servers = [api::start("north").await?, api::start("south").await?];

    // One deadline for the queue and the worker together, or for a remote server.
    let timeout = layer::RequestDeadlineLayer::new(Duration::from_secs(30));

    let application = ServiceBuilder::new()
        // Outside of the workers: a worker is free once it has answered, even if the client reads slowly.
        .layer(layer::ResponseBufferLayer::new())
        // Workers receive complete requests, even if the client sends slowly.
        .layer(layer::RequestBufferLayer::new().max_body(64 << 10))
        // Inside of the request buffer: the deadline does not include the time in which the client sends.
        .layer(timeout)
        .service(app.clone());
    // The remote servers have the same deadline, which begins with the head of the request.
    let api = timeout.layer(Upstream::new(servers)?);

    let front = ServiceBuilder::new()
        // Turns the errors of all inner services into responses.
        .layer(layer::RescueLayer::new())
        .service(
            Router::new()
                .prefix("/guestbook", application)
                .prefix("/api", api)
                .fallback(files::dir(site.path())),
        );

    let server = serve(args.listen.as_str(), front)
        // Ctrl-C or SIGTERM begins a graceful shutdown; a second one ends the process at once.
        .shutdown(serve::shutdown_signal())
        .shutdown_timeout(Duration::from_secs(10));
    let server = args.with_threads(server).bind()?;
    match server.local_addr()? {
        at @ Address::Tcp(_) => {
            eprintln!("Open http://{at}/ in a browser. Ctrl-C stops the server.")
        }
        at @ Address::Unix(_) => eprintln!("Listening on {at}. Ctrl-C stops the server."),
    }
    server.await?;
    app.shutdown(Duration::from_secs(5)).await?;
    eprintln!("Workers: {:?}", app.stats());
    Ok(())
}
