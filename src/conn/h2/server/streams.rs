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
    /// Whether it counts in [`Connection::holding`](super::Connection).
    is_holding: bool,
}

impl Stream {
    /// Counts whether it holds data.
    pub(super) fn count(&mut self, has_ended: bool, holding: &mut usize) {
        let is_holding = !has_ended && (self.exchange.is_paused() || self.exchange.held() > 0);
        match (std::mem::replace(&mut self.is_holding, is_holding), is_holding) {
            (false, true) => *holding += 1,
            (true, false) => *holding -= 1,
            (false, false) | (true, true) => {}
        }
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
        self.slots[key] = Some(Stream { exchange, waker, id, is_holding: false });
        key
    }

    pub(super) fn remove(&mut self, key: usize) {
        if self.slots[key].take().is_some() {
            self.free.push(key);
        }
        if self.is_empty() {
            *self = Self::default(); // an idle connection owns no table
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().flatten()
    }
}
