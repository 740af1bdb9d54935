//! A request whose body is on its way, into memory or to disk.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, request::Parts};
use http_body::Body as _;

use super::{super::spill::Spill, Options, no_room, too_large, trailed::Trailed};
use crate::{
    Body, Budget, Request,
    budget::{Full, Lease},
    error::BoxError,
    net::reclaim,
};

pub(super) struct Reading {
    /// Taken when the body is complete.
    parts: Option<Parts>,
    body: Body,
    max_body: u64,
    max_memory: usize,
    budget: Budget,
    /// What is in memory of it, and stays there.
    lease: Lease,
    len: u64,
    store: Store,
    trailers: Option<HeaderMap>,
    ended: bool,
}

/// Where the body is.
enum Store {
    /// Nothing yet, or the only piece, which is not copied.
    One(Bytes),
    /// Copied: there are several, or it waits for others, and a small piece may keep a large read
    /// buffer alive.
    Memory(BytesMut),
    Disk(Spill),
}

impl Drop for Reading {
    fn drop(&mut self) {
        reclaim::after_free(self.budget.usage().memory);
    }
}

impl Reading {
    pub(super) fn new(request: Request, options: &Options) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            parts: Some(parts),
            body,
            max_body: options.max_body,
            max_memory: options.max_memory,
            lease: options.budget.memory(),
            budget: options.budget.clone(),
            len: 0,
            store: Store::One(Bytes::new()),
            trailers: None,
            ended: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Request, BoxError>> {
        while !self.ended {
            ready!(self.poll_room(cx))?;
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                None => self.ended = true,
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.push(data)?,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
        if let Store::Disk(spill) = &mut self.store {
            let written = ready!(spill.poll_settle(cx));
            written.map_err(|failed| no_room(&self.budget, failed.error))?;
        }
        let parts = self.parts.take().expect("a body ends once");
        Poll::Ready(Ok(Request::from_parts(parts, self.whole())))
    }

    /// Waits for the disk, if it is behind.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Store::Disk(spill) = &mut self.store else { return Poll::Ready(Ok(())) };
        // Also to begin writing: the disk works while the client sends.
        let step = spill.poll_step(cx);
        let result = match step {
            Poll::Ready(Err(failed)) => Err(failed.error),
            Poll::Pending if !spill.has_room() => return Poll::Pending,
            Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
        };
        Poll::Ready(result.map_err(|e| no_room(&self.budget, e)))
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
        if first && self.budget.is_spent() {
            return Err(no_room(&self.budget, Full));
        }
        let stays = !matches!(self.store, Store::Disk(_))
            && self.len <= self.max_memory as u64
            && !self.budget.is_tight()
            && self.lease.try_set(self.len).is_ok();
        if stays { self.keep(data) } else { self.spill(data).map_err(|e| no_room(&self.budget, e)) }
    }

    fn keep(&mut self, data: Bytes) -> Result<(), BoxError> {
        match &mut self.store {
            Store::One(none) if none.is_empty() && self.body.is_end_stream() => *none = data,
            Store::One(first) => {
                let mut all = BytesMut::with_capacity(first.len() + data.len());
                all.extend_from_slice(first);
                all.extend_from_slice(&data);
                self.store = Store::Memory(all);
            }
            Store::Memory(all) => all.extend_from_slice(&data),
            Store::Disk(_) => unreachable!("what was spilled stays there"),
        }
        Ok(())
    }

    fn spill(&mut self, data: Bytes) -> Result<(), Full> {
        if !matches!(self.store, Store::Disk(_)) {
            let so_far = match mem::replace(&mut self.store, Store::Disk(Spill::new(&self.budget)))
            {
                Store::One(first) => first,
                Store::Memory(all) => all.freeze(),
                Store::Disk(_) => unreachable!("looked at just above"),
            };
            self.append(so_far)?;
            self.lease.set(0); // what is on its way to the disk counts there
        }
        self.append(data)
    }

    fn append(&mut self, data: Bytes) -> Result<(), Full> {
        let Store::Disk(spill) = &mut self.store else { return Ok(()) };
        if data.is_empty() { Ok(()) } else { spill.push(data) }
    }

    fn whole(&mut self) -> Body {
        let lease = self.lease.take();
        let body = match mem::replace(&mut self.store, Store::One(Bytes::new())) {
            Store::One(bytes) => Body::from(lease.hold(bytes)),
            Store::Memory(bytes) => Body::from(lease.hold(bytes.freeze())),
            Store::Disk(spill) => {
                Body::file(spill.into_slice().expect("it was written to its end"))
            }
        };
        match self.trailers.take() {
            None => body,
            trailers => Body::new(Trailed { body, trailers }),
        }
    }
}
