//! `Reader`: the body of a client that reads a fill.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http_body::SizeHint;

use super::Fill;
use crate::{
    body::{PollSegment, Segment, Segments},
    error::{Error, Kind},
};

/// The body of one client's response.
pub(super) struct Reader {
    pub(super) fill: Arc<Fill>,
    pub(super) slot: usize,
    pub(super) offset: u64,
    /// The offset of its end, if it is known.
    pub(super) end: Option<u64>,
    /// Whether it is a range of the content. If not, it also ends with an error if the origin fails.
    pub(super) is_part: bool,
}

impl Reader {
    fn is_at_end(&self) -> bool {
        self.is_part && self.end.is_some_and(|end| self.offset >= end)
    }
}

impl Segments for Reader {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        if self.is_at_end() {
            return Poll::Ready(None);
        }
        let mut state = self.fill.lock();
        let max = self.end.map_or(u64::MAX, |end| end - self.offset);
        // A content that is longer than announced has more, and ends with an error.
        if max > 0
            && let Some(mut segment) = state.segment_at(self.offset)
        {
            self.offset += match &mut segment {
                Segment::Bytes(piece) => {
                    piece.truncate(usize::try_from(max).unwrap_or(usize::MAX));
                    piece.len() as u64
                }
                Segment::File(file) => {
                    *file = file.split_to(max);
                    file.len()
                }
                Segment::Pipe(_) | Segment::Trailers(_) => 0,
            };
            if let Some(reader) = &mut state.readers[self.slot] {
                reader.offset = self.offset;
            }
            state.trim();
            let producer = state.take_waiting_producer();
            drop(state);
            producer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(Ok(segment)));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(())) => {
                let cause =
                    "the origin's response to the cache was truncated or longer than announced";
                Poll::Ready(Some(Err(Error::new(Kind::BadGateway, cause).into())))
            }
            None => {
                if let Some(reader) = &mut state.readers[self.slot] {
                    reader.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn is_end(&self) -> bool {
        if self.is_at_end() {
            return true;
        }
        let state = self.fill.lock();
        state.end == Some(Ok(())) && self.offset >= state.len
    }

    fn size_hint(&self) -> SizeHint {
        match self.end {
            Some(end) => SizeHint::with_exact(end.saturating_sub(self.offset)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.lock();
        state.readers[self.slot] = None;
        state.trim();
        let producer = state.producer.take();
        drop(state);
        producer.into_iter().for_each(Waker::wake);
    }
}
