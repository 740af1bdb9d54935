//! `Bandwidth`: limits the rate at which a response is sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::Response;
use http_body::{Body as _, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Body, HttpService, Request,
    body::{HttpBody, PollSegment, Segment, Segments},
};

/// The interval in which the rate is applied: 50 ms.
const TICK: Duration = Duration::from_millis(50);

/// Wraps a service in [`Bandwidth`].
#[derive(Debug, Clone, Copy)]
pub struct BandwidthLayer {
    limit: Limit,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    /// Bytes per second, at least 1.
    rate: u64,
    /// Bytes before the limit applies.
    after: u64,
}

impl BandwidthLayer {
    /// Creates a layer that sends the body of each response at `bytes` per second, at least 1.
    pub fn new(bytes: u64) -> Self {
        Self { limit: Limit { rate: bytes.max(1), after: 0 } }
    }

    /// Sends the first `bytes` of a response without limit. Defaults to 0.
    #[must_use]
    pub fn after(mut self, bytes: u64) -> Self {
        self.limit.after = bytes;
        self
    }
}

impl<S> Layer<S> for BandwidthLayer {
    type Service = Bandwidth<S>;

    fn layer(&self, inner: S) -> Bandwidth<S> {
        Bandwidth { inner, limit: self.limit }
    }
}

/// Limits the rate at which the body of each response is sent, like nginx's `limit_rate`, so that one download does not use
/// all of the bandwidth. The limit applies to one response; limit the responses of a client with
/// [`InFlightLayer`](super::InFlightLayer).
///
/// Files are still sent by `sendfile`, in smaller pieces. A body that fits into the first bytes passes unchanged. Put
/// this layer outside the [response buffer](super::ResponseBuffer), which otherwise reads at this rate.
///
/// Readiness passes through.
///
/// ```
/// use tower::{ServiceBuilder, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::BandwidthLayer};
///
/// let downloads = ServiceBuilder::new()
///     .layer(BandwidthLayer::new(1 << 20).after(10 << 20)) // 1 MiB/s after the first 10 MiB
///     .service(service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty()))));
/// # drop(downloads);
/// ```
#[derive(Debug, Clone)]
pub struct Bandwidth<S> {
    inner: S,
    limit: Limit,
}

impl<S, B> Service<Request<B>> for Bandwidth<S>
where
    S: HttpService<B>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture { inner: self.inner.call(request), limit: self.limit }
    }
}

/// The future of [`Bandwidth`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    limit: Limit,
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(response.map(|body| this.limit.apply(Body::new(body)))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Limit {
    fn apply(self, body: Body) -> Body {
        if body.len().is_some_and(|len| len <= self.after) {
            return body;
        }
        Body::segmented(Paced {
            body,
            limit: self,
            rest: None,
            allowed: self.after,
            counted_to: Instant::now(),
            sleep: None,
        })
    }

    /// Returns the bytes that the rate allows in a tick, at least 1.
    fn tick_bytes(self) -> u64 {
        let millis = u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX);
        (self.rate.saturating_mul(millis) / 1000).max(1)
    }

    /// Returns the time in which the rate allows this number of bytes.
    fn time_for(self, bytes: u64) -> Duration {
        Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(self.rate))
                .unwrap_or(u64::MAX),
        )
    }
}

struct Paced {
    body: Body,
    limit: Limit,
    /// The rest of a segment that is sent in pieces.
    rest: Option<Segment>,
    /// The bytes that may be sent now.
    allowed: u64,
    /// The time up to which the rate was applied.
    counted_to: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    /// Waits until some bytes may be sent. A slow reader gets the bytes of one tick, and not those of the time in which it did
    /// not read.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.allowed > 0 {
            return Poll::Ready(());
        }
        let bytes = self.limit.tick_bytes();
        let next = self.counted_to + self.limit.time_for(bytes);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(next)));
        ready!(sleep.as_mut().poll(cx));
        self.sleep = None;
        self.counted_to = next.max(Instant::now() - TICK.min(self.limit.time_for(bytes)));
        self.allowed = bytes;
        Poll::Ready(())
    }
}

