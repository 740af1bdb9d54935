//! `DirBuilder`: the options of a `Dir`.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, StatusCode};
use rustix::fs::{CWD, Mode, openat};

use super::{
    backend::Backend,
    cache::{Limits, REVALIDATE_INTERVAL},
    dir::{Dir, Storage},
    lookup_config::LookupConfig,
    root::{OPEN_DIR_PATH, Root, Symlinks, cannot_open},
    try_files::TryFiles,
    watch::MAX_WATCHED_DIRECTORIES,
};
use crate::HttpService;

/// Options of a [`Dir`]. [`build`](Self::build) makes the service.
///
/// The options commute: their order makes no difference. Three pairs set the same option, of which
/// the last call counts: [`index`](Self::index) and [`indexes`](Self::indexes),
/// [`cache_control`](Self::cache_control) and [`cache_policy`](Self::cache_policy),
/// [`fallback_page`](Self::fallback_page) and [`not_found_page`](Self::not_found_page).
///
/// ```
/// # fn main() {
/// use http::HeaderValue;
/// use vestibule::files::DirBuilder;
///
/// let site = DirBuilder::dir("public")
///     .precompressed()
///     .cache_control(HeaderValue::from_static("max-age=60"))
///     .build();
/// # drop(site);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing before `build`"]
pub struct DirBuilder {
    origin: Origin,
    options: Options,
}

/// The files that are served; a directory is opened by [`DirBuilder::build`].
#[derive(Debug)]
enum Origin {
    Directory(PathBuf),
    Backend(Box<dyn Backend>),
}

#[derive(Debug)]
pub(super) struct Options {
    pub(super) config: LookupConfig,
    pub(super) symlinks: Symlinks,
    pub(super) inline_lookups: bool,
    pub(super) watch: bool,
    pub(super) watched_directories: usize,
    pub(super) revalidate: Duration,
    pub(super) limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: LookupConfig::default(),
            symlinks: Symlinks::Inside,
            inline_lookups: true,
            watch: true,
            watched_directories: MAX_WATCHED_DIRECTORIES,
            revalidate: REVALIDATE_INTERVAL,
            limits: Limits::default(),
        }
    }
}

impl DirBuilder {
    /// Serves the files below the directory `path`; see [`dir`](super::dir()).
    pub fn dir(path: impl Into<PathBuf>) -> Self {
        Self { origin: Origin::Directory(path.into()), options: Options::default() }
    }

    /// Serves the file `path` for every request path; see [`file`](super::file()).
    pub fn file(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let name = path.file_name().and_then(OsStr::to_str);
        if name.is_none() {
            tracing::warn!(path = %path.display(), "the path has no file name in UTF-8");
        }
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        let config = LookupConfig {
            single_file: Some(format!("/{}", name.unwrap_or(".").replace('%', "%25")).into()),
            indexes: Vec::new(),
            index_required: true,
            ..LookupConfig::default()
        };
        let directory = directory.unwrap_or_else(|| Path::new(".")).to_owned();
        let options = Options { config, ..Options::default() };
        Self { origin: Origin::Directory(directory), options }
    }

    /// Serves the files of `backend`; see [`backend`](super::backend()).
    pub fn backend(backend: impl Backend) -> Self {
        Self { origin: Origin::Backend(Box::new(backend)), options: Options::default() }
    }

    /// Makes the service, and opens its directory.
    ///
    /// If the directory cannot be opened yet, this logs a warning. Requests are errors until it can. See
    /// [`try_build`](Self::try_build) to get an error instead.
    ///
    /// ```
    /// let site = vestibule::files::DirBuilder::dir("public").listing().build();
    /// # drop(site);
    /// ```
    pub fn build(self) -> Dir {
        let Self { origin, options } = self;
        let storage = match origin {
            Origin::Directory(path) => Storage::Directory(Root::new(path, options.symlinks)),
            Origin::Backend(backend) => Storage::Backend(backend),
        };
        Dir::new(storage, options)
    }

    /// Makes the service as [`build`](Self::build) does, but fails if the directory cannot be opened.
    ///
    /// # Errors
    /// The error of opening the directory, with its path.
    pub fn try_build(self) -> io::Result<Dir> {
        if let Origin::Directory(path) = &self.origin {
            openat(CWD, path, OPEN_DIR_PATH, Mode::empty())
                .map_err(|errno| cannot_open(path, &errno.into()))?;
        }
        Ok(self.build())
    }

