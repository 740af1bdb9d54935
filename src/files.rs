//! A folder as a service.
//!
//! ```
//! # fn main() {
//! use http::HeaderValue;
//! use vestibule::files;
//!
//! let site = files::dir("public")
//!     .index("index.html")
//!     .cache_control(HeaderValue::from_static("max-age=60"));
//! # }
//! ```
//!
//! What a request gets:
//!
//! | request | answer |
//! |---|---|
//! | GET or HEAD of a file | 200; 206 and 416 for ranges, several as `multipart/byteranges`; 304 and 412 by its preconditions |
//! | a folder with a slash at the end | its index file, or 404 |
//! | a folder without the slash | 308 to the same with the slash, where a router has mounted one too |
//! | a file with a slash at the end, an empty segment (`//`) | 404 |
//! | a hidden name (`.git`), except `/.well-known` | 404 |
//! | what may not be read, leads out of the folder, or is neither file nor folder | 404 |
//! | a path that two readers may understand differently | 400 |
//! | another method | 405 |
//!
//! What else there can be, each by a method of [`Dir`]: files that were compressed beforehand, pages
//! without their extension, a page for what is not there or another service for it, listings of
//! folders, Cache-Control and Content-Type by name. [`file()`] serves one file for all paths.
//!
//! Files are opened strictly below the root: a symbolic link that leads out of it is a 404, unless
//! [`Symlinks`] says otherwise. Small files are kept in memory and large ones are kept open; the kernel
//! tells of changes ([`Dir::watch`]), and after a second they are looked at again anyway
//! ([`Dir::revalidate`]). Nothing here has a deadline: a local disk is expected. Do not serve a
//! network file system with it that may hang.

mod backend;
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

pub use backend::{Backend, Content, Found, Item, Source};
pub use dir::Dir;
pub use embedded::Embedded;
pub use lookup_config::is_hashed;
pub use root::Symlinks;
pub use service::{ResponseFuture, Unreadable};
pub use try_files::TryFiles;
pub use x_accel_redirect::{XAccelRedirect, XAccelRedirectLayer};

/// A service that answers GET and HEAD with the files below `path`.
///
/// The folder is opened now and kept: if `path` is renamed or is a symbolic link that is set to
/// another folder later on, the service stays with the folder that it has opened. If it cannot
/// be opened now, requests are errors until it can.
///
/// Responses carry Content-Type by the name's extension (text is said to be UTF-8),
/// `x-content-type-options: nosniff`, ETag (of size, time of change and inode), Last-Modified and
/// `accept-ranges: bytes`.
pub fn dir(path: impl Into<PathBuf>) -> Dir {
    Dir::new(path.into())
}

/// A service that answers GET and HEAD of any path with the one file at `path`, which is what a router
/// mounts at `/favicon.ico`. It has the options that a folder's has, and the same care: the folder that
/// the file is in is held, and `path` may be a link to what is in that folder only, unless
/// [`Symlinks`] says otherwise. While there is no such file it is a 404. The name must be UTF-8.
///
/// ```
/// use tower::ServiceExt;
/// use vestibule::{Body, Router, files};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("v2.txt"), "User-agent: *\n").unwrap();
/// let site = Router::new().route("/robots.txt", files::file(folder.path().join("v2.txt")));
///
/// let request = http::Request::get("/robots.txt").body(Body::empty()).unwrap();
/// let response = site.oneshot(request).await.unwrap();
/// assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
/// # }
/// ```
pub fn file(path: impl AsRef<Path>) -> Dir {
    Dir::of_file(path.as_ref())
}

/// A service that answers GET and HEAD with the files of a [`Backend`]: those that are
/// [part of the program](Embedded), say. It has all options that a folder's has.
pub fn backend(backend: impl Backend) -> Dir {
    Dir::from(backend)
}

#[cfg(test)]
mod tests;
