//! `Active`: the state that a connection owns only while it is not idle.

mod unused;

use std::{fmt, sync::Arc, time::Instant};

use bytes::BytesMut;
use http::Request;

use super::idle::Idle;
use crate::{
    Budget,
    body::{Body, Sender},
    budget::Lease,
    conn::{
        InterimResponses, access_log::Transfers, call::Call, first_read::FirstRead, output::Output,
        request_log::RequestLine, upgrade::Takeover,
    },
    net::GateWaiter,
    proto::h1::{Conn, Event, IdleState, Limits, Server},
};

/// Whether a connection is idle or active. There may be thousands of idle ones, so they keep only the
/// state needed to resume.
pub(super) enum Phase {
    Idle(Idle),
    Active(Box<Active>),
}

/// The state of an exchange, with buffered input of the next one and unwritten output.
pub(super) struct Active {
    pub(super) core: Conn<Server>,
    pub(super) input: BytesMut,
    pub(super) output: Output,
    pub(super) stage: Stage,
    /// The line of the current request, for log lines; `None` if its head could not be read.
    pub(super) request: Option<RequestLine>,
    /// When the first byte of its head was received.
    pub(super) request_began: Instant,
    /// Bytes of its head; log lines share its memory.
    pub(super) head_bytes: usize,
    /// Entries of the access log that cannot be written yet.
    pub(super) transfers: Transfers,
    /// The sender of the current request's body, while that is incomplete.
    pub(super) upload: Option<Upload>,
    /// Where the service puts interim responses, while it is called for a client that knows them.
    pub(super) interim: Option<InterimResponses>,
    /// The connection's share of the budget, for memory held between two polls.
    lease: Option<Lease>,
    /// The size of the next first read.
    pub(super) first_read: FirstRead,
    /// When bytes were last read.
    pub(super) last_read: Instant,
    /// Whether the client has ended its sending half.
    pub(super) read_closed: bool,
    /// Since when a client that did so after a complete request waits for the next piece of a response.
    pub(super) half_closed: Option<Instant>,
    /// Once the drain has started: the deadline for completing a head.
    pub(super) drain_until: Option<Instant>,
    /// Whether the request's body violated the protocol or was too slow.
    pub(super) protocol_error: bool,
    /// Whether the current request asks for another protocol, or for a tunnel by CONNECT.
    pub(super) wants_upgrade: bool,
    /// Whether the first bytes may be the preface of HTTP/2.
    pub(super) detects_http2: bool,
    /// Whether a close-delimited response (RFC 9112 section 6.3) is incomplete: an orderly close now would
    /// make it look complete.
    pub(super) is_close_delimited: bool,
}

/// Memory kept for log lines counts in the budget only above this size, 4 KiB: below it, a lease would cost
/// each request more than it is worth.
const MAX_UNCOUNTED: usize = 4 << 10;

/// The largest input buffer that is kept for the next request, perhaps of another connection, 4 KiB: most heads are
/// smaller.
const MAX_KEPT_INPUT: usize = 4 << 10;

/// A request body that is being forwarded to the service.
pub(super) struct Upload {
    pub(super) sender: Sender,
    /// Whether its reader was ready for more at the last poll.
    pub(super) is_wanted: bool,
    /// Whether a part of the body was moved into a pipe, as its rest will be.
    pub(super) is_piped: bool,
}

