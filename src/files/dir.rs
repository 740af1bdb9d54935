//! `Dir`: the files of a folder or of another backend as a service, and its options.

use std::{
    ffi::OsStr,
    io::{self, ErrorKind},
    path::{self, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode};

use super::{
    backend::Backend,
    cache::{Cache, Limits, REVALIDATE},
    entry::Loaded,
    lookup_config::LookupConfig,
    root::{Root, Symlinks},
    single_flight::SingleFlight,
    watch::Watch,
};

/// The files below a folder as a service; made by [`dir`](super::dir), [`file`](super::file) and
/// [`backend`](super::backend()).
///
/// Always ready, and cheap to clone: clones share the open folder. It answers for itself, down
/// to 404 and 405; an error means that the fault is here. Must be called within a Tokio runtime.
///
/// ```
/// use http::{Request, StatusCode, header};
/// use tower::ServiceExt;
/// use vestibule::{Body, files};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("hello.txt"), "hello").unwrap();
///
/// let request = Request::get("/hello.txt").body(Body::empty()).unwrap();
/// let response = files::dir(folder.path()).oneshot(request).await.unwrap();
/// assert_eq!(response.status(), StatusCode::OK);
/// assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
/// assert_eq!(response.body().as_bytes().unwrap(), "hello");
/// # }
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
    /// Begun by the first look; nothing in it if the kernel has none for us.
    watch: OnceLock<Option<Watch>>,
}

impl Inner {
    /// Hears of changes on the way to `path` from now on, if they are to be heard of.
    ///
    /// # Errors
    /// `WouldBlock`: that is not so yet, and it has to be waited for.
    pub(super) fn follow(&self, root: &Root, path: &str, can_block: bool) -> io::Result<()> {
        if !self.options.watch || !self.cache.is_used() {
            return Ok(());
        }
        let begin = || match Watch::new(self.cache.clone()) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::debug!(%error, "changes of files are not heard of, but looked for");
                None
            }
        };
        let watch = if can_block { Some(self.watch.get_or_init(begin)) } else { self.watch.get() };
        match watch {
            Some(Some(watch)) if can_block => watch.follow(root, path),
            Some(Some(watch)) if !watch.follows(path) => return Err(ErrorKind::WouldBlock.into()),
            Some(_) => {}
            None => return Err(ErrorKind::WouldBlock.into()),
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) config: LookupConfig,
    symlinks: Symlinks,
    pub(super) inline_lookups: bool,
    watch: bool,
    revalidate: Duration,
    limits: Limits,
}

/// Where the files come from.
#[derive(Debug, Clone)]
pub(super) enum Storage {
    Folder(Arc<Root>),
    Other(Arc<dyn Backend>),
}

impl Storage {
    pub(super) fn backend(&self) -> &dyn Backend {
        match self {
            Self::Folder(root) => &**root,
            Self::Other(backend) => &**backend,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: LookupConfig::default(),
            symlinks: Symlinks::Inside,
            inline_lookups: true,
            watch: true,
            revalidate: REVALIDATE,
            limits: Limits::default(),
        }
    }
}

impl Dir {
    pub(super) fn new(path: PathBuf) -> Self {
        Self::build(Storage::Folder(Arc::new(Root::new(path))), Options::default())
    }

    pub(super) fn of_file(path: &path::Path) -> Self {
        let name = path.file_name().and_then(OsStr::to_str);
        if name.is_none() {
            tracing::warn!(path = %path.display(), "this names no file");
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let config = LookupConfig {
            single_file: Some(format!("/{}", name.unwrap_or(".").replace('%', "%25")).into()),
            indexes: Vec::new(),
            index_required: true,
            ..LookupConfig::default()
        };
        let options = Options { config, ..Options::default() };
        let root = Root::new(folder.unwrap_or_else(|| path::Path::new(".")).to_owned());
        Self::build(Storage::Folder(Arc::new(root)), options)
    }

    pub(super) fn from(backend: impl Backend) -> Self {
        Self::build(Storage::Other(Arc::new(backend)), Options::default())
    }

    /// The name of the file that a folder is answered with, `index.html` by default.
    #[must_use]
    pub fn index(self, name: impl Into<String>) -> Self {
        self.indexes([name])
    }

    /// Several names: a folder is answered with the first of them that is there.
    #[must_use]
    pub fn indexes(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        self.with(|options| options.config.indexes = names)
    }

    /// A Content-Type by the file's path below the folder, instead of the one by its extension; that
    /// one for `None`. As [`cache_policy`](Self::cache_policy).
    ///
    /// ```
    /// use http::HeaderValue;
    /// use vestibule::files;
    ///
    /// let site = files::dir("public").content_type(|path| {
    ///     path.ends_with(".txt").then(|| HeaderValue::from_static("text/plain; charset=iso-8859-1"))
    /// });
    /// ```
    #[must_use]
    pub fn content_type(
        self,
        policy: impl Fn(&str) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.config.content_type = Some(Arc::new(policy)))
    }

    /// A Cache-Control value for every file, as in `max-age=3600`. None by default.
    #[must_use]
    pub fn cache_control(self, value: HeaderValue) -> Self {
        self.cache_policy(move |_| Some(value.clone()))
    }

