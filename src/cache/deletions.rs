//! `Deletions`: invalidations of single keys whose files are being removed, several at a time, since each time is followed by
//! a synchronization of the disk.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{
    disk::Record,
    key::Key,
    marks::Scope,
    pool::POOL,
    shared::Shared,
    store::{Changes, Purge},
};
use crate::net::blocking_pool::Job;

/// The deletions that are not on disk yet.
#[derive(Default)]
pub(super) struct Deletions {
    queue: Mutex<Queue>,
    /// The number of deletions, including those that are no longer in the queue.
    len: watch::Sender<usize>,
}

#[derive(Default)]
struct Queue {
    /// As many as the journal has pending records.
    waiting: Vec<Deletion>,
    /// The number of those beyond that, which were applied at once and wait for the synchronization only.
    applied: usize,
    /// Whether a job that empties the queue was submitted.
    is_running: bool,
}

struct Deletion {
    key: Key,
    /// `None` after they were applied.
    changes: Option<Changes>,
    revision: u64,
    /// Whether the disk has not failed.
    is_settled: bool,
}

impl Queue {
    fn take(&mut self) -> (Vec<Deletion>, usize) {
        (std::mem::take(&mut self.waiting), std::mem::take(&mut self.applied))
    }
}

impl Deletion {
    fn apply(&mut self, shared: &Shared) {
        if let Some(changes) = self.changes.take() {
            self.is_settled = shared.store.apply_to_disk(&self.key, changes);
        }
    }
}

impl Deletions {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of deletions that wait to be applied.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Waits until all earlier deletions are on disk.
    pub(super) async fn settled(&self) {
        // The sender lives as long as this.
        let _ = self.len.subscribe().wait_for(|len| *len == 0).await;
    }
}

/// Records the invalidation of a key, and applies its changes to the files in the background; or at once, if too many are
/// pending.
pub(super) fn delete(
    shared: &Arc<Shared>,
    key: &Key,
    purge: Purge,
    revision: u64,
    changes: Changes,
) {
    let Deletions { len, .. } = &shared.deletions;
    len.send_modify(|len| *len += 1);
    let (scope, at) = (Scope::Key(key.as_str()), shared.clock.now());
    let can_wait = shared.marks.begin(&Record { scope, purge, revision, at });
    let mut deletion =
        Deletion { key: key.clone(), changes: Some(changes), revision, is_settled: true };
    if !can_wait {
        deletion.apply(shared);
        if !deletion.is_settled {
            shared.marks.fail();
        }
    }
    let mut queue = shared.deletions.lock();
    if can_wait {
        queue.waiting.push(deletion);
    } else {
        queue.applied += 1;
    }
    let is_running = std::mem::replace(&mut queue.is_running, true);
    drop(queue);
    if !is_running {
        POOL.run(Box::new(Settle { shared: shared.clone(), taken: 0, has_ended: false }));
    }
}

/// Applies the deletions of the queue until it is empty.
struct Settle {
    shared: Arc<Shared>,
    /// The number of deletions that were taken from the queue and have not ended.
    taken: usize,
    has_ended: bool,
}

impl Job for Settle {
    fn is_wanted(&mut self) -> bool {
        true
    }

    fn run(mut self: Box<Self>) {
        while let Some((mut deletions, applied)) = self.take() {
            let marks = &self.shared.marks;
            deletions.iter_mut().for_each(|deletion| deletion.apply(&self.shared));
            let (_, removals) = self.shared.store.finish_removals();
            let synced = marks.sync_removals();
            self.shared.store.end_removals(removals, &synced);
            marks.end_applied(applied, &synced);
            for Deletion { revision, is_settled, .. } in deletions {
                marks.end(revision, is_settled, &synced);
            }
            self.end_taken();
        }
    }
}

impl Settle {
    /// Takes the deletions of the queue. Ends the job if there are none.
    fn take(&mut self) -> Option<(Vec<Deletion>, usize)> {
        let mut queue = self.shared.deletions.lock();
        let (waiting, applied) = queue.take();
        self.taken = waiting.len() + applied;
        self.has_ended = self.taken == 0;
        queue.is_running = !self.has_ended;
        drop(queue);
        (!self.has_ended).then_some((waiting, applied))
    }

    fn end_taken(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.shared.deletions.len.send_modify(|len| *len -= taken);
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if !self.has_ended {
            // No thread could be started, or the job panicked. The records stay in the journal: the next process removes the files.
            let mut queue = self.shared.deletions.lock();
            let (waiting, applied) = queue.take();
            self.taken += waiting.len() + applied;
            queue.is_running = false;
            drop(queue);
            self.end_taken();
        }
    }
}
