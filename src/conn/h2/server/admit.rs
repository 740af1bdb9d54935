//! Calls the service for requests, one after another, when it is ready.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::{Connection, State, exchange::Admission};
use crate::{
    HttpService,
    conn::call::{call_service, catch_panic},
    net::Io,
};

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Calls the service for waiting requests while it is ready.
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
            let Some(service) = &mut self.service else {
                self.waiting.pop_front();
                self.refuse(key);
                continue;
            };
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
                    self.call(key, now);
                }
            }
        }
    }

    fn call(&mut self, key: usize, now: Instant) {
        let (Some(stream), Some(service)) = (self.streams.get(key), &mut self.service) else {
            return;
        };
        let Some(request) = stream.exchange.take_request() else { return };
        match catch_panic(|| call_service(service, request)) {
            Ok(call) => stream.exchange.start_call(call, now),
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
