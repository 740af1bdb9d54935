//! `Generations`: the instances of PHP, of which the one that became ready last gets requests.

use std::{
    fs,
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{PhpBuilder, connections::Connections};
use crate::{
    conn::fcgi::scripts::ScriptResolver, net::Address, semantics::cgi::Scripts,
    worker::executor::process::SocketUser,
};

/// An instance of PHP that accepts requests.
pub(super) struct Generation {
    /// The path of its socket, which identifies it.
    socket: PathBuf,
    pub(super) address: Address,
    /// Finds scripts in the folder to which the symbolic links pointed when this instance became ready.
    pub(super) resolver: Arc<ScriptResolver>,
    pub(super) connections: Arc<Connections>,
    /// Each request that uses this instance holds a receiver.
    in_use: watch::Sender<()>,
}

/// A guard that keeps a generation running.
#[derive(Debug)]
pub(super) struct InUse(#[allow(dead_code, reason = "it is counted")] watch::Receiver<()>);

#[cfg(test)]
impl InUse {
    /// The guard of no generation.
    pub(super) fn for_test() -> Self {
        Self(watch::channel(()).1)
    }
}

/// The current generation, and those that still have requests.
pub(super) struct Generations {
    dir: PathBuf,
    front_controller: Option<String>,
    variables: Vec<(String, String)>,
    processes: usize,
    keeps_connections: bool,
    current: watch::Sender<Option<Arc<Generation>>>,
    /// Those that are not stopped, the newest last.
    all: Mutex<Vec<Arc<Generation>>>,
}

impl Generations {
    /// Creates the set without an instance.
    ///
    /// # Errors
    /// The folder does not exist.
    pub(super) fn new(options: &PhpBuilder) -> io::Result<Arc<Self>> {
        let this = Self {
            dir: options.dir.clone(),
            front_controller: options.front_controller.clone(),
            variables: options.env.clone(),
            processes: options.children,
            // `pm = dynamic` takes a process with an idle connection for a busy one.
            keeps_connections: options.spare.is_none(),
            current: watch::Sender::new(None),
            all: Mutex::default(),
        };
        this.scripts()?;
        Ok(Arc::new(this))
    }

    /// Waits for an instance that accepts requests, other than `except`, to which a connection failed. It is not
    /// stopped before the guard is dropped.
    pub(super) async fn enter(&self, except: Option<&Arc<Generation>>) -> (Arc<Generation>, InUse) {
        let is_another = |current: &Option<Arc<Generation>>| {
            let is_except = |current: &Arc<_>| except.is_some_and(|e| Arc::ptr_eq(current, e));
            current.as_ref().is_some_and(|current| !is_except(current))
        };
        let mut current = self.current.subscribe();
        loop {
            // `wait_for` fails only without a sender, which this value contains.
            if let Ok(current) = current.wait_for(is_another).await
                && let Some(generation) = &*current
            {
                // The current generation cannot be replaced while `current` is borrowed, so `retire` waits for
                // this guard.
                return (generation.clone(), InUse(generation.in_use.subscribe()));
            }
        }
    }

    /// Returns the current instance, if there is one. It may be stopped at any time.
    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.current.borrow().clone()
    }

    #[cfg(test)]
    pub(super) fn instances(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Generation>>> {
        // Nothing panics while the lock is held.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scripts(&self) -> io::Result<Scripts> {
        let dir = fs::canonicalize(&self.dir).map_err(|error| {
            let context = format!("cannot find the folder {}: {error}", self.dir.display());
            io::Error::new(error.kind(), context)
        })?;
        let text = dir.to_str().ok_or_else(|| {
            let why = format!("the path of the folder {} is not UTF-8", dir.display());
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        let mut scripts = Scripts::new(text);
        if let Some(name) = &self.front_controller {
            scripts = scripts.front_controller(name);
        }
        let variables = self.variables.iter();
        Ok(variables.fold(scripts, |scripts, (name, value)| scripts.variable(name, value)))
    }
}

impl SocketUser for Generations {
    fn open(&self, socket: &Path) -> io::Result<()> {
        let scripts = self.scripts()?;
        let root = PathBuf::from(scripts.root());
        let generation = Arc::new(Generation {
            socket: socket.to_owned(),
            address: Address::Unix(socket.to_owned()),
            resolver: Arc::new(ScriptResolver::new(scripts, Some(root))),
            connections: Connections::new(self.processes, self.keeps_connections),
            in_use: watch::Sender::new(()),
        });
        let mut all = self.all();
        all.push(generation.clone());
        self.current.send_replace(Some(generation));
        Ok(())
    }

    fn retire(&self, socket: &Path) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut all = self.all();
        let at = all.iter().position(|generation| generation.socket == socket);
        let generation = at.map(|at| all.remove(at));
        self.current.send_if_modified(|current| {
            let is_retired = current.as_ref().is_some_and(|current| current.socket == socket);
            if is_retired {
                // One that was stopped at once after it was ready may have a predecessor that continues.
                *current = all.last().cloned();
            }
            is_retired
        });
        drop(all);
        Box::pin(async move {
            if let Some(generation) = generation {
                generation.connections.retire();
                generation.in_use.closed().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn instance_that_is_retired_at_once_leaves_its_predecessor_current() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::new(&crate::worker::php(dir.path())).unwrap();
        let current = || generations.current().map(|current| current.socket.clone());
        let [first, second] = ["first", "second"].map(PathBuf::from);
        generations.open(&first).unwrap();
        generations.open(&second).unwrap();
        generations.retire(&second).await;
        assert_eq!(current(), Some(first.clone()));
        generations.retire(&first).await;
        assert_eq!(current(), None);
    }
}
