//! `Dir`: the files of a directory or of another backend as a service.

use std::{
    io::{self, ErrorKind},
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::{
    backend::Backend, builder::Options, cache::Cache, entry::Loaded, root::Root,
    single_flight::SingleFlight, watch::DirectoryWatcher,
};

/// The files below a directory as a service; made by [`dir`](super::dir()), [`file`](super::file()),
/// [`backend`](super::backend()) and [`DirBuilder::build`](super::DirBuilder::build).
///
/// It is always ready and cheap to clone: clones share the open directory and the cache. It takes requests
/// with any body, which it drops unread. It answers every request itself, with a 404 or a 405 too; an
/// error is never the client's fault. It must be called within a Tokio runtime.
///
/// ```
/// use http::{Request, StatusCode, header};
/// use tower::ServiceExt;
/// use vestibule::{Body, files};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let directory = tempfile::tempdir().unwrap();
/// std::fs::write(directory.path().join("hello.txt"), "hello").unwrap();
///
/// let request = Request::get("/hello.txt").body(Body::empty()).unwrap();
/// let response = files::dir(directory.path()).oneshot(request).await.unwrap();
/// assert_eq!(response.status(), StatusCode::OK);
/// assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
/// assert_eq!(response.body().as_bytes().unwrap(), "hello");
/// # }
/// ```
///
/// It has no options of its own: a [`DirBuilder`](super::DirBuilder) has them, and cannot be cloned.
///
/// ```compile_fail
/// use vestibule::files;
///
/// let site = files::dir("public");
/// let other = site.clone().hidden(); // would serve the same directory by two caches
/// ```
#[derive(Debug, Clone)]
pub struct Dir(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) storage: Storage,
    pub(super) options: Options,
    pub(super) cache: Arc<Cache>,
    /// Blocking lookups in flight, marked with their start and with the count of changes then.
    pub(super) lookups: SingleFlight<Loaded, (Instant, u64)>,
    /// Set by the first lookup that may block; contains `None` if the watcher could not be started.
    watcher: OnceLock<Option<DirectoryWatcher>>,
}

/// Where the files are stored.
#[derive(Debug)]
pub(super) enum Storage {
    Directory(Root),
    Backend(Box<dyn Backend>),
}

impl Storage {
    pub(super) fn backend(&self) -> &dyn Backend {
        match self {
            Self::Directory(root) => root,
            Self::Backend(backend) => &**backend,
        }
    }
}

impl Dir {
    pub(super) fn new(storage: Storage, options: Options) -> Self {
        let cache = Arc::new(Cache::new(options.limits, options.revalidate));
        let lookups = SingleFlight::default();
        Self(Arc::new(Inner { storage, options, cache, lookups, watcher: OnceLock::new() }))
    }

    #[cfg(test)]
    pub(super) fn is_watched(&self) -> bool {
        self.0.watcher.get().is_some()
    }
}

impl Inner {
    /// Invalidates the whole cache, because the root is another directory now.
    pub(super) fn invalidate_all(&self) {
        match self.watcher.get() {
            Some(Some(watcher)) => watcher.reset(),
            _ => self.cache.invalidate(|_| true, false),
        }
    }

    /// Watches the directories of `path` from now on, unless watching is off.
    ///
    /// # Errors
    /// `WouldBlock` if they are not watched yet and `can_block` is `false`.
    pub(super) fn watch_path(&self, root: &Root, path: &str, can_block: bool) -> io::Result<()> {
        if !self.options.watch || !self.cache.is_enabled() {
            return Ok(());
        }
        let start = || match DirectoryWatcher::new(
            self.cache.clone(),
            self.options.watched_directories,
        ) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::debug!(%error, "cannot watch the directory; changes are seen by revalidation only");
                None
            }
        };
        let watcher =
            if can_block { Some(self.watcher.get_or_init(start)) } else { self.watcher.get() };
        match watcher {
            Some(Some(watcher)) if can_block => watcher.watch_path(root, path),
            Some(Some(watcher)) if !watcher.is_path_watched(path) => {
                return Err(ErrorKind::WouldBlock.into());
            }
            Some(_) => {}
            None => return Err(ErrorKind::WouldBlock.into()),
        }
        Ok(())
    }
}
