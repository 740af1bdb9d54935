//! The front around the application.

use std::time::Duration;

use tower::{Layer, ServiceBuilder};
use vestibule::{
    HttpService, Router,
    files::{self, DirBuilder, XAccelRedirectLayer},
    layer::{
        RequestBufferLayer, RequestDeadlineLayer, RescueLayer, ResponseBufferLayer,
        TrustedProxyLayer,
    },
    semantics::forwarded::ClientField,
    worker::{self, Processes, ProcessesBuilder, Python},
};

use crate::{args::Args, project::Project};

/// A request body has so many bytes at most: 64 MiB.
const MAX_BODY: u64 = 64 << 20;

/// Time of a request in the queue and in a worker.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a worker may take to end in development, where its work can be dropped.
const KILL_AFTER: Duration = Duration::from_secs(2);

/// Where the application says that a private file is: `X-Accel-Redirect: /private/a.pdf` is `a.pdf` in
/// `MEDIA_ROOT`.
const PRIVATE: &str = "/private";

/// The workers of the project, which are not yet started.
pub fn workers(project: &Project, args: &Args) -> ProcessesBuilder<Python> {
    let workers = if args.asgi { worker::asgi(&project.app) } else { worker::wsgi(&project.app) };
    let workers = workers.python(&project.python.path).directory(&project.dir);
    let workers =
        project.envs.iter().fold(workers, |workers, (name, value)| workers.env(name, value));
    let workers = workers.workers(args.workers).request_timeout(TIMEOUT);
    if args.reload { workers.stop_timeout(KILL_AFTER) } else { workers }
}

/// What a client talks to.
pub fn front(
    project: &Project,
    args: &Args,
    workers: Processes,
) -> impl HttpService<Future: Send + 'static> + Clone + Send + Sync + use<> {
    let app = match project.media() {
        // Frees the worker when it has said which file, and sends that as a static one.
        Some((_, root)) => {
            let private = XAccelRedirectLayer::new(files::dir(root)).prefix(PRIVATE);
            Router::new().fallback(private.layer(workers))
        }
        None => Router::new().fallback(workers),
    };
    let app = ServiceBuilder::new()
        // Outside of the workers: they are free when they have answered, however slow the client.
        .layer(ResponseBufferLayer::new())
        // They are given whole requests, however slow the client.
        .layer(RequestBufferLayer::new().max_body(MAX_BODY))
        // Inside of the buffer: the time that a client takes to send is not the application's.
        .layer(RequestDeadlineLayer::new(TIMEOUT))
        .service(app);

    let mut site = Router::new().fallback(app);
    if let Some((url, root)) = project.static_files() {
        site = site.nest(url.trim_end_matches('/'), DirBuilder::dir(root).precompressed().build());
    }
    if let Some((url, root)) = project.media().filter(|_| args.public_media) {
        site = site.nest(url.trim_end_matches('/'), files::dir(root));
    }

    // Forwarding fields are dropped unless the client is a trusted proxy.
    let mut proxies = TrustedProxyLayer::new(ClientField::XForwardedFor).x_forwarded_proto(true);
    for network in &args.trust {
        proxies = proxies.trust(*network);
    }
    if args.listen.starts_with("unix:") {
        proxies = proxies.trust_unix();
    }
    ServiceBuilder::new()
        .layer(proxies)
        // Everything below may fail; here each failure becomes a response.
        .layer(RescueLayer::new())
        .service(site)
}