    /// A Cache-Control value by the file's path below the folder; none for `None`. It is asked when
    /// a file is looked at, not for each request.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use vestibule::files;
    ///
    /// let site = files::dir("public").cache_policy(|path| {
    ///     Some(HeaderValue::from_static(if files::is_hashed(path) {
    ///         "public, max-age=31536000, immutable" // another content has another name
    ///     } else {
    ///         "no-cache" // kept, and asked for each time
    ///     }))
    /// });
    /// ```
    #[must_use]
    pub fn cache_policy(
        self,
        policy: impl Fn(&str) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.config.cache_control = Some(Arc::new(policy)))
    }

    /// Serves `a.js.zst`, `a.js.br` or `a.js.gz` for `a.js` to those who accept it, unless it is
    /// more than a minute older than the file itself; and 406 to those who accept nothing that is
    /// there. Off by default.
    #[must_use]
    pub fn precompressed(self) -> Self {
        self.with(|options| options.config.precompressed = true)
    }

    /// Serves `about.html` for `/about` where there is nothing of that name, or a folder with nothing
    /// to be answered with. Off by default.
    #[must_use]
    pub fn html_extension(self) -> Self {
        self.with(|options| options.config.html_extension = true)
    }

    /// Lists a folder without an index file: as HTML, or as JSON to those whose Accept gives it more
    /// weight. Up to 10,000 names, folders first. Off by default.
    #[must_use]
    pub fn listing(self) -> Self {
        self.with(|options| options.config.listing = true)
    }

    /// Serves names that begin with a dot, too. Off by default, but for `/.well-known`.
    #[must_use]
    pub fn hidden(self) -> Self {
        self.with(|options| options.config.hidden = true)
    }

    /// Serves this file, with 200, for whatever names nothing: the page of an application that finds
    /// its own way. Instead of [`not_found`](Self::not_found).
    #[must_use]
    pub fn fallback(self, path: impl Into<String>) -> Self {
        self.with(|options| options.config.fallback_page = Some((path.into(), StatusCode::OK)))
    }

    /// Serves this file, with 404, for whatever names nothing. Instead of
    /// [`fallback`](Self::fallback).
    #[must_use]
    pub fn not_found(self, path: impl Into<String>) -> Self {
        let status = StatusCode::NOT_FOUND;
        self.with(|options| options.config.fallback_page = Some((path.into(), status)))
    }

    /// Which symbolic links of a folder are followed; [`Symlinks::Inside`] by default.
    #[must_use]
    pub fn symlinks(self, which: Symlinks) -> Self {
        self.with(|options| options.symlinks = which)
    }

    /// For how long a file that was looked at is served without looking again, a second by
    /// default. A file that is replaced, written to or removed is seen at the latest then: the next
    /// request looks, and those that come while it does get what was known, for as long again at
    /// most.
    ///
    /// Zero looks at the disk for every request: at two or three times the price of a request, or many
    /// times where [it has to be waited for](Self::inline_lookups), for folders whose changes must be seen at
    /// once.
    #[must_use]
    pub fn revalidate(self, after: Duration) -> Self {
        self.with(|options| options.revalidate = after)
    }

    /// Looks up paths on the connection's own thread if that cannot block, which costs a third of a
    /// lookup on another thread. On by default.
    ///
    /// It applies to small files in the page cache on a local disk under [`Symlinks::Inside`], and to
    /// [`Embedded`](super::Embedded) ones. The kernel refuses a lookup that would wait for the disk.
    /// It does wait for a virus scanner that checks each open (fanotify), so turn this off beside one.
    #[must_use]
    pub fn inline_lookups(self, on: bool) -> Self {
        self.with(|options| options.inline_lookups = on)
    }

    /// Lets the kernel tell of changes (inotify), so that they are seen within some hundredths of a
    /// second, not just when a file is looked at again. On by default, for folders.
    ///
    /// It takes a thread, from the first look on, and watches up to 1,024 folders. What it is not
    /// told of is seen by the next look: what other machines do on a network file system, and
    /// what changes behind a symbolic link. Where the kernel has no more watches for us, it does
    /// without.
    #[must_use]
    pub fn watch(self, on: bool) -> Self {
        self.with(|options| options.watch = on)
    }

    /// The most paths that are remembered, 1,024 by default. Zero remembers none.
    #[must_use]
    pub fn cache_entries(self, most: usize) -> Self {
        self.with(|options| options.limits.entries = most)
    }

    /// The most bytes of paths and contents held in memory, 16 MiB by default. Only files up to
    /// 32 KiB are held.
    #[must_use]
    pub fn cache_bytes(self, most: usize) -> Self {
        self.with(|options| options.limits.bytes = most)
    }

    /// The most files above 32 KiB that are held open, 256 by default. Beyond it files are opened
    /// when they are asked for.
    #[must_use]
    pub fn cache_open_files(self, most: usize) -> Self {
        self.with(|options| options.limits.open_files = most)
    }

    #[cfg(test)]
    pub(super) fn is_watched(&self) -> bool {
        self.0.watch.get().is_some()
    }

    /// Treats a folder without an index file as missing.
    pub(super) fn require_index(self) -> Self {
        self.with(|options| options.config.index_required = true)
    }

    /// What was remembered under other options is not taken along.
    fn with(self, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.0.options.clone();
        change(&mut options);
        Self::build(self.0.storage.clone(), options)
    }

    fn build(mut storage: Storage, options: Options) -> Self {
        if let Storage::Folder(root) = &mut storage
            && root.symlinks() != options.symlinks
        {
            *root = Arc::new(root.with_symlinks(options.symlinks));
        }
        let cache = Arc::new(Cache::new(options.limits, options.revalidate));
        let lookups = SingleFlight::default();
        Self(Arc::new(Inner { storage, options, cache, lookups, watch: OnceLock::new() }))
    }
}
