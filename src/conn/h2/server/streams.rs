//! `Streams`: the requests in flight of a connection.

use super::exchange::Exchange;
use crate::conn::h2::wakers::{StreamWaker, Wakers};

/// The requests in flight, by key.
#[derive(Default)]
pub(super) struct Streams {
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
}

/// A request in flight.
pub(super) struct Stream {
    /// Boxed, so that the table stays small.
    pub(super) exchange: Box<Exchange>,
    pub(super) waker: StreamWaker,
    /// The number of the stream, which `h2` reads under its lock.
    id: u32,
    /// Whether it counts in [`Load::holding`].
    is_holding: bool,
    /// Whether it counts in [`Load::working`].
    is_working: bool,
    /// Its bytes in [`Load::queued`].
    queued: usize,
    /// Whether it is in the connection's list of those that wait for room.
    pub(super) is_listed: bool,
}

/// Counts of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Requests with data in buffers: their client waits for the reader of the body, or they wait for the client.
    pub(super) holding: usize,
    /// Requests whose service was called and whose response is not complete, including those that the client has reset
    /// since they were polled.
    pub(super) working: usize,
    /// The bytes of streamed responses that `h2` holds.
    pub(super) queued: usize,
}

impl Stream {
    /// Counts the request, whose state may have changed.
    pub(super) fn count(&mut self, has_ended: bool, load: &mut Load) {
        let is_holding = !has_ended && (self.exchange.is_paused() || self.exchange.held() > 0);
        let is_working = !has_ended && self.exchange.is_working();
        for (count, was, is) in [
            (&mut load.holding, &mut self.is_holding, is_holding),
            (&mut load.working, &mut self.is_working, is_working),
        ] {
            match (std::mem::replace(was, is), is) {
                (false, true) => *count += 1,
                (true, false) => *count -= 1,
                (false, false) | (true, true) => {}
            }
        }
        let queued = if has_ended { 0 } else { self.exchange.queued() };
        load.queued = load.queued - std::mem::replace(&mut self.queued, queued) + queued;
    }
}

impl Streams {
    pub(super) fn get(&mut self, key: usize) -> Option<&mut Stream> {
        self.slots.get_mut(key)?.as_mut()
    }

    /// Returns the key of the stream with this number.
    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|stream| stream.id == id))
    }

    pub(super) fn insert(&mut self, exchange: Exchange, wakers: &Wakers) -> usize {
        let key = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let (id, waker) = (exchange.stream_id(), wakers.stream(key));
        let exchange = Box::new(exchange);
        self.slots[key] = Some(Stream {
            exchange,
            waker,
            id,
            is_holding: false,
            is_working: false,
            queued: 0,
            is_listed: false,
        });
        key
    }

    /// Removes a stream, and returns it.
    pub(super) fn remove(&mut self, key: usize) -> Option<Stream> {
        let removed = self.slots[key].take();
        if removed.is_some() {
            self.free.push(key);
        }
        if self.is_empty() {
            *self = Self::default(); // an idle connection owns no table
        }
        removed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }
}