    /// Makes a service that sends to `service` every request that names no file: nginx's
    /// `try_files $uri $uri/ @application`.
    ///
    /// These are requests of other methods than GET and HEAD, and paths without a file, an index file
    /// or a listing. With a [`fallback_page`](Self::fallback_page) or
    /// [`not_found_page`](Self::not_found_page) every GET and HEAD is answered from the files. A path
    /// without a normal form (`/a/..%2fb`) is a 400.
    ///
    /// A request for a file never waits for `service`. `service` is cloned for each other request, and
    /// its readiness is awaited inside the response's future, until the request's [`Deadline`](crate::peer::Deadline).
    ///
    /// ```
    /// use tower::{ServiceExt, service_fn};
    /// use vestibule::{Body, BoxError, Request, Response, files::{DirBuilder, Embedded}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let app = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::from("app"))));
    /// let files = Embedded::from_iter([("a.css", "body {}")]);
    /// let site = DirBuilder::backend(files).or(app);
    ///
    /// let get = |path| site.clone().oneshot(http::Request::get(path).body(Body::empty()).unwrap());
    /// assert_eq!(get("/a.css").await.unwrap().body().as_bytes().unwrap(), "body {}");
    /// assert_eq!(get("/orders").await.unwrap().body().as_bytes().unwrap(), "app");
    /// # }
    /// ```
    pub fn or<S>(mut self, service: S) -> TryFiles<S>
    where
        S: HttpService + Clone,
    {
        self.options.config.index_required = true;
        TryFiles::new(self.build(), service)
    }
}

/// Options.
impl DirBuilder {
    /// Sets the name of the index file of a directory. Defaults to `index.html`.
    pub fn index(self, name: impl Into<String>) -> Self {
        self.indexes([name])
    }

