//! `Control`: the state that a test and its scripted applications share.

use std::{
    collections::HashSet,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, mpsc};

use super::Build;

/// The state that the test and the applications share.
pub(in super::super) struct Control {
    pub(super) builds: Vec<Build>,
    pub(super) started: AtomicUsize,
    pub(super) entered: mpsc::UnboundedSender<String>,
    pub(super) built: mpsc::UnboundedSender<usize>,
    /// Names that were released and not yet waited for.
    pub(super) released: Mutex<HashSet<String>>,
    pub(super) on_release: Condvar,
    pub(super) on_release_async: Notify,
}

/// The events of the applications, for the test.
pub(in super::super) struct Events {
    pub(super) entered: mpsc::UnboundedReceiver<String>,
    pub(super) built: mpsc::UnboundedReceiver<usize>,
}

impl Control {
    pub(super) fn new(builds: Vec<Build>) -> (Arc<Self>, Events) {
        let (entered_tx, entered) = mpsc::unbounded_channel();
        let (built_tx, built) = mpsc::unbounded_channel();
        let control = Self {
            builds,
            started: AtomicUsize::new(0),
            entered: entered_tx,
            built: built_tx,
            released: Mutex::default(),
            on_release: Condvar::new(),
            on_release_async: Notify::new(),
        };
        (Arc::new(control), Events { entered, built })
    }

    /// Begins a build. Returns its number and its script.
    pub(super) fn begin_build(&self) -> (usize, Build) {
        let n = self.started.fetch_add(1, Ordering::SeqCst);
        let _ = self.built.send(n);
        (n, self.builds.get(n).copied().unwrap_or(Build::Succeed))
    }

    pub(super) fn release(&self, name: &str) {
        self.released.lock().unwrap().insert(name.to_owned());
        self.on_release.notify_all();
        self.on_release_async.notify_waiters();
    }

    /// Blocks until `name` is released.
    pub(super) fn wait(&self, name: &str) {
        let released = self.released.lock().unwrap();
        let mut released = self.on_release.wait_while(released, |r| !r.contains(name)).unwrap();
        released.remove(name);
    }

    pub(super) async fn wait_async(&self, name: &str) {
        loop {
            let notified = self.on_release_async.notified();
            if self.released.lock().unwrap().remove(name) {
                return;
            }
            notified.await;
        }
    }
}
