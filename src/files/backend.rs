//! `Backend`: the source of a `Dir`'s files.

use std::{fmt, fs::File, io, ops::ControlFlow, sync::Arc, time::SystemTime};

use bytes::Bytes;

/// The source of the files of a [`Dir`](super::Dir): a [directory](super::dir), the program's own memory
/// ([`Embedded`](super::Embedded)), an archive, or an object store.
///
/// All methods but [`try_lookup_cached`](Self::try_lookup_cached) run on threads that may block. They
/// are called once for each path and [`revalidate`](super::DirBuilder::revalidate) interval, not for each
/// request.
///
/// Paths are relative to the root and have no leading slash: `a/b.txt`; `.` is the root itself. They
/// contain no empty segments and no `.` or `..`. A backend that opens files must check symbolic links
/// itself.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Looks up a path. May block.
    ///
    /// # Errors
    /// Failures that are not the path's fault, such as an I/O error. The request ends in an error of
    /// the kind `Internal` (500), or `Overloaded` (503) when descriptors or memory have run out.
    fn lookup(&self, path: &str) -> io::Result<Lookup>;

    /// Looks up a path without blocking: it is called on the thread of a connection.
    ///
    /// `None`, which is the default, makes the caller use [`lookup`](Self::lookup) instead. Return it
    /// for every error, too.
    fn try_lookup_cached(&self, path: &str) -> Option<Lookup> {
        let _ = path;
        None
    }

    /// Calls `each` for every item of a directory, in any order, until it returns `Break`. May block.
    ///
    /// The default lists nothing.
    ///
    /// # Errors
    /// As for [`lookup`](Self::lookup).
    fn list(&self, path: &str, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> io::Result<()> {
        let _ = (path, each);
        Ok(())
    }
}

/// The result of a lookup.
#[derive(Debug)]
pub enum Lookup {
    /// Nothing that can be served.
    Missing,
    /// A directory.
    Directory,
    /// A file.
    File(BackendFile),
}

/// A file of a backend.
#[derive(Debug, Clone)]
pub struct BackendFile {
    /// Its content.
    pub content: Content,
    /// The time of the last modification, if it is known.
    pub modified: Option<SystemTime>,
    /// A value that differs for every state of the file: the opaque part of a strong entity tag, so
    /// without quotes, spaces and control characters.
    pub tag: String,
}

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// The whole content in memory.
    Bytes(Bytes),
    /// An open file and its length in bytes; a server sends it without reading it.
    File(Arc<File>, u64),
}

impl Content {
    /// Returns the length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Returns whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An item of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name, of any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Its size in bytes.
    pub size: u64,
    /// The time of the last modification, if it is known.
    pub modified: Option<SystemTime>,
}

/// A backend together with the right to block.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    backend: &'a dyn Backend,
    can_block: bool,
}

impl<'a> View<'a> {
    /// Returns a view for a thread that may block.
    pub(super) fn blocking(backend: &'a dyn Backend) -> Self {
        Self { backend, can_block: true }
    }

    /// Returns a view for any thread: a lookup that would block is an error of the kind `WouldBlock`.
    pub(super) fn non_blocking(backend: &'a dyn Backend) -> Self {
        Self { backend, can_block: false }
    }

    pub(super) fn can_block(self) -> bool {
        self.can_block
    }

    pub(super) fn lookup(self, path: &str) -> io::Result<Lookup> {
        if self.can_block {
            return self.backend.lookup(path);
        }
        match self.backend.try_lookup_cached(path) {
            // The caller reads the start of an open file into the page cache, which blocks.
            None | Some(Lookup::File(BackendFile { content: Content::File(..), .. })) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Some(found) => Ok(found),
        }
    }

    pub(super) fn list(
        self,
        path: &str,
        each: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> io::Result<()> {
        if self.can_block {
            self.backend.list(path, each)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}