impl Segments for Paced {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        if self.rest.is_none() {
            self.rest = match ready!(self.body.poll_segment(cx)?) {
                None => return Poll::Ready(None),
                Some(segment) => Some(segment),
            };
        }
        if !matches!(self.rest, Some(Segment::Trailers(_))) && self.poll_allowed(cx).is_pending() {
            self.body.drive(cx);
            return Poll::Pending;
        }
        let piece = match self.rest.take() {
            Some(Segment::Bytes(mut bytes)) => {
                let n = usize::try_from(self.allowed).unwrap_or(usize::MAX).min(bytes.len());
                let piece = bytes.split_to(n);
                self.allowed -= n as u64;
                self.rest = (!bytes.is_empty()).then_some(Segment::Bytes(bytes));
                Segment::Bytes(piece)
            }
            Some(Segment::File(mut file)) => {
                let piece = file.split_to(self.allowed);
                self.allowed -= piece.len();
                self.rest = (!file.is_empty()).then_some(Segment::File(file));
                Segment::File(piece)
            }
            Some(whole @ (Segment::Pipe(_) | Segment::Trailers(_))) => whole,
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(piece)))
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        self.body.drive(cx);
    }

    fn is_end(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.rest {
            Some(Segment::Bytes(bytes)) => bytes.len() as u64,
            Some(Segment::File(file)) => file.len(),
            Some(Segment::Pipe(_) | Segment::Trailers(_)) | None => 0,
        };
        let hint = self.body.size_hint();
        let mut sum = SizeHint::new();
        if let Some(upper) = hint.upper() {
            sum.set_upper(upper + rest);
        }
        sum.set_lower(hint.lower() + rest);
        sum
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::body::FileSlice;

    fn file(len: usize) -> Body {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![b'x'; len]).unwrap();
        Body::file(FileSlice::new(std::sync::Arc::new(file), 0, len as u64))
    }

    /// The seconds that a body takes, and its length.
    async fn sent(limit: Limit, body: Body) -> (f64, usize) {
        let began = Instant::now();
        let len = limit.apply(body).collect().await.unwrap().to_bytes().len();
        (began.elapsed().as_secs_f64(), len)
    }

    #[tokio::test(start_paused = true)]
    async fn body_is_sent_at_the_rate_after_its_first_bytes() {
        for (rate, after, len, seconds) in
            [(1000, 0, 3000, 3.0), (1000, 2000, 3000, 1.0), (1000, 3000, 3000, 0.0), (1, 0, 3, 3.0)]
        {
            let (time, got) = sent(Limit { rate, after }, Body::from(vec![0; len])).await;
            assert_eq!(got, len);
            assert!((time - seconds).abs() < 0.1, "{rate} {after}: {time}");
        }
        // Reading a file takes real time, in which the paused clock may move on its own.
        assert_eq!(sent(Limit { rate: 100_000, after: 0 }, file(10_000)).await.1, 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn file_stays_a_file_in_smaller_pieces() {
        let mut body = Limit { rate: 1000, after: 700 }.apply(file(1000));
        assert_eq!(body.len(), Some(1000));
        let mut lens = Vec::new();
        while let Some(segment) = std::future::poll_fn(|cx| body.poll_segment(cx)).await {
            let Segment::File(file) = segment.unwrap() else { panic!("not a file") };
            lens.push(file.len());
        }
        assert_eq!(lens, [700, 50, 50, 50, 50, 50, 50]);
    }

    /// A body that counts how often it is driven.
    #[derive(Default)]
    struct Driven(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl Segments for Driven {
        fn poll_segment(&mut self, _: &mut Context<'_>) -> PollSegment {
            Poll::Ready(Some(Ok(Segment::Bytes("body".into()))))
        }

        fn drive(&mut self, _: &mut Context<'_>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn is_end(&self) -> bool {
            false
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn body_is_driven_while_it_waits_for_its_rate() {
        let inner = Driven::default();
        let driven = inner.0.clone();
        let mut body = Limit { rate: 1, after: 0 }.apply(Body::segmented(inner));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(body.poll_segment(&mut cx).is_pending());
        assert_eq!(driven.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn reader_that_was_slow_gets_no_burst() {
        let mut body = Limit { rate: 1000, after: 0 }.apply(Body::from(vec![0; 10_000]));
        body.frame().await.unwrap().unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        let began = Instant::now();
        let rest = body.collect().await.unwrap().to_bytes().len();
        let time = began.elapsed().as_secs_f64();
        assert!(rest == 9950 && time > 9.7, "{time}");
    }
}
