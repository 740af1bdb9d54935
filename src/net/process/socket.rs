//! The private directory of the Unix sockets between this process and its children.

use std::{
    fs::Permissions,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// A directory that only its owner may enter, and that is removed with this value.
#[derive(Debug)]
pub(crate) struct SocketDir(TempDir);

impl SocketDir {
    /// Creates the directory, for sockets of this user and group.
    ///
    /// # Errors
    /// Those of mkdir(2) and chown(2).
    pub(crate) fn new((uid, gid): (Option<u32>, Option<u32>)) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let dir =
            builder.prefix("vestibule-").permissions(Permissions::from_mode(0o700)).tempdir()?;
        if uid.is_some() || gid.is_some() {
            chown(dir.path(), uid, gid)?;
        }
        Ok(Self(dir))
    }

    /// Returns the path of the directory.
    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path of a socket of this name.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Listens at `path`, in blocking mode, as programs expect of an inherited socket.
///
/// # Errors
/// Those of bind(2), with the path.
pub(crate) fn bind(path: &Path) -> io::Result<OwnedFd> {
    let listener = UnixListener::bind(path).map_err(|error| {
        let context = format!("cannot listen at unix:{}: {error}", path.display());
        io::Error::new(error.kind(), context)
    })?;
    Ok(listener.into())
}
