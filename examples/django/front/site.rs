//! The processes of the site, and the layers in front of them.

use std::{env, time::Duration};

use tower::{Layer, ServiceBuilder};
use vestibule::{
    HttpService, Router,
    files::{self, DirBuilder, XAccelRedirectLayer},
    layer::{
        RequestBufferLayer, RequestDeadlineLayer, RescueLayer, ResponseBufferLayer,
        TrustedProxyLayer,
    },
    semantics::forwarded::ClientField,
    worker::{self, Command, DaemonBuilder, Processes, ProcessesBuilder, Python, WorkerProcess},
};

use crate::{args::Args, project::Project};

/// Maximum size of a request body: 64 MiB.
const MAX_BODY: u64 = 64 << 20;

/// Maximum time of a request in the queue and in a worker.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Drain timeout of workers, and stop timeout of workers and daemons, in development, where requests in flight may be lost: code
/// that was replaced ends soon, and an endless response does not delay the next reload.
const DEVELOPMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Prefix of private files: `X-Accel-Redirect: /private/a.pdf` sends `a.pdf` of `MEDIA_ROOT`.
const PRIVATE: &str = "/private";

/// Returns the settings of the project's workers.
pub fn workers(project: &Project, args: &Args) -> ProcessesBuilder<Python> {
    let workers = if args.asgi { worker::asgi(&project.app) } else { worker::wsgi(&project.app) };
    let workers = workers.python(&project.python.path).directory(&project.dir);
    let workers =
        project.envs.iter().fold(workers, |workers, (name, value)| workers.env(name, value));
    let mut workers = workers.workers(args.workers).request_timeout(TIMEOUT);
    if let Some(requests) = args.refork_after {
        workers = workers.refork_after(requests);
    }
    if args.reload {
        workers = workers.drain_timeout(DEVELOPMENT_TIMEOUT).stop_timeout(DEVELOPMENT_TIMEOUT);
    }
    workers
}

/// Returns the settings of a daemon, which runs in the directory and the environment of the project.
pub fn daemon(project: &Project, args: &Args, command: &str) -> DaemonBuilder {
    // `exec` replaces the shell, so that the stop signal reaches the program itself.
    let shell = Command::new("/bin/sh").args(["-c", &format!("exec {command}")]);
    // Its output is logged line by line, as that of a terminal, and not when a buffer is full.
    let mut shell = shell.current_dir(&project.dir).env("PYTHONUNBUFFERED", "1");
    if let Some(bin) = project.python.programs() {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([bin].into_iter().chain(env::split_paths(&path)));
        shell = shell.env("PATH", path.unwrap_or_default());
    }
    for (name, value) in &project.envs {
        shell = shell.env(name, value);
    }
    let name = command.to_owned();
    let started =
        move |process: WorkerProcess| tracing::info!(pid = process.pid, "daemon started: {name}");
    let daemon = worker::daemon(shell).on_spawn(started);
    if args.reload { daemon.stop_timeout(DEVELOPMENT_TIMEOUT) } else { daemon }
}

/// Returns the service for clients: the workers, and the layers in front of them.
pub fn front(
    project: &Project,
    args: &Args,
    workers: Processes,
) -> impl HttpService<Future: Send + 'static> + Clone + Send + Sync + use<> {
    let app = match project.media() {
        // The worker is idle once it has named the file, which is sent like a static one.
        Some((_, root)) => {
            let private = XAccelRedirectLayer::new(files::dir(root)).prefix(PRIVATE);
            Router::new().fallback(private.layer(workers))
        }
        None => Router::new().fallback(workers),
    };
    let app = ServiceBuilder::new()
        // A worker is idle once it has answered, even if the client reads slowly.
        .layer(ResponseBufferLayer::new())
        // A worker gets complete requests, even if the client sends slowly.
        .layer(RequestBufferLayer::new().max_body(MAX_BODY))
        // Inside of the buffer, so that the time in which the client sends does not count.
        .layer(RequestDeadlineLayer::new(TIMEOUT))
        .service(app);

    let mut site = Router::new().fallback(app);
    if let Some((url, root)) = project.static_files() {
        site = site.nest(url.trim_end_matches('/'), DirBuilder::dir(root).precompressed().build());
    }
    if let Some((url, root)) = project.media().filter(|_| args.public_media) {
        site = site.nest(url.trim_end_matches('/'), files::dir(root));
    }

    // Forwarded fields are removed unless the client is a trusted proxy.
    let mut proxies = TrustedProxyLayer::new(ClientField::XForwardedFor).x_forwarded_proto(true);
    for network in &args.trust {
        proxies = proxies.trust(*network);
    }
    if args.listen.starts_with("unix:") {
        proxies = proxies.trust_unix();
    }
    ServiceBuilder::new()
        .layer(proxies)
        // Converts all errors of the services below to responses.
        .layer(RescueLayer::new())
        .service(site)
}
