//! `Outgoing`: sends the body of a response within the client's flow-control windows.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use crate::{
    body::Body,
    conn::call::{ServicePanicked, catch_panic},
    error::BoxError,
    peer::{MinRate, RateMeter},
    proto::h2::{own_values, remove_framing},
};

/// The largest piece, 16,375 bytes: with the header of its frame it fills one record of TLS.
const MAX_PIECE: usize = (16 << 10) - 9;

/// Maximum length of a streamed body that does not wait for room, 16 KiB.
const MAX_SMALL: u64 = 16 << 10;

/// A response body that is being sent.
pub(in crate::conn) struct Outgoing {
    stream: SendStream<Bytes>,
    body: Body,
    /// Data of the body that waits for the client's window.
    pending: Bytes,
    /// Whether `pending` is the last data.
    is_last: bool,
    /// Whether the body is streamed: it is not complete in memory.
    is_streamed: bool,
    /// Whether to wait for window before the body is read: it is streamed, and data is certain to follow.
    awaits_window: bool,
    /// Whether to wait for room before the body is read: it is streamed, and may be longer than [`MAX_SMALL`].
    needs_room: bool,
    /// Whether it waits for room.
    waits_for_room: bool,
    rate: MinRate,
    /// The time since which data waits for the client without progress, and the rate.
    stalled: Option<(Instant, RateMeter)>,
    /// The meter of earlier waits. It continues, so that a window of a few bytes does not restart it.
    meter: Option<(RateMeter, Instant)>,
}

/// The reason why a response was not sent.
#[derive(Debug)]
pub(in crate::conn) enum SendError {
    /// The client has reset the stream, or the connection has ended.
    Gone,
    /// The body failed.
    Body(BoxError),
    /// The body panicked.
    Panicked(ServicePanicked),
}

impl Outgoing {
    pub(in crate::conn) fn new(stream: SendStream<Bytes>, body: Body, rate: MinRate) -> Self {
        let is_streamed = body.as_bytes().is_none();
        Self {
            is_streamed,
            awaits_window: is_streamed && body.len().is_some_and(|len| len > 0),
            needs_room: is_streamed && body.len().is_none_or(|len| len > MAX_SMALL),
            waits_for_room: false,
            stream,
            body,
            pending: Bytes::new(),
            is_last: false,
            rate,
            stalled: None,
            meter: None,
        }
    }

