//! The side of the task: drains a body as fast as it comes, into memory, then to disk.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as _;

use super::{
    super::spill::{NotWritten, Spill, close},
    End, Options,
    reader::Reader,
    shared::{Level, Shared, cut},
};
use crate::{
    Body,
    conn::{RequestInfo, log_request},
    error::Chain,
};

/// What may be joined into one piece when a body turns out complete at once: 64 KiB. Above it,
/// copying costs more than writing several pieces.
const JOIN: usize = 64 << 10;

pub(super) struct Feed {
    shared: Shared,
    options: Options,
    request: RequestInfo,
    trailers: Option<HeaderMap>,
    /// What goes to disk; made when it is first needed.
    spill: Option<Box<Spill>>,
    /// The disk has failed, or is full: no more of this body goes there.
    no_disk: bool,
    /// What came behind the last batch that does, for memory.
    behind: Vec<Bytes>,
}

impl Feed {
    pub(super) fn new(len: Option<u64>, options: &Options, request: RequestInfo) -> Self {
        let shared = Shared::new(len, &options.budget);
        Self {
            shared,
            options: options.clone(),
            request,
            trailers: None,
            spill: None,
            no_disk: false,
            behind: Vec::new(),
        }
    }

    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Moves `body` into memory and to disk until it ends, or has nothing now, or all bounds are
    /// reached.
    pub(super) fn poll_drain(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            ready!(self.poll_room(cx));
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

    /// Waits until there is room for another piece, in memory or on disk.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.poll_written(cx); // what is on its way goes on
        let level = self.shared.level(None);
        if self.has_room(&level) {
            return Poll::Ready(());
        }
        // Looked at again behind the entry: what was read meanwhile woke nobody.
        let level = self.shared.level(Some(cx));
        if self.has_room(&level) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn has_room(&self, level: &Level) -> bool {
        if self.is_writing() {
            return self.disk_has_room(level);
        }
        // A reader that has taken everything always gets the next piece.
        self.memory_has_room(level) || self.disk_has_room(level) || level.is_empty
    }

    fn memory_has_room(&self, level: &Level) -> bool {
        level.held < self.options.max_memory && !self.options.budget.is_tight()
    }

    fn disk_has_room(&self, level: &Level) -> bool {
        let used = match &self.spill {
            Some(spill) if !spill.has_room() => return false,
            Some(spill) if level.on_disk || !spill.is_settled() => spill.end(),
            _ => 0,
        };
        !self.no_disk && used < self.options.max_disk
    }

    /// Is something on its way to the disk? Then what comes must go behind it.
    pub(super) fn is_writing(&self) -> bool {
        self.spill.as_ref().is_some_and(|s| !s.is_settled())
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let level = self.shared.level(None);
        let to_memory =
            !self.is_writing() && (self.memory_has_room(&level) || !self.disk_has_room(&level));
        if to_memory {
            return self.shared.push(data);
        }
        let spill = self.spill.get_or_insert_with(|| Spill::new(&self.options.budget).into());
        if !level.on_disk {
            spill.renew();
        }
        if let Err(full) = spill.push(data.clone()) {
            self.give_up_disk(&full);
            self.behind.push(data);
        }
    }

    /// Goes on writing; ready when nothing is left to be written.
    pub(super) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(spill) = &mut self.spill
            && !spill.is_settled()
        {
            match ready!(spill.poll_step(cx)) {
                Ok(n) => {
                    if let Some(file) = spill.file() {
                        let to = spill.written();
                        self.shared.push_disk(file, to - n, to);
                    }
                }
                Err(NotWritten { batch, error }) => {
                    let rest = spill.take_batch();
                    let lost = batch.is_empty();
                    batch.into_iter().chain(rest).for_each(|piece| self.shared.push(piece));
                    self.give_up_disk(&error);
                    if lost {
                        self.shared.set_end(Err(error.into()));
                    }
                }
            }
        }
        self.behind.drain(..).for_each(|piece| self.shared.push(piece));
        Poll::Ready(())
    }

