//! `DirectoryWatcher`: invalidates cached entries when the kernel reports a change below a directory.

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

/// Default maximum number of watched directories, 4,096: one for each entry of the cache. All programs of a user
/// share the kernel's limit (`fs.inotify.max_user_watches`, at least 8,192).
pub(super) const MAX_WATCHED_DIRECTORIES: usize = 4096;

/// Maximum number of paths by which one directory is watched: a symbolic link to a parent directory makes any
/// number of them. Files below other paths are revalidated after the `revalidate` interval only.
const MAX_PATHS_PER_DIRECTORY: usize = 8;

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
/// A directory and all directories above it are watched just before the first lookup in it. So the lookup sees
/// every change before it, and the kernel reports every change after it.
#[derive(Debug)]
pub(super) struct DirectoryWatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inotify: OwnedFd,
    /// An eventfd that becomes readable when the watcher is dropped.
    stop: OwnedFd,
    directories: Mutex<Directories>,
    max_directories: usize,
    /// The cache whose entries are invalidated.
    cache: Arc<Cache>,
}

/// The watched directories. One directory can have several paths, by symbolic links.
#[derive(Debug, Default)]
struct Directories {
    by_path: HashMap<Box<str>, i32>,
    by_watch: HashMap<i32, Vec<Box<str>>>,
    /// Incremented whenever directories may have been replaced by others.
    generation: u64,
}

impl DirectoryWatcher {
    /// Starts a watcher of at most `max_directories` directories, which removes changed entries from `cache`.
    ///
    /// # Errors
    /// If the user's limit of inotify instances (128 by default) is reached, or no thread can be started.
    pub(super) fn new(cache: Arc<Cache>, max_directories: usize) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared = Arc::new(Shared {
            inotify,
            stop,
            directories: Mutex::default(),
            max_directories,
            cache,
        });
        let thread_shared = shared.clone();
        thread::Builder::new().name("files-watch".to_owned()).spawn(move || thread_shared.run())?;
        Ok(Self(shared))
    }

    /// Returns whether [`watch_path`](Self::watch_path) has nothing to do: all directories of `path` are
    /// watched, or the bound is reached.
    pub(super) fn is_path_watched(&self, path: &str) -> bool {
        let directories = self.0.directories();
        directories.by_watch.len() >= self.0.max_directories
            || ancestors(path).all(|directory| directories.by_path.contains_key(directory))
    }

    /// Watches all directories of `path`, as far as they exist and the bound allows. Files in other directories
    /// are revalidated after the `revalidate` interval only. May block.
    pub(super) fn watch_path(&self, root: &Root, path: &str) {
        for directory in ancestors(path) {
            let generation = match &*self.0.directories() {
                directories if directories.by_path.contains_key(directory) => continue,
                directories => directories.generation,
            };
            if self.0.directories().by_watch.len() >= self.0.max_directories {
                return;
            }
            let Ok(Some(opened)) = root.open(directory) else { return };
            let mut directories = self.0.directories();
            // The opened directory may have been replaced, or another thread has reached the bound.
            if directories.generation != generation
                || directories.by_watch.len() >= self.0.max_directories
            {
                return;
            }
            // Add the watch by descriptor: a path could lead out of the root.
            let path = format!("/proc/self/fd/{}", opened.file.as_raw_fd());
            match inotify::add_watch(&self.0.inotify, path, EVENT_MASK) {
                Ok(watch) => directories.add(directory, watch),
                Err(error) => return tracing::debug!(directory, %error, "cannot watch a directory"),
            }
        }
    }

    /// Removes all watches and invalidates the whole cache, because the root is another directory now.
    pub(super) fn reset(&self) {
        let mut directories = self.0.directories();
        for watch in directories.by_watch.keys() {
            let _ = inotify::remove_watch(&self.0.inotify, *watch); // fails if the kernel has removed it
        }
        *directories =
            Directories { generation: directories.generation + 1, ..Directories::default() };
        drop(directories);
        self.0.cache.invalidate(|_| true, false);
    }
}

/// Returns the directories that contain `path`, the root (`.`) first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
    std::iter::once(".").chain(ends)
}

impl Drop for DirectoryWatcher {
    fn drop(&mut self) {
        // Cannot block: the counter is zero.
        let _ = rustix::io::write(&self.0.stop, &1_u64.to_ne_bytes());
    }
}

impl Shared {
    fn directories(&self) -> MutexGuard<'_, Directories> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut directories = self.directories();
        for _ in 0..MAX_BATCH_EVENTS {
            match events.next() {
                Ok(event) => directories.record(&event, &mut changes),
                Err(Errno::INTR) => {}
                Err(_) => break, // no more events
            }
        }
        changes
    }

    /// Removes the watches of replaced directories. The next lookup in them adds new ones.
    fn unwatch_replaced(&self, changes: &Changes) {
        let mut directories = self.directories();
        let Directories { by_path, by_watch, generation } = &mut *directories;
        *generation += 1;
        by_path.retain(|directory, watch| {
            let is_kept = !changes.has_lost_events && !changes.has_replaced(directory);
            if !is_kept && let Some(paths) = by_watch.get_mut(watch) {
                paths.retain(|path| path != directory);
                if paths.is_empty() {
                    by_watch.remove(watch);
                    let _ = inotify::remove_watch(&self.inotify, *watch); // fails if the kernel has removed it
                }
            }
            is_kept
        });
    }
}

impl Directories {
    fn add(&mut self, directory: &str, watch: i32) {
        let names = self.by_watch.entry(watch).or_default();
        // Another thread may have added the path first.
        if names.len() < MAX_PATHS_PER_DIRECTORY
            && self.by_path.insert(directory.into(), watch).is_none()
        {
            names.push(directory.into());
        }
    }

    fn record(&mut self, event: &Event<'_>, changes: &mut Changes) {
        let kind = event.events();
        if kind.intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::UNMOUNT) {
            changes.has_lost_events = true;
        }
        if kind.contains(ReadFlags::IGNORED) {
            // The kernel has removed the watch, because the directory was deleted or unmounted.
            for directory in self.by_watch.remove(&event.wd()).unwrap_or_default() {
                self.by_path.remove(&directory);
            }
        }
        let Some(name) = event.file_name() else { return };
        for directory in self.by_watch.get(&event.wd()).into_iter().flatten() {
            changes.add(directory, name.to_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
