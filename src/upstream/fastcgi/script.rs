//! `ScriptCheck`: finds the first existing script of those that a path may name.

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

/// How long a script that was found is assumed to exist: 1 s, as the files of a folder.
const VALIDITY: Duration = Duration::from_secs(1);

/// The maximum number of cached scripts. Few applications have as many scripts that are requested directly.
const MAX_CACHED: usize = 1024;

/// Looks up scripts below a root, on a blocking pool, and caches the existing ones.
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

    /// Returns whether the script is a file.
    async fn exists(&self, script: &Script) -> io::Result<bool> {
        let now = clock::now();
        let is_valid = |since: &Instant| now.saturating_duration_since(*since) < VALIDITY;
        if self.found().get(script.name()).is_some_and(is_valid) {
            return Ok(true);
        }
        let path = self.root.join(script.name().trim_start_matches('/'));
        let found = self.pool.call(move || is_file(&path)).await;
        let exists = found.map_err(io::Error::other)???;
        if exists {
            let mut found = self.found();
            if found.len() >= MAX_CACHED {
                found.retain(|_, since| is_valid(since));
            }
            if found.len() < MAX_CACHED {
                found.insert(script.name().to_owned(), now);
            }
        }
        Ok(exists)
    }

    fn found(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        // Nothing panics while the lock is held.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the first script that exists, or the first one if scripts are not checked.
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

/// Returns whether the path names a file. May block.
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