/// The stage of the current exchange.
///
/// ```text
///   Head ──▶ Admit ──▶ Call ──▶ Respond ──▶ Discard ──▶ Head ...
///                                   └──────────┴──▶ Close ──▶ Linger ──▶ (end)
/// ```
pub(super) enum Stage {
    /// Reading a head, perhaps after waiting at the gate.
    Head(GateWaiter),
    /// The head is complete: waiting for the service's readiness, until this time.
    Admit(Box<Request<Body>>, Instant),
    /// The service is working. Since this time the driver has waited for it, not for the client.
    Call(Call, Instant),
    /// Sending a streamed body.
    Respond(Body),
    /// The response is sent: discarding the rest of the request, at most this many bytes. If the request's
    /// body has a reader that does not read, the driver waits for it until this time.
    Discard(u64, Instant),
    /// Flushing, then closing; with `linger` if the client may still be sending.
    Close {
        linger: bool,
    },
    /// Sending the end of the stream, which takes bytes with TLS, until this time.
    Shutdown(Instant),
    /// Discarding input after the last response, at most this many bytes, until this time.
    Linger(u64, Instant),
    /// The client has sent the preface of HTTP/2: the transport goes to another driver.
    Http2,
    /// A response of 101, or the success of a CONNECT, is sent: then the transport goes to the tunnel, with the response's body.
    Switch(Box<(Takeover, Body)>),
    End,
}

impl Stage {
    /// Returns the stage that waits for the next head, not held up by the gate.
    pub(super) fn head() -> Self {
        Self::Head(GateWaiter::default())
    }

    /// Returns whether the next head is held up by the gate.
    pub(super) fn is_gated(&self) -> bool {
        matches!(self, Self::Head(gate) if gate.is_waiting())
    }
}

impl Phase {
    /// Returns the active state for the next poll, creating it from the idle one.
    pub(super) fn activate(&mut self, limits: &Arc<Limits>) -> &mut Active {
        if let Self::Idle(idle) = *self {
            *self = Self::Active(unused::acquire(limits, idle));
        }
        match self {
            Self::Active(active) => active,
            Self::Idle(_) => unreachable!("it was activated just above"),
        }
    }

    /// Becomes idle if no exchange is under way, and drops the buffers and other state that an idle
    /// connection does not need.
    pub(super) fn try_idle(&mut self, budget: &Budget) {
        let Self::Active(active) = self else { return };
        active.output.return_buffer();
        if let Some(core) = active.idle_state() {
            let idle = Idle::new(core, active.first_read);
            if let Self::Active(active) = std::mem::replace(self, Self::Idle(idle)) {
                unused::release(active);
            }
            return;
        }
        if active.input.is_empty() && active.head_bytes > MAX_KEPT_INPUT {
            // Even an empty buffer may still share its allocation with a request's head.
            active.input = BytesMut::new();
        }
        active.update_lease(budget);
    }
}

impl Active {
    fn new(limits: &Arc<Limits>, idle: Idle) -> Self {
        let (idle, first_read) = (idle.core(), idle.first_read);
        Self {
            core: Conn::from_idle(limits.clone(), idle),
            first_read,
            lease: None,
            last_read: idle.since(),
            input: BytesMut::new(),
            output: Output::default(),
            stage: Stage::head(),
            request: None,
            request_began: idle.since(),
            head_bytes: 0,
            transfers: Transfers::default(),
            upload: None,
            interim: None,
            read_closed: false,
            half_closed: None,
            drain_until: None,
            protocol_error: false,
            wants_upgrade: false,
            detects_http2: false,
            is_close_delimited: false,
        }
    }

    /// Continues a connection that has been idle.
    fn resume(&mut self, limits: &Arc<Limits>, idle: Idle) {
        self.first_read = idle.first_read;
        let idle = idle.core();
        self.core.reset(limits, idle);
        (self.last_read, self.request_began) = (idle.since(), idle.since());
    }

    /// Drops what belongs to an exchange or a connection, so that another connection can use the allocations.
    fn clear(&mut self) {
        // Without `..`, so that a new field is not forgotten. `resume` resets the first four.
        let Self {
            core: _,
            first_read: _,
            last_read: _,
            request_began: _,
            input,
            output,
            stage,
            request,
            head_bytes,
            transfers,
            upload,
            interim,
            lease,
            read_closed,
            half_closed,
            drain_until,
            protocol_error,
            wants_upgrade,
            detects_http2,
            is_close_delimited,
        } = self;
        input.clear();
        if input.try_reclaim(MAX_KEPT_INPUT + 1) {
            *input = BytesMut::new();
        }
        output.reset();
        transfers.clear();
        (*stage, *request, *head_bytes) = (Stage::head(), None, 0);
        (*upload, *interim, *lease) = (None, None, None);
        (*half_closed, *drain_until) = (None, None);
        (*read_closed, *protocol_error, *is_close_delimited) = (false, false, false);
        (*wants_upgrade, *detects_http2) = (false, false);
    }

