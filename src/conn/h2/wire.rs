//! `Wire`: the stream below `h2`, with the bytes that were read ahead, a meter of frames, and the progress of writes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    conn::read_ahead::ReadAhead,
    net::{Io, clock},
    peer::{MinRate, RateMeter},
    proto::h2::{Flood, FrameLimits, FrameMeter},
};

/// A stream for `h2`.
#[derive(Debug)]
pub(super) struct Wire<I> {
    io: I,
    read_ahead: ReadAhead,
    state: WireState,
}

/// The state of a connection's stream, which `h2` owns.
#[derive(Debug, Clone)]
pub(super) struct WireState(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// `None` for a client, since its server is trusted not to flood it.
    meter: Option<FrameMeter>,
    flood: Option<Flood>,
    rate: MinRate,
    /// The last progress of a write that waits for the peer, and its rate.
    blocked: Option<(Instant, RateMeter)>,
}

impl<I: Io> Wire<I> {
    pub(super) fn new(io: I, read_ahead: BytesMut, rate: MinRate, limits: FrameLimits) -> Self {
        let meter = Some(FrameMeter::new(limits));
        let state = State { meter, flood: None, rate, blocked: None };
        let read_ahead = ReadAhead::new(read_ahead);
        Self { io, read_ahead, state: WireState(Arc::new(Mutex::new(state))) }
    }

    pub(super) fn state(&self) -> WireState {
        self.state.clone()
    }
}

impl WireState {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the flood of frames that the peer has sent, if there was one.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.lock().flood
    }

    /// Returns the time at which the peer is too slow: it reads nothing from the socket for `write`, or less than the
    /// minimum rate, or takes more than `head` for the head of a request.
    pub(super) fn deadline(&self, write: Duration, head: Duration) -> Option<Instant> {
        let state = self.lock();
        let head_since = state.meter.as_ref().and_then(FrameMeter::head_since);
        let head = head_since.and_then(|since| since.checked_add(head));
        let (stalled, rate) = match &state.blocked {
            Some((since, meter)) => (since.checked_add(write), meter.deadline()),
            None => (None, None),
        };
        [head, stalled, rate].into_iter().flatten().min()
    }

    fn record_read(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if let Some(meter) = &mut state.meter
            && let Err(flood) = meter.record(clock::now(), bytes)
        {
            state.flood = Some(flood);
        }
    }

    /// Records a write of `written` of `offered` bytes; `None` if it is pending.
    fn record_write(&self, offered: usize, written: Option<usize>) {
        let mut state = self.lock();
        let written_len = written.unwrap_or(0);
        if let Some(meter) = &mut state.meter {
            meter.record_sent(written_len);
        }
        if written == Some(offered) {
            state.blocked = None;
            return;
        }
        let (now, rate) = (clock::now(), state.rate);
        let (since, meter) =
            state.blocked.get_or_insert_with(|| (now, RateMeter::start(rate, now)));
        if written_len > 0 {
            *since = now;
            meter.record(rate, now, written_len as u64);
        }
    }
}

impl<I: Io> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.state.flood().is_some() {
            return Poll::Pending; // the connection is being closed by its own poll
        }
        let before = buf.filled().len();
        ready!(this.read_ahead.poll_read(&mut this.io, cx, buf))?;
        this.state.record_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncWrite for Wire<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.record_result(buf.len(), &result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.record_result(bufs.iter().map(|buf| buf.len()).sum(), &result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        if result.is_pending() {
            self.state.record_write(1, None); // TLS has buffered bytes
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<I: Io> Wire<I> {
    fn record_result(&self, offered: usize, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(n)) => self.state.record_write(offered, Some(*n)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.state.record_write(offered, None),
        }
    }
}
