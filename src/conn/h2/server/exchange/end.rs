//! The end of an exchange: complete, aborted, or with its connection.

use std::task::Poll;

use h2::Reason;

use super::{Exchange, Log, Shared, Stage};
use crate::{
    conn::{
        h2::server::{
            queued::{Last, Queued},
            respond::SendError,
        },
        log_request,
    },
    error::Chain,
    net::clock,
};

impl Exchange {
    /// Logs a response that is aborted in its body. The stream is reset when its handles are dropped.
    pub(super) fn log_abort(&self, error: &SendError) {
        let message = "the response was aborted";
        match error {
            SendError::Gone => {}
            SendError::Body(error) => {
                let error = Chain(&**error);
                log_request!(warn, "vestibule::request", &self.info, %error, "{message}");
            }
            SendError::Panicked(error) => {
                let error = Chain(error);
                log_request!(error, "vestibule::request", &self.info, %error, "{message}");
            }
        }
    }

    /// Resets the stream, without the data that `h2` holds.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Ends the exchange: drops what it holds, and writes its entry of the access log.
    pub(super) fn end(&mut self, shared: &Shared, is_complete: bool) -> Poll<()> {
        self.upload = None;
        if let Some(log) = &mut self.log {
            log.entry.bytes = match &self.stage {
                Stage::Tunnel(tunnel, _) => tunnel.written(),
                Stage::Queued(Queued { last: Last::Tunnel { written, .. }, .. }) => *written,
                _ => self.sending.written,
            };
        }
        self.stage = Stage::Ended;
        if let Some(Log { mut entry, began }) = self.log.take() {
            entry.complete = is_complete;
            entry.elapsed = clock::now().saturating_duration_since(began);
            shared.config.access_log.write(&entry);
        }
        Poll::Ready(())
    }

    /// Ends the exchange, since the connection has ended.
    pub(in crate::conn::h2::server) fn abandon(&mut self, shared: &Shared) {
        let _ = self.end(shared, false);
    }
}
