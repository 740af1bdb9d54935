//! The sweep: applies the marks to the store, in the background, so that no request waits for it.

use std::{io, sync::Arc};

use super::{disk::Record, marks::Scope, pool::POOL, shared::Shared, store::Purge};
use crate::net::{DrainWatch, blocking_pool::Job};

/// Adds a mark for each scope, and starts a sweep.
pub(super) fn invalidate(shared: &Arc<Shared>, scopes: &[Scope<'_>], purge: Purge) {
    let change = || {
        let add = |scope: &Scope<'_>| {
            let (revision, at) = (shared.next_id(), shared.clock.now());
            shared.marks.add(*scope, purge, revision, at);
            revision
        };
        scopes.iter().map(add).collect()
    };
    let revisions: Vec<u64> = shared
        .flights
        .invalidate(|key, groups| scopes.iter().any(|scope| scope.selects(key, groups)), change);
    // Other requests do not wait for the file, since no lock is held.
    for (scope, revision) in scopes.iter().zip(revisions) {
        let (scope, at) = (*scope, shared.clock.now());
        shared.marks.record(&Record { scope, purge, revision, at });
    }
    start(shared);
}

/// Starts a sweep, unless one is in progress or there is no mark.
pub(super) fn start(shared: &Arc<Shared>) {
    let starts = shared.sweeps.send_if_modified(|is_sweeping| {
        let starts = !*is_sweeping && shared.marks.newest().is_some();
        *is_sweeping |= starts;
        starts
    });
    if starts {
        let (shared, watch) = (shared.clone(), shared.tasks.watch());
        POOL.run(Box::new(Sweep { shared, watch, has_ended: false }));
    }
}

/// Applies all marks to the store.
struct Sweep {
    shared: Arc<Shared>,
    watch: DrainWatch,
    has_ended: bool,
}

impl Job for Sweep {
    fn is_wanted(&mut self) -> bool {
        true
    }

    fn run(mut self: Box<Self>) {
        while !self.watch.is_aborted()
            && let Some(newest) = self.shared.marks.newest()
        {
            self.shared.marks.sync();
            let is_swept = sweep(&self.shared);
            let (is_finished, removals) = self.shared.store.finish_removals();
            let synced = self.shared.marks.sync_removals();
            self.shared.store.end_removals(removals, &synced);
            self.shared.marks.forget(newest, is_swept && is_finished, &synced);
        }
        self.end();
        if !self.watch.is_aborted() {
            // A mark may have been added after the last check.
            start(&self.shared);
        }
    }

    fn fail(self: Box<Self>, _: &io::Error) {
        // The marks stay in effect, and the next invalidation starts another sweep.
    }
}

impl Sweep {
    fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.shared.sweeps.send_replace(false);
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.end();
    }
}

/// Applies the marks once. The lock is taken for each key by itself. Returns `false` if the disk has failed.
fn sweep(shared: &Shared) -> bool {
    let mut is_settled = true;
    let verdict = |key: &_, groups: &_, revision| shared.marks.verdict(key, groups, revision);
    shared.store.visit(&verdict, &mut |key| {
        let changes = shared.flights.write(|| shared.store.judge(key, &verdict));
        shared.counters.invalidated.add_many(changes.len() as u64);
        is_settled &= shared.store.apply_to_disk(key, changes);
    });
    is_settled
}
