//! Which of the scripts that a path may name exists.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Shared;
use crate::{
    net::{blocking_pool::BlockingPool, clock},
    semantics::cgi::Script,
};

/// How long a script that was found counts as there: a second, as a folder's files do.
const FRESH: Duration = Duration::from_secs(1);

/// Scripts that are remembered. An application seldom has as many that are asked for by name.
const REMEMBERED: usize = 1024;

/// Looks scripts up below a root, on threads that may block, and remembers those that it has found.
#[derive(Debug)]
pub(super) struct ScriptCheck {
    root: PathBuf,
    found: Mutex<HashMap<String, Instant>>,
    pool: BlockingPool,
}

impl ScriptCheck {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, found: Mutex::default(), pool: BlockingPool::default() }
    }

    /// Whether the script is a file.
    async fn exists(&self, script: &Script) -> io::Result<bool> {
        let now = clock::now();
        let is_fresh = |since: &Instant| now.saturating_duration_since(*since) < FRESH;
        if self.found().get(script.name()).is_some_and(is_fresh) {
            return Ok(true);
        }
        let path = self.root.join(script.name().trim_start_matches('/'));
        let found = self.pool.call(move || is_file(&path)).await;
        let exists = found.map_err(io::Error::other)???;
        if exists {
            let mut found = self.found();
            if found.len() >= REMEMBERED {
                found.retain(|_, since| is_fresh(since));
            }
            if found.len() < REMEMBERED {
                found.insert(script.name().to_owned(), now);
            }
        }
        Ok(exists)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        // Nothing panics while it is held.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of the scripts that exists, or the first of all where that is not known.
pub(super) async fn find_script(
    shared: Arc<Shared>,
    candidates: Vec<Script>,
) -> io::Result<Option<Script>> {
    for script in candidates {
        match &shared.check {
            Some(check) if !check.exists(&script).await? => {}
            _ => return Ok(Some(script)),
        }
    }
    Ok(None)
}

/// Whether the path names a file. May block.
fn is_file(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.is_file()),
        Err(e) if is_absence(&e) => Ok(false),
        Err(e) => {
            let why = format!("cannot look for the script {}: {e}", path.display());
            Err(io::Error::new(e.kind(), why))
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename)
}