    /// From here on what does not fit into memory waits for the client.
    fn give_up_disk(&mut self, error: &(dyn std::error::Error + 'static)) {
        let error = Chain(error);
        let message = "a response cannot be put on disk; its sender waits";
        log_request!(warn, "vestibule::request", &self.request, %error, "{message}");
        self.no_disk = true;
    }

    /// The end, for the reader. Everything has been written; the file is the reader's now.
    pub(super) fn end(mut self, end: End) {
        if let Some(spill) = self.spill.take() {
            let (file, disk) = spill.into_parts();
            self.shared.keep(disk);
            close(file);
        }
        self.shared.set_end(end);
    }

    /// The body that was complete at once, nothing of it on its way to the disk: bytes if it is
    /// simple, else what there is.
    pub(super) fn finish(self, end: End) -> Body {
        if matches!(end, Ok(None))
            && let Some((mut pieces, lease)) = self.shared.take_small(JOIN)
        {
            if pieces.len() <= 1 {
                return lease.hold(pieces.pop_front().unwrap_or_default()).into();
            }
            let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| all.extend_from_slice(piece));
            return lease.hold(all.freeze()).into();
        }
        let reader = Reader::new(self.shared(), None);
        self.end(end);
        Body::stretches(reader)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.set_end(cut());
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

    #[tokio::test]
    async fn response_is_whole_though_its_disk_is_full() {
        let options = Options { max_memory: 10, max_disk: 1 << 20, budget: Budget::default() };
        let mut feed = Feed::new(None, &options, RequestInfo::default());
        let full = File::options().write(true).open("/dev/full").unwrap();
        feed.spill = Some(Box::new(Spill::on(Arc::new(full), &options.budget)));
        let reader = Reader::new(feed.shared(), None);
        let (tx, mut body) = Body::channel(None);
        let pieces: Vec<Bytes> = (0..20u8).map(|i| Bytes::from(vec![i; 100])).collect();
        pieces.iter().for_each(|piece| tx.send(piece.clone()).unwrap());
        tx.finish(None);
        let feeding = tokio::spawn(async move {
            let end = poll_fn(|cx| feed.poll_drain(&mut body, cx)).await;
            poll_fn(|cx| feed.poll_written(cx)).await;
            assert!(feed.no_disk, "it was tried");
            feed.end(end);
        });
        let all = Body::stretches(reader).collect().await.unwrap().to_bytes();
        assert_eq!(all, pieces.concat());
        feeding.await.unwrap();
        assert_eq!((options.budget.usage().memory, options.budget.usage().disk), (0, 0));
    }

    #[test]
    fn lost_batch_is_error_and_not_gap() {
        let options = Options { max_memory: 0, max_disk: 1 << 20, budget: Budget::default() };
        let mut feed = Feed::new(None, &options, RequestInfo::default());
        let mut spill = Spill::new(&options.budget);
        spill.push("never written".into()).unwrap();
        spill.lose_batch();
        feed.spill = Some(Box::new(spill));
        let mut reader = Body::stretches(Reader::new(feed.shared(), None));
        let (tx, mut body) = Body::channel(None);
        tx.finish(None);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(end) = feed.poll_drain(&mut body, &mut cx) else { panic!("it ends") };
        feed.end(end);
        let read = Pin::new(&mut reader).poll_frame(&mut cx);
        assert!(matches!(read, Poll::Ready(Some(Err(_)))), "{read:?}");
    }

    #[tokio::test]
    async fn response_is_whole_if_no_thread_can_be_started_to_spill_it() {
        static NONE: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::without_threads);
        let options = Options { max_memory: 10, max_disk: 1 << 20, budget: Budget::default() };
        let mut feed = Feed::new(None, &options, RequestInfo::default());
        feed.spill = Some(Box::new(Spill::on_pool(&NONE, &options.budget)));
        let reader = Reader::new(feed.shared(), None);
        let (tx, mut body) = Body::channel(None);
        let pieces: Vec<Bytes> = (0..20u8).map(|i| Bytes::from(vec![i; 100])).collect();
        pieces.iter().for_each(|piece| tx.send(piece.clone()).unwrap());
        tx.finish(None);
        let feeding = tokio::spawn(async move {
            let end = poll_fn(|cx| feed.poll_drain(&mut body, cx)).await;
            poll_fn(|cx| feed.poll_written(cx)).await;
            assert!(feed.no_disk, "it was tried");
            feed.end(end);
        });
        let all = Body::stretches(reader).collect().await.unwrap().to_bytes();
        assert_eq!(all, pieces.concat());
        feeding.await.unwrap();
    }
}
