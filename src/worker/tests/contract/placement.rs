//! Scripted applications on threads of this process.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use super::{
    control::{Control, Events},
    *,
};
use crate::Body;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

/// A pool of worker threads with scripted applications.
pub(super) struct InThreads {
    threads: Threads,
    events: Events,
    control: Arc<Control>,
}

impl Control {
    fn build(self: &Arc<Self>) -> Result<BlockingService<Handler>, &'static str> {
        let (n, build) = self.begin_build();
        match build {
            Build::Fail => return Err("no database"),
            Build::Panic => panic!("no database"),
            Build::Hold => self.wait("/build"),
            Build::Succeed | Build::Hang => {}
        }
        let control = self.clone();
        Ok(
            blocking(
                Box::new(move |r: Request<Bytes>| control.answer(n, r.uri().path())) as Handler
            ),
        )
    }

    fn answer(self: &Arc<Self>, instance: usize, path: &str) -> Result<Response, &'static str> {
        let _ = self.entered.send(path.to_owned());
        match path {
            "/panic" => panic!("as it was told to"),
            "/fail" => return Err("failed"),
            "/endless" | "/break" => return Ok(Response::new(self.stream(path, None))),
            _ if path.starts_with("/stream-") => {
                let (control, path) = (self.clone(), path.to_owned());
                let second = Box::new(move || match &*path {
                    "/stream-panic" => panic!("in the middle"),
                    _ => control.wait(&path),
                });
                let first = Some("abc".into());
                return Ok(Response::new(Body::new(TwoSteps { first, second })));
            }
            _ if path.starts_with("/stream") => {
                return Ok(Response::new(self.stream(path, Some(6))));
            }
            _ if path.starts_with("/hold") => self.wait(path),
            _ => {}
        }
        Ok(Response::new(format!("{path} {instance}").into()))
    }

    /// Returns a body that continues when it is released.
    fn stream(self: &Arc<Self>, path: &str, len: Option<u64>) -> Body {
        let (tx, body) = Body::channel(len);
        let (control, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move {
            let _ = tx.send("abc".into());
            control.wait_async(&path).await;
            match &*path {
                "/endless" => std::future::pending().await,
                "/break" => tx.abort("the disk is gone"),
                _ => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("x-sum", "6".parse().unwrap());
                    let _ = tx.send("def".into());
                    tx.finish(Some(trailers));
                }
            }
        });
        body
    }
}

type Handler = Box<dyn FnMut(Request<Bytes>) -> Result<Response, &'static str>>;

/// Yields one piece, then runs blocking code.
struct TwoSteps {
    first: Option<Bytes>,
    second: Box<dyn FnMut() + Send>,
}

impl http_body::Body for TwoSteps {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => {
                (self.second)();
                Poll::Ready(None)
            }
        }
    }
}

impl Placement for InThreads {
    type Handle = Threads;

    const SHORT: Duration = Duration::from_millis(200);
    const STREAM_LEFT: Option<u64> = Some(3); // of 6 in all
    const HAS_TRAILERS: bool = true;

    fn assert_crashed(error: &BoxError) {
        assert_eq!(kind(error), Kind::Internal);
        let message = cause::<WorkerPanicked>(error).message;
        assert!(["as it was told to", "in the middle"].contains(&&*message), "{message}");
    }

    fn assert_broken(error: &BoxError) {
        assert_eq!(error.to_string(), "the disk is gone");
    }

    fn start(settings: Settings) -> Result<Self, Error> {
        let (control, events) = Control::new(settings.builds);
        let shared = control.clone();
        let builder = try_threads(settings.workers, move || shared.build());
        let builder = match settings.recycle_after {
            Some(requests) => builder.recycle_after(requests, 0),
            None => builder,
        };
        let threads = builder
            .max_workers(settings.max_workers)
            .idle_timeout(settings.idle_timeout)
            .queue(settings.queue)
            .queue_timeout(settings.queue_timeout)
            .request_timeout(settings.request_timeout)
            .max_abandoned(settings.max_abandoned)
            .start()?;
        Ok(Self { threads, events, control })
    }

    fn handle(&self) -> &Threads {
        &self.threads
    }

    async fn entered(&mut self) -> String {
        self.events.entered.recv().await.expect("the test holds a sender")
    }

    fn has_entered(&mut self) -> bool {
        self.events.entered.try_recv().is_ok()
    }

    async fn built(&mut self, n: usize) {
        while self.events.built.recv().await.expect("the test holds a sender") != n {}
    }

    fn builds(&self) -> usize {
        self.control.started.load(Ordering::SeqCst)
    }

    fn release(&self, path: &str) {
        self.control.release(path);
    }
}

impl Handle for Threads {
    fn stats(&self) -> Stats {
        self.stats()
    }

    fn gate(&self) -> Gate {
        self.gate()
    }

    fn close(&self) {
        self.close();
    }

    async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        self.shutdown(within).await
    }

    async fn reload(&self) -> Result<(), Error> {
        self.reload(LONG).await
    }
}
