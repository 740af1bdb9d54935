//! Reads the content of a response into a fill, and stores the object at its end.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body as _;
use tokio::time::{Sleep, sleep};

use super::{
    disk::Spool,
    fill::{Fill, Head, NoReaders},
    flight::Leader,
    object::{Content, Object},
    respond::{self, RequestContext},
    shared::Shared,
};
use crate::{Body, Response, budget::Lease, semantics::cache::NoVarySearch};

/// The maximum number of available bytes that are read in the task of the request, 256 KiB.
const MAX_AVAILABLE: u64 = 256 << 10;

/// The maximum number of their pieces, 1,024, since a piece may be empty.
const MAX_AVAILABLE_PIECES: usize = 1024;

/// Stores a response. Returns the response to its request, and whether it is stored, or will be if its content is received.
/// If its content is not yet complete, a task of its own reads the rest, so that a slow client does not delay it.
pub(super) fn store(
    shared: &Arc<Shared>,
    cx: &mut Context<'_>,
    context: RequestContext<'_>,
    head: Head,
    response: Response,
    leader: Leader,
) -> (Response, bool) {
    let (parts, mut body) = response.into_parts();
    let available = Available::read(&mut body, cx);
    let mut lease = shared.budget.memory_lease();
    let is_whole = available.end == Some(Ok(()))
        && head.len.is_none_or(|len| len == available.len)
        && available.len <= shared.store.max_in_memory().min(shared.store.max_object());
    if is_whole && lease.try_set(available.len).is_ok() {
        let content = Content::copied(available.len, available.pieces.iter(), Some(lease));
        let object = Arc::new(head.into_object(content));
        let is_stored = store_object(shared, leader, &object);
        return (respond::of_object_with(context, &object, parts.headers), is_stored);
    }
    let fill = Fill::new(head, context.now);
    // Created before the content is added, so that this reader gets it from the first byte.
    let answer = respond::of_fill(context, &fill, parts.headers);
    leader.open(fill.clone());
    let pump = Pump {
        shared: shared.clone(),
        lease: Some(lease),
        spool: None,
        fill,
        body,
        end: None,
        leader: Some(leader),
    };
    let is_stored = match pump.accept_available(available) {
        Accepted::Ended { is_stored } => is_stored,
        Accepted::Part(pump) => {
            let is_stored = pump.leader.as_ref().is_some_and(|leader| !leader.is_invalidated());
            // Without a runtime the pump is dropped, which ends the fill with an error.
            shared.spawn(pump.run()) && is_stored
        }
    };
    (answer.expect("a new fill has all of its content"), is_stored)
}

/// Stores an object whose content is complete. Returns `false` if it was invalidated since the start of the fetch.
fn store_object(shared: &Shared, leader: Leader, object: &Arc<Object>) -> bool {
    let rule = if shared.options.no_vary_search { NoVarySearch::of(&object.headers) } else { None };
    let rule = rule.map(|rule| (leader.key().clone(), rule));
    let is_stored = leader.store(&*shared.store, object);
    if is_stored {
        shared.counters.stored.add();
        if let Some((key, rule)) = rule {
            shared.aliases.insert(&key, rule);
        }
    }
    is_stored
}

/// The beginning of a content, as far as it was available at once.
struct Available {
    pieces: Vec<Bytes>,
    len: u64,
    /// `Some` if the content has ended; `Err` if the origin failed.
    end: Option<Result<(), ()>>,
}

impl Available {
    fn read(body: &mut Body, cx: &mut Context<'_>) -> Self {
        let mut this = Self { pieces: Vec::new(), len: 0, end: None };
        while this.len <= MAX_AVAILABLE
            && this.pieces.len() < MAX_AVAILABLE_PIECES
            && let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx)
        {
            match frame {
                Some(Ok(frame)) => {
                    let piece = frame.into_data().unwrap_or_default();
                    this.len += piece.len() as u64;
                    this.pieces.push(piece);
                    continue;
                }
                Some(Err(_)) => this.end = Some(Err(())),
                None => this.end = Some(Ok(())),
            }
            break;
        }
        this
    }
}

