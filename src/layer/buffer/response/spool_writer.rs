//! The task's side: reads a body as fast as it is produced, into memory, then to disk.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;

use super::{
    super::spill::{Spill, WriteFailed, close},
    BodyEnd, Options,
    spool::{FillLevel, Spool, aborted},
    spool_reader::SpoolReader,
};
use crate::{
    Body,
    conn::{RequestInfo, log_request},
    error::Chain,
};

/// The largest body, complete at once, whose pieces are joined into one: 64 KiB. Above it a copy costs
/// more than a write of several pieces.
const MAX_JOIN_LEN: usize = 64 << 10;

/// Fills a [`Spool`] from a body.
pub(super) struct SpoolWriter {
    spool: Spool,
    options: Options,
    request: RequestInfo,
    trailers: Option<HeaderMap>,
    /// The part on disk; created when it is first needed.
    spill: Option<Box<Spill>>,
    /// Whether the disk has failed or is full, so that no more of this body goes there.
    is_disk_disabled: bool,
    /// Pieces that follow the last batch for the disk and go to memory.
    after_spill: Vec<Bytes>,
}

impl SpoolWriter {
    pub(super) fn new(len: Option<u64>, options: &Options, request: RequestInfo) -> Self {
        let spool = Spool::new(len, &options.budget);
        Self {
            spool,
            options: options.clone(),
            request,
            trailers: None,
            spill: None,
            is_disk_disabled: false,
            after_spill: Vec::new(),
        }
    }

    pub(super) fn spool(&self) -> Spool {
        self.spool.clone()
    }

