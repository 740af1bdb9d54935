//! The deadlines of an exchange.

use std::time::{Duration, Instant};

use h2::Reason;
use http::StatusCode;

use super::{Exchange, Stage};
use crate::conn::{Config, h2::server::Shared, log_request};

/// Time in which the rest of a request's body is discarded after its response: 1 s.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

impl Exchange {
    /// Returns the earliest deadline of this stage.
    pub(in crate::conn::h2::server) fn deadline(&self, config: &Config) -> Option<Instant> {
        let upload = self.upload.as_ref().and_then(|upload| upload.deadline(&config.limits));
        let stage = match &self.stage {
            Stage::Admit(_, since) => since.checked_add(config.ready_timeout),
            Stage::Called(..) if self.waits_for_client => None,
            Stage::Called(_, since) => since.checked_add(config.answer_timeout),
            // Its body may be idle while `h2` holds data, since a client can shrink its window (RFC 9113 section 6.9.2).
            Stage::Respond(outgoing) => {
                let held = self.sending.waits_since;
                let held = held.and_then(|since| since.checked_add(config.write_timeout));
                [outgoing.deadline(config.write_timeout), held].into_iter().flatten().min()
            }
            Stage::Queued(queued) => queued.deadline(config.write_timeout),
            Stage::Discard(since) => since.checked_add(DISCARD_TIMEOUT),
            Stage::Answered(_) | Stage::Tunnel(..) | Stage::Ended => None,
        };
        [upload, stage].into_iter().flatten().min()
    }

    /// Records that the client took data of the connection at `at`, after a time in which the socket was full.
    pub(in crate::conn::h2::server) fn record_progress(&mut self, at: Instant) {
        self.sending.record_progress(at);
        match &mut self.stage {
            Stage::Respond(outgoing) => outgoing.record_progress(at),
            Stage::Queued(queued) => queued.record_progress(at),
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Discard(_)
            | Stage::Tunnel(..)
            | Stage::Ended => {}
        }
    }

    /// Handles a deadline that has passed. The exchange must be polled after that.
    pub(in crate::conn::h2::server) fn expire(&mut self, shared: &Shared, now: Instant) {
        let config = &shared.config;
        if let Some(upload) = &mut self.upload
            && upload.deadline(&config.limits).is_some_and(|d| d <= now)
        {
            // The service gets the error from the body. Its response, usually an error, is still sent.
            upload.time_out();
            self.upload = None;
            self.waits_for_client = false;
            if let Stage::Called(_, since) = &mut self.stage {
                *since = now;
            }
            return;
        }
        match self.stage {
            Stage::Admit(..) => {
                log_request!(
                    warn,
                    "vestibule::request",
                    &self.info,
                    "the service was not ready in time"
                );
                self.refuse(StatusCode::SERVICE_UNAVAILABLE);
            }
            Stage::Called(..) => {
                let message = "the service did not answer in time";
                log_request!(error, "vestibule::request", &self.info, "{message}");
                self.refuse(StatusCode::GATEWAY_TIMEOUT);
            }
            Stage::Respond(_) | Stage::Queued(_) => {
                let message = "the client does not read the response";
                log_request!(debug, "vestibule::request", &self.info, "{message}");
                self.reset(Reason::CANCEL);
                let _ = self.end(shared, false);
            }
            Stage::Discard(_) => {
                self.upload = None;
                self.stage = Stage::Ended;
            }
            Stage::Answered(_) | Stage::Tunnel(..) | Stage::Ended => {}
        }
    }
}
