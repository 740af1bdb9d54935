//! The side of the client: what was buffered, from memory and from disk.

use std::task::{Context, Poll, ready};

use http_body::SizeHint;
use tokio::task::AbortHandle;

use super::shared::{Next, Shared};
use crate::body::{PollStretch, Stretch, Stretches};

/// A buffered body. A server sends what is on disk without reading it.
pub(super) struct Reader {
    shared: Shared,
    /// The task that goes on draining; it ends with the reader.
    task: Option<AbortHandle>,
}

impl Reader {
    pub(super) fn new(shared: Shared, task: Option<AbortHandle>) -> Self {
        Self { shared, task }
    }
}

impl Stretches for Reader {
    fn poll_stretch(&mut self, cx: &mut Context<'_>) -> PollStretch {
        Poll::Ready(match ready!(self.shared.poll_next(cx)) {
            Next::Data(data) => Some(Ok(Stretch::Bytes(data))),
            Next::OnDisk(slice) => Some(Ok(Stretch::File(slice))),
            Next::Trailers(trailers) => Some(Ok(Stretch::Trailers(trailers))),
            Next::Failed(error) => Some(Err(error)),
            Next::End => None,
        })
    }

    fn is_end(&self) -> bool {
        self.shared.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
