//! `ScriptResolver`: which script a request is for, and with which variables.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode, header};

use crate::{
    Body, Request, Response,
    error::{Error, Kind},
    net::{blocking_pool::BlockingPool, clock},
    peer::Peer,
    proto::fcgi::{Misuse, Params},
    semantics::cgi::{Script, Scripts},
};

/// Time for which a script that was found is assumed to exist: 1 s, as for the files of a folder.
const VALIDITY: Duration = Duration::from_secs(1);

/// Memory for the variables of a request: 1.5 KiB, enough for those of a browser without large cookies.
const VARIABLES_LEN: usize = 1536;

/// The maximum number of cached scripts. Few applications have as many scripts that are requested directly.
const MAX_CACHED: usize = 1024;

/// Finds the script of a request, and makes the variables of both.
#[derive(Debug)]
pub(crate) struct ScriptResolver {
    scripts: Scripts,
    /// `None` if the scripts are not on this machine.
    check: Option<ScriptCheck>,
}

impl ScriptResolver {
    /// A resolver of scripts that must exist below `local_root`, if that is known.
    pub(crate) fn new(scripts: Scripts, local_root: Option<PathBuf>) -> Self {
        Self { scripts, check: local_root.map(ScriptCheck::new) }
    }

    /// Returns the scripts.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for the client of FastCGI"))]
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// Returns the first script that exists, or the first one if scripts are not checked.
    ///
    /// # Errors
    /// [`Kind::BadRequest`] for a path that can name no script, and [`Kind::Internal`] if that cannot be found out.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Script>, Error> {
        let candidates = self.scripts.candidates(path);
        for script in candidates.map_err(|error| Error::new(Kind::BadRequest, error))? {
            match &self.check {
                Some(check) => {
                    let exists = check.exists(&script).await;
                    if exists.map_err(|error| Error::new(Kind::Internal, error))? {
                        return Ok(Some(script));
                    }
                }
                None => return Ok(Some(script)),
            }
        }
        Ok(None)
    }

    /// Returns the variables of a request to a script.
    ///
    /// # Errors
    /// [`Kind::Internal`] for a body of unknown length and variables that are too long, and
    /// [`Kind::BadRequest`] for a request that has none.
    pub(crate) fn params(&self, script: &Script, request: &Request) -> Result<Params, Error> {
        let Some(length) = request.body().len() else {
            return Err(Error::new(Kind::Internal, Misuse::UnknownLength));
        };
        let memory = Peer::memory();
        let peer = request.extensions().get().unwrap_or(&memory);
        let (mut params, mut too_long) = (Params::with_capacity(VARIABLES_LEN), None);
        let push = |name: &str, value: &[u8]| {
            too_long = params.push(name.as_bytes(), value).err().or(too_long);
        };
        let variables = self.scripts.variables(script, request, length, peer, push);
        variables.map_err(|error| Error::new(Kind::BadRequest, error))?;
        match too_long {
            Some(misuse) => Err(Error::new(Kind::Internal, misuse)),
            None => Ok(params),
        }
    }
}

/// Returns the response to a path without a script.
pub(crate) fn not_found() -> Response {
    let mut response = Response::new(Body::from("404 Not Found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Looks up scripts below a root, on a blocking pool, and caches the existing ones.
#[derive(Debug)]
struct ScriptCheck {
    root: PathBuf,
    found: Mutex<HashMap<String, Instant>>,
    pool: BlockingPool,
}

impl ScriptCheck {
    fn new(root: PathBuf) -> Self {
        Self { root, found: Mutex::default(), pool: BlockingPool::default() }
    }

    /// Returns whether the script is a file.
    async fn exists(&self, script: &Script) -> io::Result<bool> {
        let now = clock::now();
        let is_valid = |since: &Instant| now.saturating_duration_since(*since) < VALIDITY;
        if self.found().get(script.name()).is_some_and(is_valid) {
            return Ok(true);
        }
        let (root, name) = (self.root.clone(), script.name().trim_start_matches('/').to_owned());
        let found = self.pool.call(move || is_file_below(&root, &name)).await;
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

    fn found(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // Nothing panics while the lock is held.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether `name` is a file that lies below `root` when symbolic links are resolved. May block.
fn is_file_below(root: &Path, name: &str) -> io::Result<bool> {
    let path = root.join(name);
    let real = fs::canonicalize(&path).and_then(|real| Ok((fs::canonicalize(root)?, real)));
    match real.and_then(|(root, real)| Ok(real.starts_with(root) && fs::metadata(real)?.is_file()))
    {
        Ok(is_file) => Ok(is_file),
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