    /// Stops waiting at a closed gate, so that no permit is reserved for this connection. The client's idle time did not run
    /// meanwhile.
    pub(super) fn leave_gate(&mut self, now: Instant) {
        if self.stage.is_gated() {
            self.stage = Stage::head();
            self.core.resume(now);
        }
    }

    /// Returns whether nothing of the next request has been read, except empty lines.
    pub(super) fn awaits_request(&self) -> bool {
        matches!(self.stage, Stage::Head(_)) && self.core.is_idle()
    }

    /// Returns whether bytes after the last request were read that may be the next one.
    pub(super) fn has_head_read_ahead(&self) -> bool {
        matches!(self.stage, Stage::Head(_)) && !self.input.is_empty()
    }

    /// Returns whether the reader of the request's body was ready for more at the last poll.
    pub(super) fn wants_upload(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.is_wanted)
    }

    /// Returns whether the rest of the request's body waits for a reader that does not read.
    pub(super) fn has_stalled_reader(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.is_wanted)
    }

    /// Returns whether the whole request has been received, even if its reader has not read it all. Drops what
    /// no reader will read of a chunked body.
    pub(super) fn has_whole_request(&mut self, now: Instant) -> bool {
        // The end of a chunked body is found by reading it only.
        while self.upload.is_none()
            && self.core.is_reading_body()
            && self.core.remaining_body().is_none()
        {
            match self.core.recv(now, &mut self.input) {
                Ok(Some(Event::Data(_))) => {}
                Ok(Some(Event::End(_))) => return true,
                Ok(Some(Event::Head(_)) | None) | Err(_) => return false,
            }
        }
        let remaining =
            if self.core.is_reading_body() { self.core.remaining_body() } else { Some(0) };
        remaining.is_some_and(|n| n <= self.input.len() as u64)
    }

    /// Sends the interim responses that the service has, while there is room. An invalid one is dropped.
    pub(super) fn relay_interim(&mut self) {
        let Some(interim) = &self.interim else { return };
        while self.output.has_room()
            && let Some((status, headers)) = interim.take()
        {
            let _ = self.core.send_interim(status, &headers, self.output.head());
        }
    }

    /// Restarts the service's timer: from now on the driver waits for the service, not for the client.
    pub(super) fn restart_call_timer(&mut self, now: Instant) {
        if let Stage::Call(_, since) = &mut self.stage {
            *since = now;
        }
    }

    /// Updates the lease to the memory of incomplete heads, requests read ahead, log entries and unwritten
    /// output.
    fn update_lease(&mut self, budget: &Budget) {
        let head = if self.transfers.is_open() { 0 } else { self.head_bytes };
        let log = Some(self.transfers.memory_size() + head).filter(|held| *held > MAX_UNCOUNTED);
        let held = (self.input.len() + self.output.capacity() + log.unwrap_or(0)) as u64;
        if held > 0 || self.lease.is_some() {
            self.lease.get_or_insert_with(|| budget.memory_lease()).set(held);
        }
    }

    /// Returns the state needed to resume later, if all other state is as in a new connection.
    fn idle_state(&self) -> Option<IdleState> {
        let is_unused = matches!(self.stage, Stage::Head(_))
            && !self.stage.is_gated()
            && self.input.is_empty()
            && self.output.is_empty()
            && self.upload.is_none()
            && self.transfers.is_empty()
            && self.drain_until.is_none() // it would start again
            && !(self.read_closed || self.protocol_error || self.is_close_delimited);
        if is_unused { self.core.idle_state() } else { None }
    }
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle(_) => "Idle",
            Self::Active(_) => "Active",
        })
    }
}

#[cfg(test)]
mod tests;