    /// Sends until the body has ended. Adds the number of bytes to `sent`. `room` is the number of bytes that `h2` may hold
    /// in addition: without room no further piece of a streamed body is read, and it
    /// [waits for room](Self::waits_for_room). A piece that was read is sent whole.
    pub(in crate::conn) fn poll(
        &mut self,
        now: Instant,
        mut room: usize,
        sent: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(SendError::Gone));
        }
        loop {
            let needs_piece = self.pending.is_empty() && !self.is_last;
            let waits = self.needs_room && room == 0 && needs_piece;
            if std::mem::replace(&mut self.waits_for_room, waits) && !waits {
                self.resume(now); // it may wait for its service now
            }
            if waits {
                self.drive(cx)?;
                return Poll::Pending;
            }
            if self.pending.is_empty() {
                if self.is_last {
                    return Poll::Ready(Ok(()));
                }
                if self.awaits_window {
                    ready!(self.poll_window(1, now, cx))?; // the body is not read ahead of the window
                }
                if ready!(self.poll_body(cx))? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let window = ready!(self.poll_window(self.pending.len(), now, cx))?;
            let piece = self.pending.split_to(window.min(self.pending.len()).min(MAX_PIECE));
            let (len, ends) = (piece.len(), self.is_last && self.pending.is_empty());
            room = room.saturating_sub(len);
            self.stream.send_data(piece, ends).map_err(|_| SendError::Gone)?;
            *sent += len as u64;
            if let Some((meter, _)) = &mut self.meter {
                meter.record(self.rate, now, len as u64);
            }
            if self.pending.is_empty() {
                self.pending = Bytes::new(); // an empty slice would keep the whole piece alive
            }
        }
    }

    /// Reads the next piece of the body. Ready with `true` if the response has ended with it.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, SendError>> {
        let body = &mut self.body;
        let frame = match catch_panic(|| Pin::new(&mut *body).poll_frame(cx)) {
            Ok(polled) => ready!(polled),
            Err(panicked) => return Poll::Ready(Err(SendError::Panicked(panicked))),
        };
        Poll::Ready(match frame {
            None => {
                self.stream.send_data(Bytes::new(), true).map_err(|_| SendError::Gone)?;
                Ok(true)
            }
            Some(Err(error)) => Err(SendError::Body(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.is_last = self.body.is_end_stream();
                    if data.is_empty() && self.is_last {
                        self.stream.send_data(data, true).map_err(|_| SendError::Gone)?;
                        return Poll::Ready(Ok(true));
                    }
                    self.pending = data;
                    Ok(false)
                }
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    remove_framing(&mut trailers); // `h2` refuses them
                    own_values(&mut trailers);
                    match self.stream.send_trailers(trailers) {
                        Ok(()) => Ok(true),
                        Err(_) if self.stream.poll_reset(cx).is_ready() => Err(SendError::Gone),
                        Err(error) => Err(SendError::Body(error.into())),
                    }
                }
            },
        })
    }

    /// Lets the body make the progress that needs no reader.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), SendError> {
        catch_panic(|| self.body.drive(cx)).map_err(SendError::Panicked)
    }

    /// Ready with the available window, of which `wanted` bytes are requested.
    fn poll_window(
        &mut self,
        wanted: usize,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, SendError>> {
        self.stream.reserve_capacity(wanted);
        let mut room = self.stream.capacity();
        if room == 0 {
            room = match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(SendError::Gone)),
                Poll::Pending => {
                    self.stall(now);
                    self.drive(cx)?;
                    return Poll::Pending;
                }
            };
        }
        self.resume(now);
        Poll::Ready(Ok(room))
    }

    /// Ends the client's timeout.
    pub(in crate::conn) fn resume(&mut self, now: Instant) {
        if let Some((_, meter)) = self.stalled.take() {
            self.meter = Some((meter, now));
        }
    }

    /// Returns whether the next piece of its body waits for room.
    pub(in crate::conn) fn waits_for_room(&self) -> bool {
        self.waits_for_room
    }

    /// Starts the client's timeout, since data waits for it.
    pub(in crate::conn) fn stall(&mut self, now: Instant) {
        if self.stalled.is_some() {
            return;
        }
        let meter = match self.meter.take() {
            None => RateMeter::start(self.rate, now),
            Some((mut meter, since)) => {
                // The time without pending data does not count.
                meter.extend(now.saturating_duration_since(since));
                meter
            }
        };
        self.stalled = Some((now, meter));
    }

    /// Records progress at `at`: until then, data of the stream waited for the socket, not for the client's window. The
    /// deadline of the connection applied.
    pub(in crate::conn) fn record_progress(&mut self, at: Instant) {
        if let Some((since, meter)) = &mut self.stalled {
            meter.extend(at.saturating_duration_since(*since));
            *since = at.max(*since);
        }
    }

    /// Returns the number of bytes of a streamed body that wait for the client's window.
    pub(in crate::conn) fn held(&self) -> usize {
        if self.is_streamed { self.pending.len() } else { 0 }
    }

    /// Returns whether the body is streamed: it is not complete in memory.
    pub(in crate::conn) fn is_streamed(&self) -> bool {
        self.is_streamed
    }

    /// Returns the body, of which nothing may have been read.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for the client"))]
    pub(in crate::conn) fn into_body(self) -> Body {
        self.body
    }

    /// Returns the stream, to which all data was passed.
    pub(in crate::conn) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Returns whether data waits for the client.
    pub(in crate::conn) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Returns the time at which the client is too slow: it accepts no data for `timeout`, or less than the minimum
    /// rate. `None` while no data waits for it.
    pub(in crate::conn) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let (since, meter) = self.stalled.as_ref()?;
        [since.checked_add(timeout), meter.deadline()].into_iter().flatten().min()
    }

    /// Resets the stream, so that the client sees the response as incomplete.
    pub(in crate::conn) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}
