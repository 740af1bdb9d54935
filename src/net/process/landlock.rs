//! `FileAccess`: the files that a child process may access.

#![allow(unsafe_code, reason = "landlock(7) has no wrappers in libc or rustix")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    ptr,
};

/// The files that a child process may access, in addition to the check of their permissions (landlock(7)).
///
/// The process and its children cannot open, execute, create or remove files that are not beneath one of the paths.
/// Inherited descriptors and sockets are not affected. The paths must include the program, its libraries and its
/// interpreter.
///
/// The start fails if a path does not exist, and on a kernel without landlock, which needs Linux 5.13
/// ([`LandlockUnsupported`]), unless [`or_unrestricted`](Self::or_unrestricted) is set.
///
/// ```
/// use vestibule::net::process::{Command, FileAccess};
///
/// let access = FileAccess::new()
///     .read_only("/usr")
///     .read_only("/srv/mysite")
///     .read_write("/srv/mysite/media")
///     .read_write("/dev/null");
/// let command = Command::new("gunicorn").arg("mysite.wsgi").file_access(access);
/// # drop(command);
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "it is for Command::file_access"]
pub struct FileAccess {
    rules: Vec<Rule>,
    is_optional: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    path: PathBuf,
    is_writable: bool,
}

/// This kernel cannot restrict the files of a process: it is older than Linux 5.13, or landlock(7) is not
/// enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this kernel cannot restrict the files of a process (landlock): enable it, or choose \
     FileAccess::or_unrestricted"
)]
pub struct LandlockUnsupported;

impl FileAccess {
    /// Creates a restriction that allows no file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows reading and executing a file, or all files beneath a directory.
    pub fn read_only(self, path: impl AsRef<Path>) -> Self {
        self.rule(path.as_ref(), false)
    }

    /// Allows reading, executing, writing, creating and removing a file, or all files beneath a directory. Device
    /// files cannot be created.
    pub fn read_write(self, path: impl AsRef<Path>) -> Self {
        self.rule(path.as_ref(), true)
    }

    /// Starts the process without the restriction on a kernel without landlock. By default the start fails.
    pub fn or_unrestricted(mut self) -> Self {
        self.is_optional = true;
        self
    }

    fn rule(mut self, path: &Path, is_writable: bool) -> Self {
        self.rules.push(Rule { path: path.to_owned(), is_writable });
        self
    }

    /// Creates the kernel's object for it; `None` if the kernel has none and that is accepted.
    pub(super) fn ruleset(&self) -> io::Result<Option<Ruleset>> {
        self.ruleset_of(version())
    }

    /// As [`ruleset`](Self::ruleset), on a kernel that has this version of landlock.
    pub(super) fn ruleset_of(&self, version: Option<i64>) -> io::Result<Option<Ruleset>> {
        let Some(version) = version else {
            let unsupported = io::Error::new(io::ErrorKind::Unsupported, LandlockUnsupported);
            return if self.is_optional { Ok(None) } else { Err(unsupported) };
        };
        let handled = Rights::of_version(version);
        let ruleset = Ruleset::new(handled)?;
        for rule in &self.rules {
            ruleset.allow(rule, handled).map_err(|error| {
                let path = rule.path.display();
                let context = format!("cannot allow access to {path}: {error}");
                io::Error::new(error.kind(), context)
            })?;
        }
        Ok(Some(ruleset))
    }
}

/// Operations on files, as linux/landlock.h numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights(u64);

impl Rights {
    const EXECUTE: u64 = 1;
    const WRITE_FILE: u64 = 1 << 1;
    const READ_FILE: u64 = 1 << 2;
    const READ_DIR: u64 = 1 << 3;
    const MAKE_CHAR: u64 = 1 << 6;
    const MAKE_BLOCK: u64 = 1 << 11;
    /// Up to `MAKE_SYM`: the first version.
    const VERSION_1: u64 = (1 << 13) - 1;
    /// Since version 2: to link or rename from one directory to another.
    const REFER: u64 = 1 << 13;
    /// Since version 3.
    const TRUNCATE: u64 = 1 << 14;

    const READ: u64 = Self::EXECUTE | Self::READ_FILE | Self::READ_DIR;
    const WRITE: u64 =
        (Self::VERSION_1 & !(Self::MAKE_CHAR | Self::MAKE_BLOCK)) | Self::REFER | Self::TRUNCATE;
    /// The rights that apply to a file other than a directory.
    const OF_FILE: u64 = Self::EXECUTE | Self::READ_FILE | Self::WRITE_FILE | Self::TRUNCATE;

    /// Returns the rights that this version of landlock can restrict.
    fn of_version(version: i64) -> Self {
        let refer = if version >= 2 { Self::REFER } else { 0 };
        let truncate = if version >= 3 { Self::TRUNCATE } else { 0 };
        Self(Self::VERSION_1 | refer | truncate)
    }
}

/// `struct landlock_ruleset_attr` of the first version: a shorter one than the kernel's is allowed.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: i32 = 1;

/// Returns the kernel's version of landlock, from 1; `None` if it does not support landlock.
fn version() -> Option<i64> {
    let no_attr = ptr::null::<RulesetAttr>();
    // SAFETY: the call asks for the version only, for which it takes no attributes (landlock(7)).
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, no_attr, 0usize, CREATE_RULESET_VERSION)
    };
    (version >= 1).then_some(version)
}

/// The kernel's object of a [`FileAccess`].
#[derive(Debug)]
pub(super) struct Ruleset(OwnedFd);

impl Ruleset {
    fn new(handled: Rights) -> io::Result<Self> {
        let attr = RulesetAttr { handled_access_fs: handled.0 };
        // SAFETY: the attributes live during the call, which reads as many bytes as it is told.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const attr,
                size_of::<RulesetAttr>(),
                0u32,
            )
        };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just made this descriptor, and it has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn allow(&self, rule: &Rule, handled: Rights) -> io::Result<()> {
        let file: File =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&rule.path)?;
        let wanted = if rule.is_writable { Rights::WRITE } else { Rights::READ };
        let possible = if file.metadata()?.is_dir() { u64::MAX } else { Rights::OF_FILE };
        let attr = PathBeneathAttr {
            allowed_access: wanted & possible & handled.0,
            parent_fd: file.as_raw_fd(),
        };
        // SAFETY: the attributes live during the call, have the layout of the kernel's, and name a descriptor
        // that is open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.0.as_raw_fd(),
                RULE_PATH_BENEATH,
                &raw const attr,
                0u32,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The descriptor for [`restrict_self`], open as long as this value lives.
    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Restricts this thread and its children to a ruleset. The thread must have `no_new_privs` set, or be root.
/// Async-signal-safe.
pub(super) fn restrict_self(ruleset: RawFd) -> io::Result<()> {
    // SAFETY: the call takes numbers, and fails if the descriptor is no ruleset.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernel_restricts_more_rights() {
        assert_eq!(Rights::of_version(1), Rights(0x1fff));
        assert_eq!(Rights::of_version(2), Rights(0x3fff));
        assert_eq!(Rights::of_version(3), Rights(0x7fff));
        assert_eq!(Rights::of_version(9), Rights(0x7fff));
        assert_eq!(Rights::WRITE & (Rights::MAKE_CHAR | Rights::MAKE_BLOCK), 0);
        assert_eq!(Rights::WRITE & Rights::READ, Rights::READ);
    }
}