    /// Moves `body` into memory and to disk. Ready at its end; pending while it has nothing available or all
    /// limits are reached.
    pub(super) fn poll_fill(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<BodyEnd> {
        loop {
            ready!(self.poll_capacity(cx));
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(self.trailers.take())),
                Some(Err(e)) => return Poll::Ready(Err(e)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.push(data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    /// Waits until another piece fits in memory or on disk.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.poll_flush(cx); // drives the running write
        let level = self.spool.level(None);
        if self.has_capacity(&level) {
            return Poll::Ready(());
        }
        // Checked again after the waker is stored: a read before that woke no task.
        let level = self.spool.level(Some(cx));
        if self.has_capacity(&level) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_capacity(&self, level: &FillLevel) -> bool {
        if self.is_writing() {
            return self.disk_has_capacity(level);
        }
        // A reader that has read everything always gets the next piece.
        self.memory_has_capacity(level) || self.disk_has_capacity(level) || level.is_empty
    }

    fn memory_has_capacity(&self, level: &FillLevel) -> bool {
        level.in_memory < self.options.max_memory && !self.options.budget.is_above_soft_limit()
    }

    fn disk_has_capacity(&self, level: &FillLevel) -> bool {
        let used = match &self.spill {
            Some(spill) if !spill.has_capacity() => return false,
            Some(spill) if level.on_disk || !spill.is_flushed() => spill.len(),
            _ => 0,
        };
        !self.is_disk_disabled && used < self.options.max_disk
    }

    /// Returns whether a write to disk is unfinished. The next piece must then follow it to keep the order.
    pub(super) fn is_writing(&self) -> bool {
        self.spill.as_ref().is_some_and(|s| !s.is_flushed())
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let level = self.spool.level(None);
        let to_memory = !self.is_writing()
            && (self.memory_has_capacity(&level) || !self.disk_has_capacity(&level));
        if to_memory {
            return self.spool.push(data);
        }
        let spill = self.spill.get_or_insert_with(|| Spill::new(&self.options.budget).into());
        if !level.on_disk {
            spill.start_new_file();
        }
        if let Err(full) = spill.push(data.clone()) {
            self.disable_disk(&full);
            self.after_spill.push(data);
        }
    }

    /// Drives the writes to disk. Ready when nothing is left to write.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(spill) = &mut self.spill
            && !spill.is_flushed()
        {
            match ready!(spill.poll_write(cx)) {
                Ok(n) => {
                    if let Some(file) = spill.file() {
                        let to = spill.written_len();
                        self.spool.push_disk(file, to - n, to);
                    }
                }
                Err(WriteFailed { batch, error }) => {
                    let rest = spill.take_batch();
                    let lost = batch.is_empty();
                    batch.into_iter().chain(rest).for_each(|piece| self.spool.push(piece));
                    self.disable_disk(&error);
                    if lost {
                        self.spool.set_end(Err(error.into()));
                    }
                }
            }
        }
        self.after_spill.drain(..).for_each(|piece| self.spool.push(piece));
        Poll::Ready(())
    }

    /// Stops using the disk: what does not fit in memory waits for the client from here on.
    fn disable_disk(&mut self, error: &(dyn std::error::Error + 'static)) {
        let error = Chain(error);
        let message = "cannot buffer a response on disk: its sender waits for the client";
        log_request!(warn, "vestibule::request", &self.request, %error, "{message}");
        self.is_disk_disabled = true;
    }

    /// Passes the end and the file to the reader. Everything has been written.
    pub(super) fn finish(mut self, end: BodyEnd) {
        if let Some(spill) = self.spill.take() {
            let (file, disk) = spill.into_parts();
            self.spool.hold_disk(disk);
            close(file);
        }
        self.spool.set_end(end);
    }

    /// Returns a body that was complete at once, with no write running: bytes if it is small and without
    /// trailers, else a spooled body.
    pub(super) fn into_complete_body(self, end: BodyEnd) -> Body {
        if matches!(end, Ok(None))
            && let Some((mut pieces, lease)) = self.spool.take_complete(MAX_JOIN_LEN)
        {
            if pieces.len() <= 1 {
                return lease.hold(pieces.pop_front().unwrap_or_default()).into();
            }
            let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| all.extend_from_slice(piece));
            return lease.hold(all.freeze()).into();
        }
        let reader = SpoolReader::new(self.spool(), None);
        self.finish(end);
        Body::segmented(reader)
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.spool.set_end(aborted());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        future::poll_fn,
        sync::{Arc, LazyLock},
    };

    use http_body_util::BodyExt;

    use super::*;
    use crate::{Budget, net::blocking_pool::BlockingPool};

    /// Asserts that a response of 2,000 bytes is complete although the writer stops using its file.
    async fn assert_whole_without_disk(mut writer: SpoolWriter) {
        let reader = SpoolReader::new(writer.spool(), None);
        let (tx, mut body) = Body::channel(None);
        let pieces: Vec<Bytes> = (0..20u8).map(|i| Bytes::from(vec![i; 100])).collect();
        pieces.iter().for_each(|piece| tx.send(piece.clone()).unwrap());
        tx.finish(None);
        let writing = tokio::spawn(async move {
            let end = poll_fn(|cx| writer.poll_fill(&mut body, cx)).await;
            poll_fn(|cx| writer.poll_flush(cx)).await;
            assert!(writer.is_disk_disabled, "it was tried");
            writer.finish(end);
        });
        let all = Body::segmented(reader).collect().await.unwrap().to_bytes();
        assert_eq!(all, pieces.concat());
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn response_is_complete_if_the_disk_is_full() {
        let options = Options { max_memory: 10, max_disk: 1 << 20, budget: Budget::default() };
        let mut writer = SpoolWriter::new(None, &options, RequestInfo::default());
        let full = File::options().write(true).open("/dev/full").unwrap();
        writer.spill = Some(Box::new(Spill::with_file(Arc::new(full), &options.budget)));
        assert_whole_without_disk(writer).await;
        assert_eq!((options.budget.usage().memory, options.budget.usage().disk), (0, 0));
    }

    #[test]
    fn lost_batch_is_error_and_not_gap() {
        let options = Options { max_memory: 0, max_disk: 1 << 20, budget: Budget::default() };
        let mut writer = SpoolWriter::new(None, &options, RequestInfo::default());
        let mut spill = Spill::new(&options.budget);
        spill.push("never written".into()).unwrap();
        spill.lose_batch();
        writer.spill = Some(Box::new(spill));
        let mut reader = Body::segmented(SpoolReader::new(writer.spool(), None));
        let (tx, mut body) = Body::channel(None);
        tx.finish(None);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(end) = writer.poll_fill(&mut body, &mut cx) else { panic!("it ends") };
        writer.finish(end);
        let read = Pin::new(&mut reader).poll_frame(&mut cx);
        assert!(matches!(read, Poll::Ready(Some(Err(_)))), "{read:?}");
    }

    #[tokio::test]
    async fn response_is_complete_if_no_thread_can_write_it() {
        static NONE: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::without_threads);
        let options = Options { max_memory: 10, max_disk: 1 << 20, budget: Budget::default() };
        let mut writer = SpoolWriter::new(None, &options, RequestInfo::default());
        writer.spill = Some(Box::new(Spill::with_pool(&NONE, &options.budget)));
        assert_whole_without_disk(writer).await;
    }
}
