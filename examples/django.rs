//! A Django site in one command, without nginx and Gunicorn: static files, private files, buffers for slow clients, and
//! the application's workers.
//!
//! `cargo run --release --example django` runs the guest book in `examples/django`, and
//! `cargo run --release --example django -- --listen 0.0.0.0:8000 /srv/mysite mysite.wsgi:application` your own.

#![allow(unreachable_pub, reason = "modules of a program")]

#[path = "django/front/application.rs"]
mod application;
#[path = "django/front/args.rs"]
mod args;
#[path = "django/front/check.rs"]
mod check;
#[path = "django/front/project.rs"]
mod project;
#[path = "django/front/python.rs"]
mod python;
#[path = "django/front/refresh.rs"]
mod refresh;
#[path = "django/front/reload.rs"]
mod reload;
#[path = "django/front/site.rs"]
mod site;

use std::{process::ExitCode, time::Duration};

use application::Application;
use args::Args;
use project::Project;
use tokio::sync::watch;
use vestibule::{
    HttpService,
    net::{Address, process::schedule_for_throughput},
    serve::{serve, shutdown_signal},
};

/// Shutdown timeout: the time that requests in flight may take when the program is stopped.
const SHUTDOWN: Duration = Duration::from_secs(10);

// One thread, unless there is `--threads`: the workers are processes.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_target(false).with_writer(std::io::stderr).init();
    let result = match Args::parse() {
        Ok(args) if args.check => return check::run(&args).await,
        Ok(args) => run(args).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    // The front and the workers share their cores, and most of the work is Django's.
    if let Err(error) = schedule_for_throughput() {
        tracing::warn!(%error, "cannot change the scheduling policy");
    }
    let mut project = Project::open(&args)?;
    let application = start(&mut project, &args).await?;
    let site = site::front(&project, &args, application.workers.clone());
    if args.reload {
        let (changed, changes) = watch::channel(0);
        reload::spawn(project, application.clone(), changed);
        listen(&args, refresh::refresh(site, changes)).await?;
    } else {
        #[allow(clippy::disallowed_methods, reason = "the task ends with the process")]
        tokio::spawn(application.clone().reload_on_hangup());
        listen(&args, site).await?;
    }
    application.shutdown(SHUTDOWN).await?;
    Ok(())
}

/// Prepares the project and starts its processes. With `--reload`, a failure is repaired by the change of a file.
async fn start(
    project: &mut Project,
    args: &Args,
) -> Result<Application, Box<dyn std::error::Error>> {
    loop {
        let files = reload::scan(&project.dir).await;
        let error = match try_start(project, args) {
            Err(error) if args.reload => error,
            result => return result,
        };
        eprintln!("{error}\nThe next change of a file starts the site. Ctrl-C ends this program.");
        reload::wait_change(&project.dir, &files).await;
    }
}

fn try_start(
    project: &mut Project,
    args: &Args,
) -> Result<Application, Box<dyn std::error::Error>> {
    project.prepare()?;
    Ok(Application::start(project, args)?)
}

async fn listen<S>(args: &Args, site: S) -> std::io::Result<()>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    // With --reload, each open page holds an event stream, which does not end.
    let grace = if args.reload { Duration::from_secs(1) } else { SHUTDOWN };
    // Ctrl-C or SIGTERM begins a graceful shutdown; a second one ends the process at once.
    let mut server =
        serve(args.listen.as_str(), site).shutdown(shutdown_signal()).shutdown_timeout(grace);
    if !args.log {
        server = server.without_access_log();
    }
    let server = match args.threads {
        None => server,
        Some(0) => server.thread_per_core(),
        Some(n) => server.runtime_threads(n),
    };
    let server = server.bind()?;
    match server.local_addr()? {
        at @ Address::Tcp(_) => {
            eprintln!("Open http://{at}/ in a browser. Ctrl-C stops the server.")
        }
        at @ Address::Unix(_) => eprintln!("Listening on {at}. Ctrl-C stops the server."),
    }
    server.await
}