struct Pump {
    shared: Arc<Shared>,
    fill: Arc<Fill>,
    body: Body,
    /// The end of the body, if it was read already.
    end: Option<Result<(), ()>>,
    /// `None` if the content is not stored.
    leader: Option<Leader>,
    lease: Option<Lease>,
    /// The file of the content, if that is too large for memory.
    spool: Option<Spool>,
}

/// The beginning of a content after it was accepted.
enum Accepted {
    /// The content has ended or failed.
    Ended { is_stored: bool },
    /// The rest is still to be read or written.
    Part(Pump),
}

impl Pump {
    /// Accepts the beginning of the content.
    fn accept_available(mut self, available: Available) -> Accepted {
        available.pieces.into_iter().for_each(|piece| self.push(piece));
        if self.has_failed(available.end) {
            self.fill.end(Err(()));
            return Accepted::Ended { is_stored: false };
        }
        self.end = available.end;
        if self.end.is_some() && self.spool.is_none() {
            return Accepted::Ended { is_stored: self.finish() };
        }
        Accepted::Part(self)
    }

    async fn run(mut self) {
        let mut limit = pin!(sleep(self.shared.options.max_fill_time));
        loop {
            self.write(Spool::poll_capacity).await;
            let next = poll_fn(|cx| self.poll_next(limit.as_mut(), cx)).await;
            let Ok(piece) = next else { return };
            if piece.is_none() {
                self.write(Spool::poll_flush).await;
            }
            if !self.accept(piece) {
                return;
            }
            // A body that is always ready would starve other tasks.
            tokio::task::consume_budget().await;
        }
    }

    /// Polls the next piece, a failure of the body (`Some(None)`) or its end (`None`). After `limit` the content is not stored
    /// any more.
    ///
    /// # Errors
    /// If the content is not stored and has no readers.
    fn poll_next(
        &mut self,
        limit: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Option<Bytes>>, NoReaders>> {
        if self.leader.is_some() && limit.poll(cx).is_ready() {
            self.shared.counters.not_stored.add();
            self.stop_storing();
        }
        if self.leader.is_none() {
            ready!(self.fill.poll_capacity(cx))?;
        }
        if let Some(end) = self.end {
            return Poll::Ready(Ok(end.err().map(|()| None)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(Ok(frame.map(|frame| frame.map(|f| f.into_data().unwrap_or_default()).ok())))
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
                // If it has failed, dropping the pump ends the fill with an error.
                !self.has_failed(None)
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
        self.fill.push(piece, self.shared.clock.now());
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
            self.shared.set_hit_for_miss(leader.key(), self.shared.clock.now());
            leader.release();
        }
        self.spool = None;
        self.fill.stop_storing(self.lease.take());
    }

    /// Returns whether the origin failed, or the content is not as long as announced. `end` is the end of the body, if it was
    /// read.
    fn has_failed(&self, end: Option<Result<(), ()>>) -> bool {
        let Some(announced) = self.fill.head.len else { return end == Some(Err(())) };
        match end {
            None => self.fill.len() > announced,
            Some(Ok(())) => self.fill.len() != announced,
            Some(Err(())) => true,
        }
    }

    /// Ends the content. Returns whether it was stored.
    fn finish(&mut self) -> bool {
        if self.has_failed(Some(Ok(()))) {
            self.fill.end(Err(()));
            return false;
        }
        let is_stored = self.leader.take().is_some_and(|leader| {
            let object = Arc::new(self.fill.to_object(self.lease.take()));
            let is_stored = store_object(&self.shared, leader, &object);
            // The object owns the file now.
            self.spool = None;
            is_stored
        });
        self.fill.end(Ok(()));
        is_stored
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if self.lease.is_some() {
            self.fill.stop_storing(self.lease.take());
        }
        // Has no effect if the content has ended.
        self.fill.end(Err(()));
    }
}
