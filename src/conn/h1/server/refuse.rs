//! Responses in place of the service: to faults of the client, and to errors and panics of the service.

use http::StatusCode;

use super::{
    active::{Active, Stage},
    driver::{Driver, Step},
};
use crate::{
    HttpService,
    conn::{access_log::Entry, call::ServicePanicked, log_error, log_request},
    error::{BoxError, Chain, Error},
    net::{Io, clock},
    proto::h1::Fault,
    semantics::problem,
};

impl<I, S> Driver<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Answers with 500 in place of a service that has panicked, or aborts the response that has begun, and closes.
    pub(super) fn handle_panic(&mut self, active: &mut Active, panicked: ServicePanicked) {
        // The destructor of a body may panic when its response is complete.
        if matches!(active.stage, Stage::Respond(_)) || active.core.is_idle() {
            let error = Chain(&panicked);
            log_request!(error, "vestibule::request", &self.request_info(active), %error, "the response was aborted");
            self.abort_response(active);
        } else {
            active.interim = None;
            self.refuse_service_error(active, &panicked.into());
        }
    }

    /// Answers in place of a service that has panicked or failed to be ready, by the error's kind, and
    /// closes.
    pub(super) fn refuse_service_error(&mut self, active: &mut Active, error: &BoxError) -> Step {
        log_error(&self.request_info(active), error);
        self.refuse(active, problem::status(Error::kind_of(&**error)));
        Step::Again
    }

    /// Refuses a request that violates the protocol or is too slow.
    pub(super) fn refuse_fault(&mut self, active: &mut Active, fault: Fault) {
        if matches!(active.stage, Stage::Head(_)) {
            let id = self.next_request_id();
            active.request = None;
            if self.config.access_log.is_enabled() {
                let entry = Entry::without_head(&self.peer, id);
                active.transfers.begin_entry(entry, active.request_began, 0);
            }
        }
        log_request!(debug, "vestibule::request", &self.request_info(active), error = %fault, "a request was refused");
        self.refuse(active, fault.status());
    }

    /// Answers in place of the service, and closes. A response that has begun is aborted instead.
    pub(super) fn refuse(&mut self, active: &mut Active, status: StatusCode) {
        active.upload = None;
        self.service = None;
        let core = &mut active.core;
        let before = active.output.end_position();
        let linger = active.output.has_room() && {
            let out = active.output.head();
            clock::with_date_line(clock::now(), |date| core.send_error(status, date, out))
        };
        if linger && active.transfers.is_open() {
            let (body, end) =
                (active.output.body_len_after(before) as u64, active.output.end_position());
            active.transfers.record_head(status, None);
            active.transfers.record_body(end - body, body);
            active.transfers.record_end(end);
        }
        active.stage = Stage::Close { linger };
    }
}
