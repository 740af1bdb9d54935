//! `Sending`: the progress of a response, and its data that waits for the client.

use std::time::Instant;

use super::{Exchange, Stage};
use crate::{
    conn::h2::server::{
        Shared,
        queued::{Last, Queued},
    },
    net::clock,
    proto::h2::Sent,
};

/// The progress of the response: the bytes that were passed to `h2`, and those that it has written.
#[derive(Default)]
pub(super) struct Sending {
    pub(super) queued: u64,
    pub(super) written: u64,
    /// The time since which data that was passed to `h2` waits for the client without progress.
    pub(super) waits_since: Option<Instant>,
    /// Whether the last frame was written.
    has_ended: bool,
    /// Whether the body is streamed, so that data in `h2` counts in the budget. A complete body is the service's memory.
    pub(super) is_streamed: bool,
}

impl Sending {
    /// Returns whether data was passed to `h2` and is not written.
    pub(super) fn is_pending(&self) -> bool {
        self.queued > self.written
    }

    /// Starts the wait for the client if data was passed to `h2`.
    pub(super) fn update_wait(&mut self, now: Instant) {
        if self.is_pending() {
            self.waits_since.get_or_insert(now);
        }
    }

    /// Records that `bytes` were written.
    fn record_written(&mut self, bytes: u64, now: Instant) {
        self.written += bytes;
        self.waits_since = self.is_pending().then_some(now);
    }

    /// Records progress at `at`: until then, the data waited for the socket, whose deadline is that of the connection.
    pub(super) fn record_progress(&mut self, at: Instant) {
        self.waits_since = self.waits_since.map(|since| since.max(at));
    }
}

impl Exchange {
    /// Returns the number of bytes of a streamed response, or of a tunnel, that wait for the client.
    pub(in crate::conn::h2::server) fn held(&self) -> usize {
        match &self.stage {
            Stage::Respond(outgoing) => self.queued() + outgoing.held(),
            Stage::Tunnel(_, unsent)
            | Stage::Queued(Queued { last: Last::Tunnel { unsent, .. }, .. }) => unsent.len(),
            _ => self.queued(),
        }
    }

    /// Returns the number of bytes of a streamed response that `h2` holds.
    pub(in crate::conn::h2::server) fn queued(&self) -> usize {
        let Sending { queued, written, is_streamed, .. } = self.sending;
        match &self.stage {
            Stage::Respond(_) | Stage::Queued(_) if is_streamed => {
                usize::try_from(queued.saturating_sub(written)).unwrap_or(usize::MAX)
            }
            Stage::Respond(_) | Stage::Queued(_) => 0,
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Discard(_)
            | Stage::Tunnel(..)
            | Stage::Ended => 0,
        }
    }

    /// Records written data. `socket_wait` is the time since which data of the connection waited for the socket before.
    /// Returns whether the exchange has ended.
    pub(in crate::conn::h2::server) fn record_sent(
        &mut self,
        shared: &Shared,
        sent: &Sent,
        now: Instant,
        socket_wait: Option<Instant>,
    ) -> bool {
        match &mut self.stage {
            Stage::Respond(outgoing) => outgoing.record_progress(now),
            Stage::Queued(queued) => {
                queued.record_sent(shared.config.write_rate, now, socket_wait, sent.data);
            }
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Discard(_)
            | Stage::Tunnel(..)
            | Stage::Ended => {}
        }
        self.sending.record_written(sent.data as u64, now);
        self.update_room_timeout(now);
        self.sending.has_ended |= sent.has_ended;
        let is_complete = self.sending.has_ended;
        let has_ended = match &self.stage {
            Stage::Queued(Queued { last: Last::Response(_), .. }) => is_complete,
            Stage::Queued(Queued { last: Last::Aborted(_), .. }) => !self.sending.is_pending(),
            _ => false,
        };
        if has_ended {
            let upload = self.upload.take().filter(|_| is_complete); // a reset tells the client to stop
            let _ = self.end(shared, is_complete);
            self.upload = upload;
            if self.upload.is_some() {
                self.stage = Stage::Discard(clock::now());
                return false;
            }
        }
        has_ended
    }

    /// Starts or ends the client's timeout of a response that waits for room. Without data of its own in `h2` it waits for
    /// other responses, which have their timeouts.
    pub(super) fn update_room_timeout(&mut self, now: Instant) {
        if let Stage::Respond(outgoing) = &mut self.stage
            && outgoing.waits_for_room()
        {
            match self.sending.is_pending() {
                true => outgoing.stall(now),
                false => outgoing.resume(now),
            }
        }
    }
}
