//! Static files as a service.
//!
//! ```
//! # fn main() {
//! use http::HeaderValue;
//! use vestibule::files::{self, DirBuilder};
//!
//! let site = files::dir("public"); // with the default options
//! let site = DirBuilder::dir("public")
//!     .index("home.html")
//!     .cache_control(HeaderValue::from_static("max-age=60"))
//!     .build();
//! # drop(site);
//! # }
//! ```
//!
//! How a request is answered:
//!
//! | request | response |
//! |---|---|
//! | GET or HEAD of a file | 200; 206 and 416 for ranges, several as `multipart/byteranges`; 304 and 412 by its preconditions |
//! | a directory with a trailing slash | its index file, or 404 |
//! | a directory without the slash | 308 to the same path with the slash, also at the root of a nested service |
//! | a file with a trailing slash, an empty segment (`//`) | 404 |
//! | a hidden name (`.git`), except `/.well-known` | 404 |
//! | an unreadable file, a path that leads out of the directory, a special file | 404 |
//! | anything on a pseudo file system (`/proc`, `/sys`) | 404 |
//! | an ambiguous path | 400 |
//! | another method | 405 |
//!
//! A [`DirBuilder`] has all options: precompressed files, pages without their extension, a page for
//! missing files or [another service](DirBuilder::or) for them, listings of directories, Cache-Control and
//! Content-Type by name. [`file()`] serves one file for all paths, [`backend()`] serves files from
//! another source than a directory.
//!
//! Files are opened strictly below the root: a symbolic link that leads out of it is a 404, unless
//! [`Symlinks`] says otherwise. Small files are cached in memory, large ones are kept open. The kernel
//! reports changes ([`DirBuilder::watch`]), and a cached entry is revalidated after a second in any case
//! ([`DirBuilder::revalidate`]). While descriptors, memory or threads have run out a cached entry is served
//! for up to a minute, and any other path is an error of the kind
//! [`Overloaded`](crate::error::Kind::Overloaded) (503).
//!
//! The cache holds 4,096 paths, 16 MiB of content and 256 open files, and 4,096 directories are watched. Where
//! more are requested in turn throughput falls by about a half, since each request is a lookup:
//! [`DirBuilder::cache_entries`], [`cache_bytes`](DirBuilder::cache_bytes),
//! [`cache_open_files`](DirBuilder::cache_open_files) and [`watched_directories`](DirBuilder::watched_directories) raise
//! the bounds. No lookup has a deadline, since a local disk is expected: do not serve a
//! network file system that may hang.
//!
//! # Below layers of other crates
//!
//! A server sends a large file by `sendfile` if its body reaches it as a [`Body`](crate::Body), which the layers
//! of this crate preserve. Layers that wrap the body, such as tower-http's `TraceLayer`, `CompressionLayer` (when it
//! compresses nothing, too), `CatchPanicLayer` and `RequestBodyLimitLayer`, and an `axum::Router` around the
//! service make the server read the file in steps of 64 KiB, which costs more CPU; segments that are not in the
//! page cache are read by another thread first. [The guide](crate::guide) has a table of layers, and describes
//! axum's `nest_service`.

mod backend;
mod builder;
mod cache;
mod dir;
mod embedded;
mod entry;
mod escape;
mod listing;
mod lookup_config;
mod mime;
mod multipart;
mod respond;
mod root;
mod service;
mod single_flight;
mod try_files;
mod watch;
mod x_accel_redirect;

use std::path::{Path, PathBuf};

pub use backend::{Backend, BackendFile, Content, Item, Lookup};
pub use builder::DirBuilder;
pub use dir::Dir;
pub use embedded::Embedded;
pub use lookup_config::is_hashed;
pub use root::Symlinks;
pub use service::{LookupError, ResponseFuture};
pub use try_files::TryFiles;
pub use x_accel_redirect::{XAccelRedirect, XAccelRedirectLayer};

/// Serves GET and HEAD requests with the files below the directory `path`, with default options.
///
/// The directory is opened now and kept open: if it is renamed, or if `path` is a symbolic link that is later
/// set to another directory, the service keeps the directory that it has opened. If that directory is deleted, as by
/// `rm -rf dist && npm run build`, responses are 404 until there is a directory at `path` again, which is
/// then opened; symbolic links in `path` are followed then as they are at that time. If it cannot be opened
/// now, requests are errors until it can.
///
/// Responses carry Content-Type by the file's extension (text is declared as UTF-8),
/// `x-content-type-options: nosniff`, ETag (of size, modification time and inode), Last-Modified and
/// `accept-ranges: bytes`.
///
/// ```
/// use vestibule::{Router, files};
///
/// let site = Router::new().nest("/static", files::dir("public"));
/// # drop(site);
/// ```
pub fn dir(path: impl Into<PathBuf>) -> Dir {
    DirBuilder::dir(path).build()
}

/// Serves GET and HEAD requests of any path with the one file at `path`, with default options. For
/// example, a router has it for the route `/favicon.ico`.
///
/// The directory of the file is opened now and kept open. `path` may be a symbolic link to a file in the
/// same directory only, unless [`Symlinks`] says otherwise. While the file does not exist, responses are
/// 404. The file name must be UTF-8.
///
/// ```
/// use tower::ServiceExt;
/// use vestibule::{Body, Router, files};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let directory = tempfile::tempdir().unwrap();
/// std::fs::write(directory.path().join("v2.txt"), "User-agent: *\n").unwrap();
/// let site = Router::new().route("/robots.txt", files::file(directory.path().join("v2.txt")));
///
/// let request = http::Request::get("/robots.txt").body(Body::empty()).unwrap();
/// let response = site.oneshot(request).await.unwrap();
/// assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
/// # }
/// ```
pub fn file(path: impl AsRef<Path>) -> Dir {
    DirBuilder::file(path).build()
}

/// Serves GET and HEAD requests with the files of a [`Backend`], with default options; [`Embedded`] is
/// one, of files that are part of the program.
///
/// ```
/// use vestibule::files::{self, Embedded};
///
/// let site = files::backend(Embedded::from_iter([("index.html", "<h1>hello</h1>")]));
/// # drop(site);
/// ```
pub fn backend(backend: impl Backend) -> Dir {
    DirBuilder::backend(backend).build()
}

#[cfg(test)]
mod tests;
