//! The client's side: reads what was buffered, from memory and from disk.

use std::task::{Context, Poll, ready};

use http_body::SizeHint;
use tokio::task::AbortHandle;

use super::spool::{Item, Spool};
use crate::body::{PollSegment, Segment, Segments};

/// A buffered body. A server sends the segments on disk by `sendfile`.
pub(super) struct SpoolReader {
    spool: Spool,
    /// The task that fills the spool; aborted with the reader.
    task: Option<AbortHandle>,
}

impl SpoolReader {
    pub(super) fn new(spool: Spool, task: Option<AbortHandle>) -> Self {
        Self { spool, task }
    }
}

impl Segments for SpoolReader {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        Poll::Ready(match ready!(self.spool.poll_next(cx)) {
            Item::Data(data) => Some(Ok(Segment::Bytes(data))),
            Item::OnDisk(slice) => Some(Ok(Segment::File(slice))),
            Item::Trailers(trailers) => Some(Ok(Segment::Trailers(trailers))),
            Item::Failed(error) => Some(Err(error)),
            Item::End => None,
        })
    }

    fn is_end(&self) -> bool {
        self.spool.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.spool.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
