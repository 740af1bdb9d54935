//! `Transfers`: access log entries of responses that are not yet sent completely.

use std::{collections::VecDeque, time::Instant};

use http::{Extensions, StatusCode};

use super::{AccessLog, Entry};
use crate::{net::clock, peer::Peer, semantics::problem::LocalReply};

/// The entries of a connection that cannot be written yet, oldest first.
///
/// Bytes are identified by their position in the connection's byte stream: the driver records where bodies
/// and ends of responses are when it puts them into its output, and how far the output has been written.
/// Without an access log it stays empty and costs nothing.
#[derive(Debug, Default)]
pub(in crate::conn) struct Transfers {
    entries: VecDeque<Transfer>,
    /// The unwritten parts of the output that belong to responses with an entry.
    marks: VecDeque<Mark>,
    /// Whether the end of the last entry's response is not yet in the output.
    is_open: bool,
}

#[derive(Debug)]
struct Transfer {
    entry: Entry,
    began: Instant,
    /// Size of the request's head; the entry shares its memory.
    head_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Bytes of a body, from the first position (inclusive) to the second (exclusive).
    Body(u64, u64),
    /// A response ends before this position.
    End(u64),
}

impl Transfers {
    /// Adds the entry of a request that began at `began` with a head of `head_bytes`.
    pub(in crate::conn) fn begin_entry(&mut self, entry: Entry, began: Instant, head_bytes: usize) {
        debug_assert!(!self.is_open, "responses are sent one after the other");
        if self.entries.capacity() == 0 {
            self.entries.reserve_exact(1); // most connections pipeline nothing
        }
        self.entries.push_back(Transfer { entry, began, head_bytes });
        self.is_open = true;
    }

    /// Returns whether the response that is being sent has an entry.
    pub(in crate::conn) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Removes all, but keeps the allocations.
    pub(in crate::conn) fn clear(&mut self) {
        let Self { entries, marks, is_open } = self;
        entries.clear();
        marks.clear();
        *is_open = false;
    }

    pub(in crate::conn) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records the head of a response: that of the service with these extensions, or one of the driver itself (`None`). A
    /// [`Peer`] in the extensions replaces the client of the entry.
    pub(in crate::conn) fn record_head(&mut self, status: StatusCode, of: Option<&Extensions>) {
        if let Some(entry) = self.open_entry() {
            entry.status = Some(status);
            entry.local_reply = of.is_none_or(|of| of.get::<LocalReply>().is_some());
            if let Some(peer) = of.and_then(|of| of.get::<Peer>()) {
                entry.peer = peer.clone();
            }
        }
    }

    /// Records `len` bytes of a body at position `at` of the output.
    pub(in crate::conn) fn record_body(&mut self, at: u64, len: u64) {
        if !self.is_open || len == 0 {
            return;
        }
        match self.marks.back_mut() {
            Some(Mark::Body(_, end)) if *end == at => *end += len,
            _ => self.marks.push_back(Mark::Body(at, at + len)),
        }
    }

    /// Records the end of the response, at position `at` of the output.
    pub(in crate::conn) fn record_end(&mut self, at: u64) {
        if std::mem::take(&mut self.is_open) {
            self.marks.push_back(Mark::End(at));
        }
    }

    /// Writes the entries of all responses that are complete, now that the output has been written up to
    /// position `written`.
    pub(in crate::conn) fn advance(&mut self, written: u64, log: &AccessLog) {
        while let Some(mark) = self.marks.front_mut() {
            let Some(transfer) = self.entries.front_mut() else { break };
            match mark {
                Mark::Body(from, end) => {
                    let to = written.clamp(*from, *end);
                    transfer.entry.bytes += to - *from;
                    *from = to;
                    if to < *end {
                        break;
                    }
                }
                Mark::End(end) if *end > written => break,
                Mark::End(_) => {
                    transfer.entry.complete = true;
                    self.write_first(log);
                }
            }
            self.marks.pop_front();
        }
    }

    /// Takes the entry of the response that is being sent, whose end is not recorded here, and when its request
    /// began.
    pub(in crate::conn) fn take_open_entry(&mut self) -> Option<(Entry, Instant)> {
        if !std::mem::take(&mut self.is_open) {
            return None;
        }
        self.entries.pop_back().map(|transfer| (transfer.entry, transfer.began))
    }

    /// Writes all entries as they are, since nothing more is sent.
    pub(in crate::conn) fn abort(&mut self, log: &AccessLog) {
        self.marks.clear();
        self.is_open = false;
        while !self.entries.is_empty() {
            self.write_first(log);
        }
    }

    /// Returns the memory in use, in bytes.
    pub(in crate::conn) fn memory_size(&self) -> usize {
        self.entries.capacity() * size_of::<Transfer>()
            + self.marks.capacity() * size_of::<Mark>()
            + self.entries.iter().map(|transfer| transfer.head_bytes).sum::<usize>()
    }

    fn open_entry(&mut self) -> Option<&mut Entry> {
        if self.is_open {
            self.entries.back_mut().map(|transfer| &mut transfer.entry)
        } else {
            None
        }
    }

    fn write_first(&mut self, log: &AccessLog) {
        if let Some(Transfer { mut entry, began, .. }) = self.entries.pop_front() {
            entry.elapsed = clock::now().saturating_duration_since(began);
            log.write(&entry);
        }
    }
}
