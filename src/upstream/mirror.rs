//! `Mirror`: sends a copy of some requests to a shadow, whose responses are dropped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, header::UPGRADE};
use http_body::Body as _;
use tokio::sync::Semaphore;
use tower_layer::Layer;
use tower_service::Service;

use super::history::History;
use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::InterimResponses,
};

/// Default maximum number of mirrored requests in flight: 64.
pub const MAX_MIRRORED: usize = 64;

/// Default timeout of a mirrored request, including the body of its response: 10 s.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(10);

/// The denominator of shares.
const WHOLE: u64 = 1000;

/// Wraps a service in [`Mirror`].
#[derive(Debug, Clone)]
pub struct MirrorLayer<M> {
    shadow: M,
    per_mille: u64,
    max_in_flight: usize,
    timeout: Duration,
}

impl<M> MirrorLayer<M> {
    /// Creates a layer that sends a copy of each request to `shadow`.
    pub fn new(shadow: M) -> Self {
        Self { shadow, per_mille: WHOLE, max_in_flight: MAX_MIRRORED, timeout: MIRROR_TIMEOUT }
    }

    /// Sets how many of a thousand requests are copied, evenly spread. Default: all.
    #[must_use]
    pub fn per_mille(mut self, n: u32) -> Self {
        self.per_mille = u64::from(n).min(WHOLE);
        self
    }

    /// Sets the maximum number of copies in flight. Beyond it, requests are not copied. Default [`MAX_MIRRORED`].
    #[must_use]
    pub fn max_in_flight(mut self, n: usize) -> Self {
        self.max_in_flight = n.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Sets the timeout of a copy, including the body of its response. Default [`MIRROR_TIMEOUT`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<S, M: Clone> Layer<S> for MirrorLayer<M> {
    type Service = Mirror<S, M>;

    fn layer(&self, inner: S) -> Mirror<S, M> {
        let shared = Shared {
            per_mille: self.per_mille,
            timeout: self.timeout,
            seen: AtomicU64::new(0),
            permits: Arc::new(Semaphore::new(self.max_in_flight)),
        };
        Mirror { inner, shadow: self.shadow.clone(), shared: Arc::new(shared) }
    }
}

/// Sends a copy of some requests to a shadow, for example a new version of the application, and drops its responses.
/// The client's response does not depend on the shadow.
///
/// A request is copied only if its body is empty, in memory or in a file: put a
/// [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front for all others. One that asks for a tunnel is not. A separate task sends the copy,
/// whatever the method, so the shadow must not share data with the real application. Errors are logged at level
/// `DEBUG` (`mirrored request failed`).
///
/// Readiness is that of the inner service. A call that is mirrored panics outside of a Tokio runtime.
///
/// ```
/// use tower::ServiceBuilder;
/// use vestibule::upstream::{MirrorLayer, Upstream};
///
/// let shadow = Upstream::new(["10.0.0.9:3000"])?;
/// let api = ServiceBuilder::new()
///     .layer(MirrorLayer::new(shadow).per_mille(10)) // one in a hundred
///     .service(Upstream::new(["10.0.0.1:3000"])?);
/// # drop(api);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Mirror<S, M> {
    inner: S,
    shadow: M,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    per_mille: u64,
    timeout: Duration,
    /// Requests that could have been copied.
    seen: AtomicU64,
    permits: Arc<Semaphore>,
}

impl Shared {
    /// Returns whether the next request is one of the share.
    fn is_chosen(&self) -> bool {
        let n = self.seen.fetch_add(1, Relaxed);
        // A copy is due if the total of due copies, rounded down, increases with this request.
        let due = |n: u64| n.wrapping_mul(self.per_mille) / WHOLE;
        due(n % WHOLE + 1) > due(n % WHOLE)
    }
}

impl<S, M, B> Service<Request<B>> for Mirror<S, M>
where
    S: HttpService,
    M: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    B: HttpBody,
{
    type Response = Response<S::ResponseBody>;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let request = request.map(Body::new);
        if let Some(body) = request.body().replay()
            && !request.headers().contains_key(UPGRADE)
            && self.shared.is_chosen()
            && let Ok(permit) = self.shared.permits.clone().try_acquire_owned()
        {
            let mut copy = Request::new(body);
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.version_mut() = request.version();
            *copy.headers_mut() = request.headers().clone();
            *copy.extensions_mut() = request.extensions().clone();
            // These belong to the client, and to the attempts of the real request.
            copy.extensions_mut().remove::<InterimResponses>();
            copy.extensions_mut().remove::<History>();
            let (shadow, timeout) = (self.shadow.clone(), self.shared.timeout);
            tokio::spawn(async move {
                let error = match tokio::time::timeout(timeout, send(shadow, copy)).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error),
                    Err(elapsed) => Some(elapsed.into()),
                };
                if let Some(error) = error {
                    tracing::debug!(target: "vestibule::upstream", %error, "mirrored request failed");
                }
                drop(permit);
            });
        }
        self.inner.call(request)
    }
}

/// Sends a copy and reads its response to the end.
async fn send<M: HttpService>(
    mut shadow: M,
    request: Request<Body>,
) -> Result<(), crate::BoxError> {
    std::future::poll_fn(|cx| shadow.poll_ready(cx)).await.map_err(Into::into)?;
    let response = shadow.call(request).await.map_err(Into::into)?;
    let mut body = Body::new(response.into_body());
    while let Some(frame) =
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await
    {
        frame?;
    }
    Ok(())
}
