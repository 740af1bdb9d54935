//! `Backend`: where files come from.

use std::{fmt, fs::File, io, ops::ControlFlow, sync::Arc, time::SystemTime};

use bytes::Bytes;

/// Where the files of a [`Dir`](super::Dir) come from: a [folder](super::dir), a program's own memory
/// ([`Embedded`](super::Embedded)), or whatever you have.
///
/// Its methods are called on threads that may block, but for [`look_at_once`](Self::look_at_once), and
/// once for each path and time of [`Dir::revalidate`](super::Dir::revalidate), not for each request.
///
/// Paths are below the root, without a slash in front: `a/b.txt`; `.` is the root itself. They hold no
/// empty parts and no `.` or `..`, but a backend that opens files must see to links itself.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// What is at a path.
    ///
    /// # Errors
    /// Where the fault is ours, not the path's: the request is answered 500, or 503 when
    /// descriptors or memory have run out.
    fn look(&self, path: &str) -> io::Result<Found>;

    /// What is at a path, if that can be told without waiting for anything: it is asked on the thread of
    /// a connection. `None`, as it is unless there is a better answer, has [`look`](Self::look) asked,
    /// and so has every kind of trouble.
    fn look_at_once(&self, path: &str) -> Option<Found> {
        let _ = path;
        None
    }

    /// Tells `each` of what is in a folder, one after the other in any order, until it says `Break`:
    /// it knows how many it wants. Nothing, unless there is a better answer.
    ///
    /// # Errors
    /// As those of [`look`](Self::look).
    fn list(&self, path: &str, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> io::Result<()> {
        let _ = (path, each);
        Ok(())
    }
}

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// Nothing that may be served.
    Missing,
    /// A folder.
    Folder,
    /// A file.
    File(Source),
}

/// A file of a backend.
#[derive(Debug, Clone)]
pub struct Source {
    /// What is in it.
    pub content: Content,
    /// When it was last changed, if that is known.
    pub modified: Option<SystemTime>,
    /// What tells this state of the file from every other one, byte by byte: the inside of a strong
    /// entity tag, so without quotes, spaces and control characters.
    pub tag: String,
}

/// What is in a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// All of it.
    Bytes(Bytes),
    /// So many bytes of an open file, which a server sends without reading them.
    File(Arc<File>, u64),
}

impl Content {
    /// How long it is, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a folder has in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name, of any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Is it a folder?
    pub folder: bool,
    /// How large it is, in bytes.
    pub size: u64,
    /// When it was last changed, if that is known.
    pub modified: Option<SystemTime>,
}

/// A backend as it is seen by who may wait, or by who may not.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    backend: &'a dyn Backend,
    waits: bool,
}

impl<'a> View<'a> {
    /// For a thread that may block.
    pub(super) fn waiting(backend: &'a dyn Backend) -> Self {
        Self { backend, waits: true }
    }

    /// For any thread: what has to be waited for is an error of the kind `WouldBlock`.
    pub(super) fn at_once(backend: &'a dyn Backend) -> Self {
        Self { backend, waits: false }
    }

    pub(super) fn waits(self) -> bool {
        self.waits
    }

    pub(super) fn look(self, path: &str) -> io::Result<Found> {
        if self.waits {
            return self.backend.look(path);
        }
        match self.backend.look_at_once(path) {
            // Of an open file the beginning is read into memory next.
            None | Some(Found::File(Source { content: Content::File(..), .. })) => {
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
        if self.waits {
            self.backend.list(path, each)
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}
