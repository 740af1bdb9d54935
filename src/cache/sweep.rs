//! Carries out invalidations of many responses in the background: no request waits while the store is searched.

use std::{io, sync::Arc};

use super::{marks::Scope, pool::POOL, shared::Shared, store::Purge};
use crate::net::{DrainWatch, blocking_pool::Job};

/// Invalidates what the scopes concern, from now on, and begins to carry it out.
pub(super) fn invalidate(shared: &Arc<Shared>, scopes: &[Scope<'_>], purge: Purge) {
    let change = || {
        for scope in scopes {
            shared.marks.add(*scope, purge, shared.next_id(), shared.clock.now());
        }
    };
    shared
        .flights
        .invalidate(|key, groups| scopes.iter().any(|scope| scope.selects(key, groups)), change);
    start(shared);
}

/// Begins to carry out the marks, unless that is under way.
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

/// Carries out all marks.
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
            sweep(&self.shared);
            self.shared.marks.forget(newest);
        }
        self.end();
        if !self.watch.is_aborted() {
            // A mark may have come after the last look.
            start(&self.shared);
        }
    }

    fn fail(self: Box<Self>, _: &io::Error) {
        // The marks count until the next invalidation starts a sweep.
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

/// Searches the store once. Changes are made key by key.
fn sweep(shared: &Shared) {
    let verdict = |key: &_, groups: &_, revision| shared.marks.verdict(key, groups, revision);
    shared.store.visit(&verdict, &mut |key| {
        let changes = shared.flights.write(|| shared.store.judge(key, &verdict));
        shared.counters.invalidated.add_many(changes.len() as u64);
        shared.store.apply_to_disk(key, changes);
    });
}
