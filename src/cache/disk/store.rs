//! [`Store`] for `DiskStore`: lookups in memory, in the queue of writes and in the index, and changes of all three.

use std::{pin::Pin, sync::Arc};

use http::HeaderMap;

use super::{
    super::{
        key::Key,
        marks::{RemovalsSynced, Verdict},
        object::Object,
        pool::POOL,
        store::{Changes, Found, Judge, Lookup, Purge, Store},
    },
    DiskStore, Writing,
    index::Meta,
    removals::Unsynced,
    spool::Spool,
    write::Write,
};

/// Submits a write, without the lock of the state: a pool that can start no thread fails the job during the call.
fn run(write: Option<Box<Write>>) {
    if let Some(write) = write {
        POOL.run(write);
    }
}

impl Store for DiskStore {
    fn get(&self, key: &Key, request: &HeaderMap) -> Lookup {
        let Lookup::Ready(found) = self.inner.memory.get(key, request) else {
            unreachable!("a lookup in memory is never pending")
        };
        if found.object.is_some() {
            return Lookup::Ready(found);
        }
        let is_writing = |w: &&Writing| w.key == *key && w.object.matches(request);
        if let Some(writing) = self.inner.lock().writing.iter().rev().find(is_writing) {
            return Lookup::Ready(Found { object: Some(writing.object.clone()), has_others: true });
        }
        let Some(metas) = self.inner.index.get(key) else { return Lookup::Ready(found) };
        let Some(meta) = metas.iter().find(|meta| meta.matches(request)).cloned() else {
            return Lookup::Ready(Found { object: None, has_others: true });
        };
        let read = self.inner.read_shared(key, meta);
        Lookup::Pending(Box::pin(async move { Found { object: read.await, has_others: true } }))
    }

    fn insert(&self, key: &Key, object: &Arc<Object>) {
        let inner = &self.inner;
        let mut state = inner.lock();
        state.note_changed(key);
        if object.content.len() <= inner.memory.max_object() {
            inner.memory.insert(key, object);
        } else {
            inner.memory.remove(key, object);
            inner.memory.remove_older(key, &object.vary, object.revision);
        }
        if let Some(w) = state.writing.iter_mut().find(|w| w.object.id == object.id) {
            // The content is being written already: the new fields are written after it.
            w.object = object.clone();
            return;
        }
        state.writing.retain(|w| w.key != *key || !w.object.is_same_variant(object));
        if inner.index.has(key, object.id) {
            // The content is on disk already: only the head is written.
            inner.index.insert(key, &Meta::of(object, object.content.len()));
            drop(state);
            inner.update_head(key, object);
            return;
        }
        inner.discard(key, |meta| meta.is_same_variant(object));
        let write = inner.write(&mut state, key, object);
        drop(state);
        run(write);
    }

    fn replace(&self, key: &Key, old: &Object, new: &Arc<Object>) {
        let inner = &self.inner;
        let mut state = inner.lock();
        inner.memory.replace(key, old, new);
        if inner.memory.find(key, new.id).is_none() {
            inner.memory.remove_older(key, &new.vary, new.revision);
        }
        let mut writes = state.writing.iter_mut().filter(|w| w.key == *key);
        if let Some(w) = writes.find(|w| w.object.is_unchanged(old)) {
            w.object = new.clone();
            return;
        }
        let metas = inner.index.get(key).unwrap_or_default();
        if metas.iter().any(|meta| meta.id == old.id && meta.freshness == old.freshness) {
            inner.index.insert(key, &Meta::of(new, new.content.len()));
            drop(state);
            inner.update_head(key, new);
        }
    }

    fn remove(&self, key: &Key, object: &Object) {
        let mut state = self.inner.lock();
        state.note_changed(key);
        self.inner.memory.remove(key, object);
        state.writing.retain(|w| w.key != *key || !w.object.is_same_variant(object));
        self.inner.discard(key, |meta| meta.is_same_variant(object));
    }

    fn invalidate(&self, key: &Key, purge: Purge) -> Option<Changes> {
        let at = self.inner.clock.now();
        let verdict = match purge {
            Purge::Hard => Verdict::Remove,
            Purge::Soft => Verdict::Expire(at),
        };
        let mut state = self.inner.lock();
        state.note_changed(key);
        let is_scanning = state.changed_keys.is_some();
        drop(state);
        let changes = self.judge(key, &|_, _, _| verdict);
        let inner = &self.inner;
        // The lock is held while the files of an object that is no longer in the queue of writes may have their final names.
        let may_come_back =
            is_scanning || inner.removals.may_come_back(key) || inner.heads.try_lock().is_err();
        (may_come_back || changes.len() > 0).then_some(changes)
    }

    fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key)) {
        let keys: Vec<_> = self.inner.lock().writing.iter().map(|w| w.key.clone()).collect();
        keys.iter().for_each(&mut *selected);
        self.inner.memory.visit(judge, selected);
        self.inner.index.visit(judge, selected);
    }

    fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes {
        let inner = &self.inner;
        let mut state = inner.lock();
        inner.memory.judge(key, judge);
        let mut changes = inner.index.judge(key, judge);
        state.writing.retain_mut(|w| {
            if w.key != *key {
                return true;
            }
            let mut object = Object::clone(&w.object);
            let verdict = judge(key, &object.groups, object.revision);
            let is_kept = changes.record(object.id, &mut object.freshness, verdict);
            w.object = Arc::new(object);
            is_kept
        });
        changes
    }

    fn apply_to_disk(&self, key: &Key, changes: Changes) -> bool {
        let removals = &self.inner.removals;
        let is_finished = !removals.may_come_back(key) || removals.finish();
        let is_removed = self.inner.remove_files(&changes.removed);
        self.inner.expire_heads(key, &changes) && is_removed && is_finished
    }

    fn finish_removals(&self) -> (bool, Unsynced) {
        let is_finished = self.inner.removals.finish();
        (is_finished, self.inner.removals.take_unsynced())
    }

    fn end_removals(&self, removals: Unsynced, synced: &RemovalsSynced) {
        self.inner.removals.end(removals, synced.is_synced);
    }

    fn usage(&self) -> (u64, u64) {
        self.inner.index.usage()
    }

    fn max_object(&self) -> u64 {
        self.inner.max_object
    }

    fn max_in_memory(&self) -> u64 {
        self.inner.memory.max_object()
    }

    fn spool(&self, id: u64) -> Option<Spool> {
        (!self.inner.is_paused()).then(|| Spool::new(self.inner.clone(), id))
    }

    fn loaded(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut scanning = self.inner.scanning.subscribe();
        Box::pin(async move {
            // Fails only if the store was dropped.
            let _ = scanning.wait_for(|is_scanning| !is_scanning).await;
        })
    }
}
