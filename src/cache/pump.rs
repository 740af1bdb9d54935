//! Reads the content of a response into a fill, and stores the object at its end.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body as _;

use super::{disk::Spool, fill::Fill, flight::Leader, shared::Shared};
use crate::{Body, budget::Lease, semantics::cache::NoVarySearch};

/// Reads the available content in this task, and the rest in a task of its own, so that a slow client does not delay it.
pub(super) async fn start(shared: &Arc<Shared>, fill: Arc<Fill>, body: Body, leader: Leader) {
    let mut pump = Pump {
        shared: shared.clone(),
        lease: Some(shared.budget.memory_lease()),
        spool: None,
        fill,
        body,
        leader: Some(leader),
    };
    let is_done = poll_fn(|cx| {
        loop {
            match Pin::new(&mut pump.body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    let frame = frame.map(|frame| frame.map(|f| f.into_data().unwrap_or_default()));
                    if !pump.accept(frame.map(Result::ok)) {
                        return Poll::Ready(true);
                    }
                    if pump.leader.is_none() || pump.spool.is_some() {
                        return Poll::Ready(false);
                    }
                }
                Poll::Pending => return Poll::Ready(false),
            }
        }
    })
    .await;
    if !is_done {
        let fill = pump.fill.clone();
        if !shared.spawn(pump.run()) {
            fill.end(Err(()));
        }
    }
}

struct Pump {
    shared: Arc<Shared>,
    fill: Arc<Fill>,
    body: Body,
    /// `None` if the content is not stored.
    leader: Option<Leader>,
    lease: Option<Lease>,
    /// The file of the content, if that is too large for memory.
    spool: Option<Spool>,
}

impl Pump {
    async fn run(mut self) {
        loop {
            if self.leader.is_none() {
                let fill = &self.fill;
                if poll_fn(|cx| fill.poll_capacity(cx)).await.is_err() {
                    return;
                }
            }
            self.write(Spool::poll_capacity).await;
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            let frame = frame.map(|frame| frame.map(|f| f.into_data().unwrap_or_default()));
            if frame.is_none() {
                self.write(Spool::poll_flush).await;
            }
            if !self.accept(frame.map(Result::ok)) {
                return;
            }
            // A body that is always ready would starve other tasks.
            tokio::task::consume_budget().await;
        }
    }

    /// Writes to the spool, if there is one. If the write fails, the content is not stored.
    async fn write(
        &mut self,
        poll: impl Fn(&mut Spool, &Fill, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) {
        let Some(spool) = &mut self.spool else { return };
        let fill = &self.fill;
        match poll_fn(|cx| poll(spool, fill, cx)).await {
            Ok(()) => self.lease.iter_mut().for_each(|lease| lease.set(fill.memory_len())),
            Err(_) => {
                self.shared.counters.not_stored.add();
                self.stop_storing();
            }
        }
    }

    /// Accepts a piece, a failure of the body (`Some(None)`) or its end (`None`). Returns `false` after the last one.
    fn accept(&mut self, piece: Option<Option<Bytes>>) -> bool {
        match piece {
            Some(Some(piece)) => {
                self.push(piece);
                true
            }
            Some(None) => {
                self.fill.end(Err(()));
                false
            }
            None => {
                self.finish();
                false
            }
        }
    }

    fn push(&mut self, piece: Bytes) {
        let len = self.fill.len() + piece.len() as u64;
        self.fill.push(piece);
        if self.leader.is_none() {
            return;
        }
        let in_memory = self.fill.memory_len();
        let is_leased = self.lease.as_mut().is_some_and(|lease| lease.try_set(in_memory).is_ok());
        let store = &self.shared.store;
        if self.spool.is_none() && (len > store.max_in_memory() || !is_leased) {
            self.spool = store.spool(self.fill.head.id);
        }
        let has_room = match &mut self.spool {
            Some(spool) => spool.reserve(len),
            None => is_leased && len <= store.max_in_memory(),
        };
        if len > store.max_object() || !has_room {
            self.shared.counters.not_stored.add();
            self.stop_storing();
        }
    }

    /// Stops storing the content. Present readers continue, and new requests do not follow.
    fn stop_storing(&mut self) {
        if let Some(leader) = self.leader.take() {
            self.shared.set_hit_for_miss(leader.key());
            leader.release();
        }
        self.lease = None;
        self.spool = None;
        self.fill.stop_storing();
    }

    fn finish(&mut self) {
        let is_whole = self.fill.head.len.is_none_or(|len| len == self.fill.len());
        if !is_whole {
            self.fill.end(Err(()));
            return;
        }
        if let Some(leader) = self.leader.take() {
            let rule = if self.shared.options.no_vary_search {
                NoVarySearch::of(&self.fill.head.headers)
            } else {
                None
            };
            let key = leader.key().clone();
            let object = Arc::new(self.fill.to_object(self.lease.take()));
            if leader.store(&*self.shared.store, &object) {
                self.shared.counters.stored.add();
                if let Some(rule) = rule {
                    self.shared.aliases.insert(&key, rule);
                }
            }
            // The object owns the file now.
            self.spool = None;
        }
        self.fill.end(Ok(()));
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        // Has no effect if the content has ended.
        self.fill.end(Err(()));
    }
}
