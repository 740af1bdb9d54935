//! `Application`: the worker pool and the daemons of a site, which are started, reloaded and stopped together.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use vestibule::{
    Error,
    worker::{Daemon, Processes, STOP_TIMEOUT},
};

use crate::{args::Args, project::Project, site};

#[derive(Clone)]
pub struct Application {
    pub workers: Processes,
    daemons: Vec<Daemon>,
}

impl Application {
    /// Starts the workers, and then a daemon for each `--daemon`.
    pub fn start(project: &Project, args: &Args) -> Result<Self, Error> {
        let workers = site::workers(project, args).start()?;
        let start = |command: &String| site::daemon(project, args, command).start();
        let daemons = args.daemons.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { workers, daemons })
    }

    /// Replaces the workers, and then restarts the daemons. With new code that does not start, the old workers and
    /// the daemons continue.
    pub async fn reload(&self) -> Result<(), Error> {
        self.workers.reload().await?;
        for daemon in &self.daemons {
            daemon.restart();
        }
        Ok(())
    }

    /// Reloads at each SIGHUP.
    pub async fn reload_on_hangup(self) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        while hangup.recv().await.is_some() {
            match self.reload().await {
                Ok(()) => eprintln!("The site was reloaded."),
                // The log has the output of the new workers. The old ones continue.
                Err(error) => eprintln!("{error}"),
            }
        }
    }

    /// Stops the daemons, and the workers once they have finished their requests.
    pub async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        for daemon in &self.daemons {
            daemon.close();
        }
        let workers = self.workers.shutdown(within).await;
        for daemon in &self.daemons {
            // A daemon that ignores its stop signal is killed after `STOP_TIMEOUT`.
            daemon.shutdown(within + STOP_TIMEOUT).await?;
        }
        workers
    }
}
