//! Opens paths below a root, by openat2(2) or by a walk, and decides which files may be served.

use std::{
    fs::{File, Metadata},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FsWord, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2},
    io::Errno,
};

use super::OPEN_DIR_PATH;

/// Pseudo file systems, by their numbers in statfs(2). The length of their files is not known beforehand,
/// some can be read once or never, and some expose processes: procfs, sysfs, cgroup v1 and v2, debugfs,
/// tracefs, securityfs, configfs, bpf, pstore, efivarfs, selinuxfs.
const PSEUDO_FILE_SYSTEMS: [FsWord; 12] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xcafe_4a11,
    0x6165_676c,
    0xde5e_81e4,
    0xf97c_ff8c,
];

/// Returns the metadata of a regular file or a directory; `NOENT` for devices, FIFOs, sockets and everything on
/// pseudo file systems.
pub(super) fn servable_metadata(file: &File) -> Result<Metadata, Errno> {
    let meta = file.metadata().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    let is_pseudo = || fstatfs(file).is_ok_and(|fs| PSEUDO_FILE_SYSTEMS.contains(&fs.f_type));
    if (meta.is_file() || meta.is_dir()) && !is_pseudo() { Ok(meta) } else { Err(Errno::NOENT) }
}

/// Opens `path` below `root` by openat2(2). Fails with `AGAIN` if a rename anywhere in the system may have
/// interfered.
pub(super) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
    openat2(root, path, flags, Mode::empty(), within)
}

/// Opens a path one name at a time and follows no link. If the last name is a link, `last` decides whether
/// the link itself is opened or the open fails.
pub(super) fn open_by_walk(
    root: BorrowedFd<'_>,
    path: &str,
    last: OFlags,
) -> Result<OwnedFd, Errno> {
    // The size of a request's head bounds the path and so the number of steps.
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let (name, below) = rest.split_once('/').map_or((rest, None), |(n, b)| (n, Some(b)));
        if matches!(name, "" | "." | "..") {
            return Err(Errno::NOENT);
        }
        let at = held.as_ref().map_or(root, AsFd::as_fd);
        let flags = if below.is_some() { OPEN_DIR_PATH } else { last };
        let next = openat(at, name, flags.union(OFlags::NOFOLLOW), Mode::empty())?;
        let Some(below) = below else { return Ok(next) };
        held = Some(next);
        rest = below;
    }
}

/// Returns whether the error means that the path names nothing that may be served.
///
/// Unreadable files count as absent, so that a response does not reveal which names exist.
pub(super) fn is_absence(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP           // a symbolic link that must not be followed, or too many
            | Errno::XDEV           // a symbolic link that leads out of the root
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NAMETOOLONG
            | Errno::INVAL          // a NUL in the name
            | Errno::NXIO           // a socket, or a device without its driver
            | Errno::NODEV
    )
}
