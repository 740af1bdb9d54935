//! `FolderWatcher`: hears from the kernel of what changes below a folder.

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

/// The most folders that are watched by default, 4,096: one for each entry of the cache. The kernel's bound
/// (`fs.inotify.max_user_watches`, 8,192 at least) is for all programs of a user together.
pub(super) const MAX_WATCHED_FOLDERS: usize = 4096;

/// The most paths that one folder is known by, and there are any number of where a link leads up.
/// What is asked for by others is not heard of, but looked at again in time.
const MAX_PATHS_PER_FOLDER: usize = 8;

/// How long changes are gathered, so that one who writes all the time keeps nobody busy.
const BATCH_DELAY: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The most changes that are read before the first of them is acted on.
const MAX_BATCH_EVENTS: usize = 4096;

/// More names than this are not worth keeping for looks that are on their way.
const LARGE_BATCH: usize = 256;

/// Room for some hundred events.
const EVENT_BUFFER_BYTES: usize = 16 << 10;

/// What is told of: all that changes what a path names, or what is in it.
const EVENT_MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

/// Forgets what has changed; see inotify(7). Its thread ends when it is dropped.
///
/// A folder is watched from just before the first look into it, with all the folders above it. So a
/// change is either before the look, and seen by it, or after it, and told.
#[derive(Debug)]
pub(super) struct FolderWatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inotify: OwnedFd,
    /// Readable once nobody needs the watch any more.
    stop: OwnedFd,
    folders: Mutex<Folders>,
    max_folders: usize,
    /// What is known of the files.
    cache: Arc<Cache>,
}

/// Which folders are watched. One can have several paths, by symbolic links.
#[derive(Debug, Default)]
struct Folders {
    by_path: HashMap<Box<str>, i32>,
    by_watch: HashMap<i32, Vec<Box<str>>>,
    /// How often some were, perhaps, replaced by others.
    generation: u64,
}

impl FolderWatcher {
    /// Begins to hear, of `max_folders` folders at most. What changes is taken out of `cache`.
    ///
    /// # Errors
    /// If the kernel has none of it left for us: 128 for each user, by default.
    pub(super) fn new(cache: Arc<Cache>, max_folders: usize) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared =
            Arc::new(Shared { inotify, stop, folders: Mutex::default(), max_folders, cache });
        let thread_shared = shared.clone();
        thread::Builder::new().name("files-watch".to_owned()).spawn(move || thread_shared.run())?;
        Ok(Self(shared))
    }

    /// Returns whether [`watch_path`](Self::watch_path) has nothing to do: all folders on the way to `path` are
    /// watched, or no more can be.
    pub(super) fn is_path_watched(&self, path: &str) -> bool {
        let folders = self.0.folders();
        folders.by_watch.len() >= self.0.max_folders
            || ancestors(path).all(|folder| folders.by_path.contains_key(folder))
    }

    /// Watches all folders on the way to `path`, as far as they are there and the bound allows. What is in
    /// other folders is looked up again in time. May block.
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
            // It may be the one that was replaced, or another one was watched meanwhile.
            if folders.generation != generation || folders.by_watch.len() >= self.0.max_folders {
                return;
            }
            // By its descriptor: a path could lead out of the root.
            let path = format!("/proc/self/fd/{}", opened.file.as_raw_fd());
            match inotify::add_watch(&self.0.inotify, path, EVENT_MASK) {
                Ok(watch) => folders.add(folder, watch),
                Err(error) => return tracing::debug!(folder, %error, "a folder is not watched"),
            }
        }
    }

    /// Watches nothing and forgets all files: the root is another folder now.
    pub(super) fn reset(&self) {
        let mut folders = self.0.folders();
        for watch in folders.by_watch.keys() {
            let _ = inotify::remove_watch(&self.0.inotify, *watch); // it may be gone itself
        }
        *folders = Folders { generation: folders.generation + 1, ..Folders::default() };
        drop(folders);
        self.0.cache.forget(|_| true, false);
    }
}

/// The folders that a path goes through.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
    std::iter::once(".").chain(ends)
}

impl Drop for FolderWatcher {
    fn drop(&mut self) {
        // A counter at zero takes any number.
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
                // What is no path stands for all that name nothing.
                let is_large = changes.len() > LARGE_BATCH;
                let concerns = move |path: &str| {
                    file_path(path).ok().is_none_or(|path| changes.may_affect(&path))
                };
                self.cache.forget(concerns, is_large);
            }
        }
    }

    /// `false`: it is over.
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
        // Others of the same kind are on their way, usually.
        stop.revents().is_empty() && !matches!(poll(&mut both[..1], Some(&BATCH_DELAY)), Ok(1..))
    }

    /// What has changed since the last time.
    fn read_changes(&self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut folders = self.folders();
        for _ in 0..MAX_BATCH_EVENTS {
            match events.next() {
                Ok(event) => folders.record(&event, &mut changes),
                Err(Errno::INTR) => {}
                Err(_) => break, // nothing more
            }
        }
        changes
    }

    /// Folders that are others now are watched anew when somebody looks into them.
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
                    let _ = inotify::remove_watch(&self.inotify, *watch); // it may be gone itself
                }
            }
            is_kept
        });
    }
}

impl Folders {
    fn add(&mut self, folder: &str, watch: i32) {
        let names = self.by_watch.entry(watch).or_default();
        // Another one may have come first.
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
            // The folder is gone.
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
