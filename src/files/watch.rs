//! `FolderWatcher`: invalidates cached entries when the kernel reports a change below a folder.

mod changes;

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::inotify::{self, CreateFlags, Event, ReadFlags, WatchFlags},
    io::Errno,
};

use self::changes::Changes;
use super::{cache::Cache, root::Root};
use crate::semantics::target::file_path;

/// Default maximum number of watched folders, 4,096: one for each entry of the cache. All programs of a user
/// share the kernel's limit (`fs.inotify.max_user_watches`, at least 8,192).
pub(super) const MAX_WATCHED_FOLDERS: usize = 4096;

/// Maximum number of paths by which one folder is watched: a symbolic link to a parent folder makes any
/// number of them. Files below other paths are revalidated after the `revalidate` interval only.
const MAX_PATHS_PER_FOLDER: usize = 8;

/// Time during which changes are collected, 10 ms, which bounds the work that continuous writes cause.
const BATCH_DELAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// Maximum number of events that are read in one batch.
const MAX_BATCH_EVENTS: usize = 4096;

/// Number of names above which a batch is not kept for lookups in flight.
const LARGE_BATCH: usize = 256;

/// Size of the event buffer in bytes: some hundred events.
const EVENT_BUFFER_BYTES: usize = 16 << 10;

/// Events that are reported: all that change which file a path names, or its content.
const EVENT_MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

/// A thread that invalidates cached entries whose files have changed; see inotify(7). Dropping the watcher
/// ends the thread.
///
/// A folder and all folders above it are watched just before the first lookup in it. So the lookup sees
/// every change before it, and the kernel reports every change after it.
#[derive(Debug)]
pub(super) struct FolderWatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inotify: OwnedFd,
    /// An eventfd that becomes readable when the watcher is dropped.
    stop: OwnedFd,
    folders: Mutex<Folders>,
    max_folders: usize,
    /// The cache whose entries are invalidated.
    cache: Arc<Cache>,
}

/// The watched folders. One folder can have several paths, by symbolic links.
#[derive(Debug, Default)]
struct Folders {
    by_path: HashMap<Box<str>, i32>,
    by_watch: HashMap<i32, Vec<Box<str>>>,
    /// Incremented whenever folders may have been replaced by others.
    generation: u64,
}

impl FolderWatcher {
    /// Starts a watcher of at most `max_folders` folders, which removes changed entries from `cache`.
    ///
    /// # Errors
    /// If the user's limit of inotify instances (128 by default) is reached, or no thread can be started.
    pub(super) fn new(cache: Arc<Cache>, max_folders: usize) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared =
            Arc::new(Shared { inotify, stop, folders: Mutex::default(), max_folders, cache });
        let thread_shared = shared.clone();
        thread::Builder::new().name("files-watch".to_owned()).spawn(move || thread_shared.run())?;
        Ok(Self(shared))
    }

    /// Returns whether [`watch_path`](Self::watch_path) has nothing to do: all folders of `path` are
    /// watched, or the bound is reached.
    pub(super) fn is_path_watched(&self, path: &str) -> bool {
        let folders = self.0.folders();
        folders.by_watch.len() >= self.0.max_folders
            || ancestors(path).all(|folder| folders.by_path.contains_key(folder))
    }

    /// Watches all folders of `path`, as far as they exist and the bound allows. Files in other folders
    /// are revalidated after the `revalidate` interval only. May block.
    pub(super) fn watch_path(&self, root: &Root, path: &str) {
        for folder in ancestors(path) {
            let generation = match &*self.0.folders() {
                folders if folders.by_path.contains_key(folder) => continue,
                folders => folders.generation,
            };
            if self.0.folders().by_watch.len() >= self.0.max_folders {
                return;
            }
            let Ok(Some(opened)) = root.open(folder) else { return };
            let mut folders = self.0.folders();
            // The opened folder may have been replaced, or another thread has reached the bound.
            if folders.generation != generation || folders.by_watch.len() >= self.0.max_folders {
                return;
            }
            // Add the watch by descriptor: a path could lead out of the root.
            let path = format!("/proc/self/fd/{}", opened.file.as_raw_fd());
            match inotify::add_watch(&self.0.inotify, path, EVENT_MASK) {
                Ok(watch) => folders.add(folder, watch),
                Err(error) => return tracing::debug!(folder, %error, "cannot watch a folder"),
            }
        }
    }

    /// Removes all watches and invalidates the whole cache, because the root is another folder now.
    pub(super) fn reset(&self) {
        let mut folders = self.0.folders();
        for watch in folders.by_watch.keys() {
            let _ = inotify::remove_watch(&self.0.inotify, *watch); // fails if the kernel has removed it
        }
        *folders = Folders { generation: folders.generation + 1, ..Folders::default() };
        drop(folders);
        self.0.cache.invalidate(|_| true, false);
    }
}

