//! The end of a connection: the last bytes are written, and the client may still be sending.

use std::{
    io,
    task::{Context, Poll},
    time::Instant,
};

use super::{Connection, State, streams::Load};
use crate::{
    HttpService,
    net::{DrainWatch, GateWaiter, Io},
};

/// The end of a connection whose `h2` has ended.
///
/// The client releases windows as it reads the rest of a response. A socket that is closed before answers such a frame
/// with a reset, and the kernel then discards what it has not sent.
pub(super) struct Closing {
    /// The result of the connection.
    result: io::Result<()>,
    phase: Phase,
}

enum Phase {
    /// Writes the end of the stream, until this time.
    Shutdown(Option<Instant>),
    /// Reads and discards so many bytes, until this time.
    Linger(u64, Option<Instant>),
}

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Ends the connection in order, without requests.
    pub(super) fn close(
        &mut self,
        result: io::Result<()>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        // `h2` has written its last frames itself, so their requests are complete.
        if let Err(failed) = self.flush(now) {
            return Poll::Ready(result.and(failed));
        }
        for stream in self.streams.iter_mut() {
            stream.exchange.abandon(&self.shared);
        }
        self.streams = Default::default();
        self.waiting.clear();
        self.gate = GateWaiter::default();
        self.service = None; // with the capacity that it may have reserved
        (self.load, self.lease) = (Load::default(), None);
        let phase = Phase::Shutdown(now.checked_add(self.shared.config.write_timeout));
        self.state = State::Closing(Closing { result, phase });
        self.poll_closing(now, cx)
    }

    /// Continues the end of the connection.
    pub(super) fn poll_closing(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let State::Closing(closing) = &mut self.state else { return Poll::Pending };
        let until = loop {
            match &mut closing.phase {
                Phase::Shutdown(until) => match self.wire.poll_shutdown(cx) {
                    Poll::Pending => break *until,
                    Poll::Ready(_) => {
                        let options = self.shared.config.http2.clone().unwrap_or_default();
                        let until = now.checked_add(options.linger);
                        closing.phase = Phase::Linger(options.linger_bytes, until);
                    }
                },
                Phase::Linger(left, until) => match self.wire.poll_discard(cx) {
                    Poll::Pending => {
                        if self.is_draining {
                            self.watch = DrainWatch::never(); // all is sent: the drain does not wait
                        }
                        break *until;
                    }
                    Poll::Ready(Ok(n @ 1..)) if (n as u64) < *left => *left -= n as u64,
                    Poll::Ready(_) => break Some(now),
                },
            }
        };
        if !self.timer.poll(cx, until, now) {
            return Poll::Pending;
        }
        Poll::Ready(std::mem::replace(&mut closing.result, Ok(())))
    }
}
