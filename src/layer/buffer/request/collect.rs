//! Collects a request body in memory or on disk.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, request::Parts};
use http_body::Body as _;

use super::{super::spill::Spill, Options, overloaded, too_large, with_trailers::WithTrailers};
use crate::{
    Body, Budget, Request,
    budget::{BudgetExhausted, Lease},
    error::BoxError,
    net::reclaim,
};

/// A request whose body is being received.
pub(super) struct Collect {
    /// Taken when the body is complete.
    parts: Option<Parts>,
    body: Body,
    max_body: u64,
    max_memory: usize,
    budget: Budget,
    /// Counts the part of the body that stays in memory.
    lease: Lease,
    len: u64,
    stored: Stored,
    trailers: Option<HeaderMap>,
    is_ended: bool,
}

/// The part of the body that was received.
enum Stored {
    /// Empty, or the only piece of the body, not copied.
    Single(Bytes),
    /// A copy of several pieces, or of one that waits for more: an uncopied small piece could keep a large
    /// read buffer alive.
    Memory(BytesMut),
    Disk(Spill),
}

impl Drop for Collect {
    fn drop(&mut self) {
        reclaim::after_free(self.budget.usage().memory);
    }
}

impl Collect {
    pub(super) fn new(request: Request, options: &Options) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            parts: Some(parts),
            body,
            max_body: options.max_body,
            max_memory: options.max_memory,
            lease: options.budget.memory_lease(),
            budget: options.budget.clone(),
            len: 0,
            stored: Stored::Single(Bytes::new()),
            trailers: None,
            is_ended: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Request, BoxError>> {
        while !self.is_ended {
            ready!(self.poll_capacity(cx))?;
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                None => self.is_ended = true,
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.push(data)?,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
        if let Stored::Disk(spill) = &mut self.stored {
            let written = ready!(spill.poll_flush(cx));
            written.map_err(|failed| overloaded(&self.budget, failed.error))?;
        }
        let parts = self.parts.take().expect("a body ends once");
        Poll::Ready(Ok(Request::from_parts(parts, self.take_body())))
    }

    /// Waits until the disk has caught up, if the body goes there.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Stored::Disk(spill) = &mut self.stored else { return Poll::Ready(Ok(())) };
        // Also starts the next write, so that the disk works while the client sends.
        let step = spill.poll_write(cx);
        let result = match step {
            Poll::Ready(Err(failed)) => Err(failed.error),
            Poll::Pending if !spill.has_capacity() => return Poll::Pending,
            Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
        };
        Poll::Ready(result.map_err(|e| overloaded(&self.budget, e)))
    }

    fn push(&mut self, data: Bytes) -> Result<(), BoxError> {
        if data.is_empty() {
            return Ok(());
        }
        let first = self.len == 0;
        self.len += data.len() as u64;
        if self.len > self.max_body {
            return Err(too_large(self.max_body));
        }
        if first && self.budget.is_exhausted() {
            return Err(overloaded(&self.budget, BudgetExhausted));
        }
        let fits_in_memory = !matches!(self.stored, Stored::Disk(_))
            && self.len <= self.max_memory as u64
            && !self.budget.is_above_soft_limit()
            && self.lease.try_set(self.len).is_ok();
        if fits_in_memory {
            self.store_in_memory(data)
        } else {
            self.spill(data).map_err(|e| overloaded(&self.budget, e))
        }
    }

    fn store_in_memory(&mut self, data: Bytes) -> Result<(), BoxError> {
        match &mut self.stored {
            Stored::Single(none) if none.is_empty() && self.body.is_end_stream() => *none = data,
            Stored::Single(first) => {
                let mut all = BytesMut::with_capacity(first.len() + data.len());
                all.extend_from_slice(first);
                all.extend_from_slice(&data);
                self.stored = Stored::Memory(all);
            }
            Stored::Memory(all) => all.extend_from_slice(&data),
            Stored::Disk(_) => unreachable!("a spilled body stays on disk"),
        }
        Ok(())
    }

    fn spill(&mut self, data: Bytes) -> Result<(), BudgetExhausted> {
        if !matches!(self.stored, Stored::Disk(_)) {
            let stored =
                match mem::replace(&mut self.stored, Stored::Disk(Spill::new(&self.budget))) {
                    Stored::Single(first) => first,
                    Stored::Memory(all) => all.freeze(),
                    Stored::Disk(_) => unreachable!("checked just above"),
                };
            self.push_to_spill(stored)?;
            self.lease.set(0); // the spill counts it from here on
        }
        self.push_to_spill(data)
    }

    fn push_to_spill(&mut self, data: Bytes) -> Result<(), BudgetExhausted> {
        let Stored::Disk(spill) = &mut self.stored else { return Ok(()) };
        if data.is_empty() { Ok(()) } else { spill.push(data) }
    }

    fn take_body(&mut self) -> Body {
        let lease = self.lease.take();
        let body = match mem::replace(&mut self.stored, Stored::Single(Bytes::new())) {
            Stored::Single(bytes) => Body::from(lease.hold(bytes)),
            Stored::Memory(bytes) => Body::from(lease.hold(bytes.freeze())),
            Stored::Disk(spill) => {
                Body::file(spill.into_slice().expect("a non-empty body was flushed"))
            }
        };
        match self.trailers.take() {
            None => body,
            trailers => Body::new(WithTrailers { body, trailers }),
        }
    }
}
