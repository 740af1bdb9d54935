//! `Receiver`: the receiving end of a channel.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{Piece, Shared, lock, store_waker, wake};
use crate::{
    body::{
        pipe::Pipe,
        segment::{PollSegment, Segment},
    },
    error::BoxError,
};

/// The receiving end, inside a [`Body`](super::Body).
pub(crate) struct Receiver {
    pub(super) shared: Shared,
    /// A pipe that is being read. Boxed because it is rare, and every layer moves the body.
    pub(super) pipe: Option<Box<Pipe>>,
}

impl Receiver {
    /// Lets the sender send pipes.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers take them"))]
    pub(in crate::body) fn accept_pipes(&self) {
        lock(&self.shared).accepts_pipes = true;
    }

    /// Polls a frame. The bytes of a pipe are read.
    pub(in crate::body) fn poll_frame(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(pipe) = &mut self.pipe {
                match pipe.read_next()? {
                    Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    None => self.pipe = None,
                }
            }
            return Poll::Ready(match ready!(self.poll_segment(cx)?) {
                None => None,
                Some(Segment::Bytes(data)) => Some(Ok(Frame::data(data))),
                Some(Segment::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Segment::Pipe(pipe)) => {
                    self.pipe = Some(Box::new(pipe));
                    continue;
                }
                Some(Segment::File(_)) => unreachable!("a channel has no files"),
            });
        }
    }

    pub(in crate::body) fn poll_segment(&mut self, cx: &Context<'_>) -> PollSegment {
        if let Some(pipe) = self.pipe.take().filter(|pipe| !pipe.is_empty()) {
            return Poll::Ready(Some(Ok(Segment::Pipe(*pipe))));
        }
        let mut s = lock(&self.shared);
        let out = if let Some(piece) = s.queue.pop_front() {
            s.queued -= piece.cost();
            s.has_demand = false;
            if let Some(remaining) = &mut s.remaining {
                *remaining = remaining.saturating_sub(piece.len() as u64);
            }
            Poll::Ready(Some(Ok(match piece {
                Piece::Bytes(data) => Segment::Bytes(data),
                Piece::Pipe(pipe) => Segment::Pipe(pipe),
            })))
        } else if let Some(trailers) = s.trailers.take() {
            Poll::Ready(Some(Ok(Segment::Trailers(trailers))))
        } else {
            match s.end.take() {
                Some(Ok(())) => {
                    s.end = Some(Ok(()));
                    return Poll::Ready(None);
                }
                Some(Err(e)) => {
                    s.end = Some(Ok(())); // an error is returned once; the body has ended after it
                    return Poll::Ready(Some(Err(e)));
                }
                None => {
                    s.has_demand = true;
                    store_waker(&mut s.reader, cx);
                    Poll::Pending
                }
            }
        };
        let waker = s.sender.take();
        drop(s);
        wake(waker);
        out
    }

    pub(in crate::body) fn is_end(&self) -> bool {
        let s = lock(&self.shared);
        self.pending_len() == 0
            && s.queue.is_empty()
            && s.trailers.is_none()
            && matches!(s.end, Some(Ok(())))
    }

    pub(in crate::body) fn size_hint(&self) -> SizeHint {
        match lock(&self.shared).remaining {
            Some(remaining) => SizeHint::with_exact(remaining + self.pending_len()),
            None => SizeHint::default(),
        }
    }

    fn pending_len(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |pipe| pipe.len() as u64)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut s = lock(&self.shared);
        s.reader_dropped = true;
        let rest = std::mem::take(&mut s.queue);
        s.queued = 0;
        let waker = s.sender.take();
        drop(s);
        drop(rest);
        wake(waker);
    }
}