/// Returns the folders that contain `path`, the root (`.`) first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
    std::iter::once(".").chain(ends)
}

impl Drop for FolderWatcher {
    fn drop(&mut self) {
        // Cannot block: the counter is zero.
        let _ = rustix::io::write(&self.0.stop, &1_u64.to_ne_bytes());
    }
}

impl Shared {
    fn folders(&self) -> MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while self.wait_for_change() {
            let changes = self.read_changes();
            if !changes.is_empty() {
                self.unwatch_replaced(&changes);
                // The key of the fallback page is no path; that page depends on any change.
                let is_large = changes.len() > LARGE_BATCH;
                let concerns = move |path: &str| {
                    file_path(path).ok().is_none_or(|path| changes.may_affect(&path))
                };
                self.cache.invalidate(concerns, is_large);
            }
        }
    }

    /// Waits for a change, and then for [`BATCH_DELAY`]. Returns `false` if the watcher was dropped or if
    /// poll(2) fails.
    fn wait_for_change(&self) -> bool {
        let stop = PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN);
        let change = PollFd::from_borrowed_fd(self.inotify.as_fd(), PollFlags::IN);
        let mut both = [stop, change];
        loop {
            match poll(&mut both, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        let [stop, change] = &both;
        if change.revents().intersects(PollFlags::ERR | PollFlags::NVAL) {
            return false;
        }
        // More changes usually follow at once.
        stop.revents().is_empty() && !matches!(poll(&mut both[..1], Some(&BATCH_DELAY)), Ok(1..))
    }

    /// Reads a batch of events.
    fn read_changes(&self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut folders = self.folders();
        for _ in 0..MAX_BATCH_EVENTS {
            match events.next() {
                Ok(event) => folders.record(&event, &mut changes),
                Err(Errno::INTR) => {}
                Err(_) => break, // no more events
            }
        }
        changes
    }

    /// Removes the watches of replaced folders. The next lookup in them adds new ones.
    fn unwatch_replaced(&self, changes: &Changes) {
        let mut folders = self.folders();
        let Folders { by_path, by_watch, generation } = &mut *folders;
        *generation += 1;
        by_path.retain(|folder, watch| {
            let is_kept = !changes.has_lost_events && !changes.has_replaced(folder);
            if !is_kept && let Some(paths) = by_watch.get_mut(watch) {
                paths.retain(|path| path != folder);
                if paths.is_empty() {
                    by_watch.remove(watch);
                    let _ = inotify::remove_watch(&self.inotify, *watch); // fails if the kernel has removed it
                }
            }
            is_kept
        });
    }
}

impl Folders {
    fn add(&mut self, folder: &str, watch: i32) {
        let names = self.by_watch.entry(watch).or_default();
        // Another thread may have added the path first.
        if names.len() < MAX_PATHS_PER_FOLDER && self.by_path.insert(folder.into(), watch).is_none()
        {
            names.push(folder.into());
        }
    }

    fn record(&mut self, event: &Event<'_>, changes: &mut Changes) {
        let kind = event.events();
        if kind.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            changes.has_lost_events = true;
        }
        if kind.contains(ReadFlags::IGNORED) {
            // The kernel has removed the watch, because the folder was deleted or unmounted.
            for folder in self.by_watch.remove(&event.wd()).unwrap_or_default() {
                self.by_path.remove(&folder);
            }
        }
        let Some(name) = event.file_name() else { return };
        for folder in self.by_watch.get(&event.wd()).into_iter().flatten() {
            changes.add(folder, name.to_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
