//! Calls the service for requests, one after another, when the gate is open and the service is ready.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::{Connection, State, exchange::Admission};
use crate::{
    HttpService,
    conn::call::{call_service, catch_panic},
    net::{GateWaiter, Io},
};

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Calls the service for waiting requests while the gate is open and the service is ready. `cx` is that of the task,
    /// each of whose polls calls this.
    ///
    /// Requests wait at the gate here, not in `h2`, so that the connection counts as active, their data in the budget, and
    /// their time for `ready_timeout`. `max_streams` bounds their number.
    pub(super) fn admit(&mut self, now: Instant, cx: &mut Context<'_>) {
        while let Some(&key) = self.waiting.front() {
            let Some(stream) = self.streams.get(key) else {
                self.waiting.pop_front(); // it has ended
                continue;
            };
            match stream.exchange.admission() {
                Admission::Waits => {}
                Admission::Ended => {
                    self.waiting.pop_front();
                    continue;
                }
            }
            // The client frees a stream when it resets it. What runs for it ends with the next poll of the request, so that
            // the client cannot begin more work than it may have streams.
            if self.load.working >= self.max_working {
                return;
            }
            if stream.exchange.is_cancelled(&mut Context::from_waker(stream.waker.waker())) {
                stream.waker.wake(); // its next poll ends it
                self.waiting.pop_front();
                continue;
            }
            let Some(service) = &mut self.service else {
                self.waiting.pop_front();
                self.refuse(key);
                continue;
            };
            if !self.has_passed_gate {
                if self.shared.config.gate.poll_opened(&mut self.gate, cx).is_pending() {
                    return;
                }
                // The service may reserve the last capacity when its readiness is polled, which closes the gate.
                self.has_passed_gate = true;
            }
            let ready = catch_panic(|| service.poll_ready(cx).map_err(Into::into));
            match ready.unwrap_or_else(|panicked| Poll::Ready(Err(panicked.into()))) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => {
                    self.waiting.pop_front();
                    if let Some(stream) = self.streams.get(key) {
                        stream.exchange.fail(&self.shared, &error);
                        stream.waker.wake();
                    }
                    self.end_service();
                }
                Poll::Ready(Ok(())) => {
                    self.waiting.pop_front();
                    self.has_passed_gate = false;
                    self.call(key, now);
                }
            }
        }
        self.release_admission();
    }

    /// Releases what was reserved, or is awaited, for requests that do not wait any more: the client has cancelled them, or
    /// they have timed out. Nothing polls for a permit that the gate or the service is given later, so an idle client would
    /// keep it.
    fn release_admission(&mut self) {
        self.gate = GateWaiter::default();
        if std::mem::take(&mut self.has_passed_gate)
            && let Some(service) = &mut self.service
        {
            // A clone has reserved nothing.
            if let Err(panicked) = catch_panic(|| *service = service.clone()) {
                let (client, error) = (&self.shared.peer, &panicked);
                tracing::error!(%client, %error, "cannot clone the service; the connection ends after its requests");
                self.end_service();
            }
        }
    }

    fn call(&mut self, key: usize, now: Instant) {
        let (Some(stream), Some(service)) = (self.streams.get(key), &mut self.service) else {
            return;
        };
        let Some(request) = stream.exchange.take_request() else { return };
        match catch_panic(|| call_service(service, request)) {
            Ok(call) => {
                stream.exchange.start_call(call, now);
                stream.count(false, &mut self.load);
            }
            Err(panicked) => {
                stream.exchange.fail(&self.shared, &panicked.into());
                self.end_service();
            }
        }
        if let Some(stream) = self.streams.get(key) {
            stream.waker.wake();
        }
    }

    /// Refuses a request, since the service has failed.
    fn refuse(&mut self, key: usize) {
        if let Some(stream) = self.streams.get(key) {
            stream.exchange.refuse(http::StatusCode::SERVICE_UNAVAILABLE);
            stream.waker.wake();
        }
    }

    /// Drops a service that has panicked or whose readiness failed. The connection ends after the requests in flight.
    fn end_service(&mut self) {
        self.service = None;
        if let State::Open(connection) = &mut self.state {
            connection.graceful_shutdown();
            self.connection_waker.wake();
        }
    }
}
