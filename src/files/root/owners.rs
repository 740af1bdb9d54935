//! Path resolution that follows a symbolic link only to a target with the same owner.
//!
//! The kernel follows a chain of links without reporting the owners of the links in it. So each link is
//! opened with `O_PATH`, and its owner and target are read by that descriptor: by its name it could be
//! one link when its owner is checked and another one when it is followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat},
    io::Errno,
};

use super::OPEN_DIR_PATH;

/// Maximum number of links in one path, 40 as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Flags that open a symbolic link itself.
const OPEN_LINK_PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name that is still to be resolved.
struct Step {
    name: Vec<u8>,
    /// The required owner of what has this name, also if that is a link: the owner of the link whose
    /// target ends in this name.
    owner: Option<u32>,
}

/// Opens a path, following only links that have the same owner as their target.
pub(super) fn open_by_owner(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    // `..` and `.` are allowed in links, not in requests.
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(Errno::NOENT);
    }
    // A stack: the next name is the last element.
    let mut steps: Vec<Step> =
        path.rsplit('/').map(|name| Step { name: name.into(), owner: None }).collect();
    let mut held: Option<OwnedFd> = None;
    let mut links = 0;
    while let Some(Step { name, owner }) = steps.pop() {
        let at = held.as_ref().map_or(root, AsFd::as_fd);
        let flags = if steps.is_empty() { flags } else { OPEN_DIR_PATH };
        let (next, stat) = open_no_follow(at, &name, flags)?;
        if owner.is_some_and(|owner| owner != stat.st_uid) {
            return Err(Errno::LOOP);
        }
        if !is_link(&stat) {
            held = Some(next);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&next, "", Vec::new())?;
        if target.to_bytes().starts_with(b"/") {
            held = Some(openat(CWD, "/", OPEN_DIR_PATH, Mode::empty())?);
        }
        push_target(&mut steps, target.to_bytes(), stat.st_uid);
    }
    held.ok_or(Errno::NOENT)
}

/// Pushes the names of a link's target, so that they are resolved before the remaining ones.
fn push_target(steps: &mut Vec<Step>, target: &[u8], owner: u32) {
    let mut owner = Some(owner);
    for name in target.rsplit(|&b| b == b'/') {
        // `a//b` is `a/./b`, and `a/` is `a/.`, which must be a directory.
        let name = if name.is_empty() { b"." } else { name };
        steps.push(Step { name: name.into(), owner: owner.take() });
    }
}

/// Opens the file or directory of this name, or the link itself if it is one.
fn open_no_follow(
    at: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> Result<(OwnedFd, Stat), Errno> {
    match openat(at, name, flags.union(OFlags::NOFOLLOW), Mode::empty()) {
        // NOTDIR: the name is a link or a file, where a directory is required.
        Err(why @ (Errno::LOOP | Errno::NOTDIR)) => {
            let fd = openat(at, name, OPEN_LINK_PATH, Mode::empty())?;
            let stat = fstat(&fd)?;
            if is_link(&stat) { Ok((fd, stat)) } else { Err(why) }
        }
        opened => {
            let fd = opened?;
            let stat = fstat(&fd)?;
            Ok((fd, stat))
        }
    }
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}
