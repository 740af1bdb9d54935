//! `Reads`: the objects that are being read from disk, so that concurrent lookups share one read and one copy.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{
    super::{key::Key, object::Object, pool::POOL},
    Inner,
    index::Meta,
};
use crate::net::blocking_pool::Job;

/// The result of a read: the object, or `None` if it cannot be read.
type Outcome = Option<Arc<Object>>;

/// Sends the outcome to all lookups that wait for it.
type Sender = Arc<watch::Sender<Option<Outcome>>>;

/// The reads in progress, by the id of the object.
#[derive(Default)]
pub(super) struct Reads(Mutex<HashMap<u64, Sender>>);

impl Reads {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Sender>> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the read of an object, so that later lookups do not join it.
    pub(super) fn end(&self, id: u64) {
        drop(self.lock().remove(&id));
    }
}

impl Inner {
    /// Reads an object, or joins the read of it that is in progress.
    pub(super) fn read_shared(
        self: &Arc<Self>,
        key: &Key,
        meta: Meta,
    ) -> impl Future<Output = Outcome> + Send + use<> {
        let mut reads = self.reads.lock();
        let known = reads.get(&meta.id).cloned();
        let sender = known.clone().unwrap_or_else(|| {
            let sender = Sender::default();
            reads.insert(meta.id, sender.clone());
            sender
        });
        let mut receiver = sender.subscribe();
        drop(reads);
        if known.is_none() {
            POOL.run(Box::new(Read { store: self.clone(), key: key.clone(), meta, sender }));
        }
        async move {
            // Fails if no thread could be started.
            let outcome = receiver.wait_for(Option::is_some).await.ok()?;
            outcome.clone().flatten()
        }
    }
}

/// Reads an object.
struct Read {
    store: Arc<Inner>,
    key: Key,
    meta: Meta,
    sender: Sender,
}

impl Job for Read {
    fn is_wanted(&mut self) -> bool {
        !self.sender.is_closed()
    }

    fn run(self: Box<Self>) {
        let outcome = self.store.read(&self.key, &self.meta);
        self.sender.send_replace(Some(outcome));
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        let mut reads = self.store.reads.lock();
        // Another read of the object may have started since.
        if reads.get(&self.meta.id).is_some_and(|sender| Arc::ptr_eq(sender, &self.sender)) {
            reads.remove(&self.meta.id);
        }
        drop(reads);
    }
}
