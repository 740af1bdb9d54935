//! The side of the client: reads what was buffered, from memory and from disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::{AbortHandle, JoinHandle, spawn_blocking};

use super::shared::{Next, Shared};
use crate::error::BoxError;

/// So much is read from the disk at once: 128 KiB, as the kernel reads ahead.
const STEP: u64 = 128 << 10;

/// A buffered body.
pub(super) struct Reader {
    shared: Shared,
    /// The task that goes on draining; it ends with the reader.
    task: Option<AbortHandle>,
    /// A read from the disk, on a thread that may block.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Reader {
    pub(super) fn new(shared: Shared, task: Option<AbortHandle>) -> Self {
        Self { shared, task, reading: None }
    }

    /// The bytes that are being read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        let Some(job) = &mut self.reading else { return Poll::Ready(None) };
        let done = ready!(Pin::new(job).poll(cx));
        self.reading = None;
        let bytes = done.map_err(BoxError::from).and_then(|read| Ok(read?));
        if let Ok(bytes) = &bytes {
            self.shared.was_read(bytes.len() as u64);
        }
        Poll::Ready(Some(bytes))
    }
}

fn read(file: &File, from: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(len.min(STEP)).expect("128 KiB")];
    // Shorter than it was written: it was cut behind our back, and so is the response.
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.into())
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(read) = ready!(self.poll_read(cx)) {
                return Poll::Ready(Some(read.map(Frame::data)));
            }
            return Poll::Ready(match ready!(self.shared.poll_next(cx)) {
                Next::Data(data) => Some(Ok(Frame::data(data))),
                Next::OnDisk(file, from, to) => {
                    let job = move || read(&file, from, to - from);
                    self.reading = Some(spawn_blocking(job));
                    continue;
                }
                Next::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                Next::Failed(error) => Some(Err(error)),
                Next::End => None,
            });
        }
    }

    fn is_end_stream(&self) -> bool {
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
