//! Through symbolic links that lead to what has their own owner.
//!
//! The kernel follows a link to its end, and whose links are on the way there it does not tell. So
//! each of them is held, asked for its owner, and read by its descriptor: by its name it could be
//! one link when its owner is asked for and another one when it is followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat},
    io::Errno,
};

use super::OPEN_DIR_PATH;

/// How many links one path may lead through: as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// How a symbolic link itself is held.
const OPEN_LINK_PATH: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name that is still to be gone through.
struct Step {
    name: Vec<u8>,
    /// Whose must be what has this name, be it a link itself: at the end of a link, the link's.
    owner: Option<u32>,
}

/// Opens a path through links of which each has the owner of what it names.
pub(super) fn open_by_owner(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    // Links may go up and stay where they are, requests may not.
    if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(Errno::NOENT);
    }
    // The next one is the last of them.
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

/// Puts the names of a link's target in front of those that are to be gone through.
fn push_target(steps: &mut Vec<Step>, target: &[u8], owner: u32) {
    let mut owner = Some(owner);
    for name in target.rsplit(|&b| b == b'/') {
        // `a//b` is `a/./b`, and `a/` is `a/.`: a folder or nothing.
        let name = if name.is_empty() { b"." } else { name };
        steps.push(Step { name: name.into(), owner: owner.take() });
    }
}

/// Opens what has this name, a link itself if it is one.
fn open_no_follow(
    at: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> Result<(OwnedFd, Stat), Errno> {
    match openat(at, name, flags.union(OFlags::NOFOLLOW), Mode::empty()) {
        // NOTDIR: a link where a folder should be, or a file.
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