    /// Sets the names of index files. The first one that exists is served for its directory.
    pub fn indexes(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.config.indexes = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the Content-Type by the file's path below the directory. `None` leaves the one that is guessed
    /// from the extension. Called once for each lookup, not for each request.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use vestibule::files::DirBuilder;
    ///
    /// let site = DirBuilder::dir("public").content_type(|path| {
    ///     path.ends_with(".txt").then(|| HeaderValue::from_static("text/plain; charset=iso-8859-1"))
    /// });
    /// # drop(site);
    /// ```
    pub fn content_type(
        mut self,
        policy: impl Fn(&str) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.options.config.content_type = Some(Box::new(policy));
        self
    }

    /// Sets Cache-Control for every file, for example `max-age=3600`. None by default.
    pub fn cache_control(self, value: HeaderValue) -> Self {
        self.cache_policy(move |_| Some(value.clone()))
    }

    /// Sets Cache-Control by the file's path below the directory. `None` sends none. Called once for each
    /// lookup, not for each request.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use vestibule::files::{self, DirBuilder};
    ///
    /// let site = DirBuilder::dir("public").cache_policy(|path| {
    ///     Some(HeaderValue::from_static(if files::is_hashed(path) {
    ///         "public, max-age=31536000, immutable" // other content has another name
    ///     } else {
    ///         "no-cache" // stored, and revalidated on each use
    ///     }))
    /// });
    /// # drop(site);
    /// ```
    pub fn cache_policy(
        mut self,
        policy: impl Fn(&str) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.options.config.cache_control = Some(Box::new(policy));
        self
    }

    /// Serves `a.js.zst`, `a.js.br` or `a.js.gz` for `a.js` to clients that accept it, unless it is more
    /// than a minute older than the file itself. A client that accepts no variant gets a 406. Off by default.
    pub fn precompressed(mut self) -> Self {
        self.options.config.precompressed = true;
        self
    }

    /// Serves `about.html` for `/about` if there is no such file, and no directory with an index file or a
    /// listing. Off by default.
    pub fn html_extension(mut self) -> Self {
        self.options.config.html_extension = true;
        self
    }

    /// Lists a directory without an index file: as JSON if Accept prefers it to HTML, otherwise as HTML. Up
    /// to 10,000 names, directories first. Off by default.
    pub fn listing(mut self) -> Self {
        self.options.config.listing = true;
        self
    }

    /// Serves names that begin with a dot. Off by default, except for `/.well-known`.
    pub fn hidden(mut self) -> Self {
        self.options.config.hidden = true;
        self
    }

    /// Treats files whose name ends in `suffix`, in any case, as missing, also in listings: for a directory in which scripts
    /// lie beside static files. With [`or`](Self::or), another service runs them. The copies of an editor, such as
    /// `config.php~`, need suffixes of their own: each call adds one. An empty one has no effect. By default there is none.
    ///
    /// ```
    /// use vestibule::files::{DirBuilder, Embedded};
    ///
    /// let files = DirBuilder::backend(Embedded::from_iter([("a.css", ""), ("config.php", "<?php")]));
    /// let site = files.exclude_suffix(".php").exclude_suffix("~").build();
    /// # drop(site);
    /// ```
    pub fn exclude_suffix(mut self, suffix: impl Into<String>) -> Self {
        let suffix = Some(suffix.into()).filter(|suffix| !suffix.is_empty());
        self.options.config.excluded_suffixes.extend(suffix);
        self
    }

    /// Serves this file with the status 200 for every missing path: the page of a single-page application.
    /// `path` is below the directory, as in `"index.html"`; while there is no such file, responses are 404.
    /// Replaces a [`not_found_page`](Self::not_found_page).
    pub fn fallback_page(mut self, path: impl Into<String>) -> Self {
        self.options.config.fallback_page = Some((path.into(), StatusCode::OK));
        self
    }

    /// Serves this file with the status 404 for every missing path. `path` is below the directory, as in
    /// `"404.html"`. Replaces a [`fallback_page`](Self::fallback_page).
    pub fn not_found_page(mut self, path: impl Into<String>) -> Self {
        self.options.config.fallback_page = Some((path.into(), StatusCode::NOT_FOUND));
        self
    }

    /// Sets which symbolic links below a directory are followed. Defaults to [`Symlinks::Inside`].
    pub fn symlinks(mut self, which: Symlinks) -> Self {
        self.options.symlinks = which;
        self
    }

    /// Sets how long the result of a lookup is fresh. Defaults to one second.
    ///
    /// The first request after that looks the path up again. Requests that arrive meanwhile get the
    /// stale entry, for as long again at most.
    ///
    /// Zero looks up the path on each request. That costs two or three times as much as a cached
    /// response, and far more where a lookup [may block](Self::inline_lookups).
    pub fn revalidate(mut self, after: Duration) -> Self {
        self.options.revalidate = after;
        self
    }

    /// Looks up paths on the connection's own thread if that cannot block, which costs a third of a
    /// lookup on another thread. On by default.
    ///
    /// It applies to small files in the page cache on a local disk under [`Symlinks::Inside`], and to
    /// [`Embedded`](super::Embedded) ones. The kernel refuses a lookup that would wait for the disk.
    /// It does wait for a virus scanner that checks each open (fanotify), so turn this off beside one.
    pub fn inline_lookups(mut self, on: bool) -> Self {
        self.options.inline_lookups = on;
        self
    }

    /// Watches the directories by inotify, so that a change is seen within some hundredths of a second, not
    /// only after [`revalidate`](Self::revalidate). On by default, for directories.
    ///
    /// It takes a thread from the first lookup on. It does not report changes that another machine makes on
    /// a network file system, changes behind a symbolic link, and changes in directories beyond
    /// [`watched_directories`](Self::watched_directories): the next lookup sees these. If the kernel's limit of
    /// inotify instances is reached, no directory is watched.
    pub fn watch(mut self, on: bool) -> Self {
        self.options.watch = on;
        self
    }

    /// Sets the maximum number of [watched](Self::watch) directories. Defaults to 4,096. The first directories with a
    /// lookup are watched. Each takes about 1.5 KiB of kernel memory and one of
    /// `fs.inotify.max_user_watches`, which all programs of a user share.
    pub fn watched_directories(mut self, max: usize) -> Self {
        self.options.watched_directories = max;
        self
    }

    /// Sets the maximum number of paths in the cache. Defaults to 4,096. Zero turns the cache off.
    ///
    /// A path enters a full cache at its second request, if that is not long after the first: a client that requests
    /// every file once evicts none of those that others request.
    ///
    /// An entry takes about 1 KiB, beside the content of a small file. Where more paths than this are
    /// requested in turn, each request is a lookup, which costs two or three times as much as a cached
    /// response: then raise it.
    pub fn cache_entries(mut self, max: usize) -> Self {
        self.options.limits.entries = max;
        self
    }

    /// Sets the maximum size of the cache in bytes of paths and content. Defaults to 16 MiB. Zero caches nothing. Only
    /// files of up to 32 KiB are held in memory.
    pub fn cache_bytes(mut self, max: usize) -> Self {
        self.options.limits.bytes = max;
        self
    }

    /// Sets the maximum number of files above 32 KiB that the cache keeps open. Defaults to 256. Other files
    /// are opened on each request.
    pub fn cache_open_files(mut self, max: usize) -> Self {
        self.options.limits.open_files = max;
        self
    }
}
