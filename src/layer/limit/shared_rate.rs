//! `SharedRateLimit`: limits the request rate of each client at several fronts together, with counters in Redis.

mod store;

use std::{
    fmt,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::request::Parts;
use tower_layer::Layer;
use tower_service::Service;

use self::store::{Decision, Store};
pub use self::store::{SharedLimitError, SharedLimitStats};
use super::{
    error::RateLimited,
    key::KeyFn,
    rate::{ClientRateLimitLayer, MAX_KEYS},
};
use crate::{
    HttpService, Request, Response,
    body::{Body, HttpBody},
    error::{BoxError, Error, Kind},
    peer::{IPV6_PREFIX, Peer},
    service::Readiness,
};

/// The default timeout of a call to Redis, 10 milliseconds.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(10);

/// The pause after a call to Redis that failed or timed out, 1 second. After it, one request calls Redis again.
pub const REDIS_PAUSE: Duration = Duration::from_secs(1);

/// The maximum length of a key in bytes, 256. A request with a longer one is limited by this front alone.
pub const MAX_KEY_LEN: usize = 256;

/// Wraps a service in [`SharedRateLimit`]. All services that this layer and its clones wrap share the limit.
#[derive(Clone)]
pub struct SharedRateLimitLayer {
    key: KeyFn<String>,
    /// The limit of this front alone.
    local: ClientRateLimitLayer<String>,
    store: Arc<Store>,
}

/// Options of a [`SharedRateLimitLayer`].
#[must_use = "a layer is made by per_ip() or per_key()"]
pub struct SharedRateLimitBuilder {
    url: String,
    rate: u32,
    per: Duration,
    burst: u32,
    max_keys: usize,
    timeout: Duration,
    prefix: String,
    ipv6_prefix: u8,
}

impl SharedRateLimitLayer {
    /// Returns a builder for a limit of `rate` requests in each `per` on average, and up to `burst` at once, for each client at
    /// all fronts that use the same Redis. Both are at least 1. `redis` is the URL of Redis: `redis://host:6379/0` or
    /// `redis+unix:///path`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use vestibule::layer::SharedRateLimitLayer;
    ///
    /// let second = Duration::from_secs(1);
    /// let layer = SharedRateLimitLayer::builder("redis://10.0.0.5/", 10, second, 41).per_ip()?;
    /// # drop(layer);
    /// # Ok::<(), vestibule::layer::limit::SharedLimitError>(())
    /// ```
    pub fn builder(
        redis: impl Into<String>,
        rate: u32,
        per: Duration,
        burst: u32,
    ) -> SharedRateLimitBuilder {
        SharedRateLimitBuilder {
            url: redis.into(),
            rate,
            per,
            burst,
            max_keys: MAX_KEYS,
            timeout: REDIS_TIMEOUT,
            prefix: "vestibule:rate:".to_owned(),
            ipv6_prefix: IPV6_PREFIX,
        }
    }

    /// Returns the current counters.
    pub fn stats(&self) -> SharedLimitStats {
        self.store.stats()
    }
}

impl SharedRateLimitBuilder {
    /// Sets the timeout of a call to Redis: the longest time that the limit delays a request. Defaults to [`REDIS_TIMEOUT`].
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Sets the prefix of the keys in Redis. Defaults to `vestibule:rate:`. Different limits need different prefixes.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the maximum number of keys in memory for the limit of this front. Defaults to [`MAX_KEYS`]. With 0 all clients
    /// of this front share one bucket.
    pub fn max_keys(mut self, max: usize) -> Self {
        self.max_keys = max;
        self
    }

    /// Sets the prefix length of a client's IPv6 network for [`per_ip`](Self::per_ip), in bits. Defaults to [`IPV6_PREFIX`].
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Creates the layer, keyed by client address as [`ClientRateLimitLayer::per_ip`].
    ///
    /// # Errors
    /// If the URL is not a Redis URL.
    pub fn per_ip(self) -> Result<SharedRateLimitLayer, SharedLimitError> {
        let bits = self.ipv6_prefix;
        let network = move |head: &Parts| head.extensions.get::<Peer>()?.network(bits);
        self.per_key(move |head| network(head).map(|ip: IpAddr| ip.to_string()))
    }

    /// Creates the layer with this key. Requests for which it returns `None` are not limited.
    ///
    /// # Errors
    /// If the URL is not a Redis URL.
    pub fn per_key(
        self,
        key: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Result<SharedRateLimitLayer, SharedLimitError> {
        let Self { url, rate, per, burst, max_keys, timeout, prefix, .. } = self;
        let key: KeyFn<String> = Arc::new(key);
        let own_key = key.clone();
        let local = ClientRateLimitLayer::builder(rate, per, burst);
        let local = local.max_keys(max_keys).per_key(move |head: &Parts| own_key(head));
        let store = Store::new(&url, prefix, local.quota(), timeout)?;
        Ok(SharedRateLimitLayer { key, local, store: Arc::new(store) })
    }
}

impl<S> Layer<S> for SharedRateLimitLayer {
    type Service = SharedRateLimit<S>;

    fn layer(&self, inner: S) -> SharedRateLimit<S> {
        SharedRateLimit { inner, limit: self.clone() }
    }
}

/// Limits the request rate of each client at all fronts that use the same Redis. Each request runs one script in Redis, which
/// implements GCRA with the clock of Redis.
///
/// A request above the rate is refused with an error of [`Kind::TooManyRequests`] whose source is [`RateLimited`], as by
/// [`ClientRateLimit`](super::ClientRateLimit). Each front first checks the same limit by itself, so a client that exceeds it
/// at one front causes no call to Redis.
///
/// **If Redis fails** or does not answer within the [`timeout`](SharedRateLimitBuilder::timeout), only the limit of the front
/// applies, and the request is not refused. For [`REDIS_PAUSE`], later requests do not call Redis.
/// [`SharedRateLimitLayer::stats`] counts these requests. A client may then send n times the rate through n fronts.
///
/// Always ready. The readiness of the inner service is awaited after the call to Redis, so that no capacity is held during it,
/// until the request's [`Deadline`](crate::peer::Deadline).
/// A key in Redis expires when the client may send a full burst again.
#[derive(Clone)]
pub struct SharedRateLimit<S> {
    inner: S,
    limit: SharedRateLimitLayer,
}

impl<S, B> Service<Request<B>> for SharedRateLimit<S>
where
    S: HttpService<B> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (mut inner, limit) = (self.inner.clone(), self.limit.clone());
        ResponseFuture(Box::pin(async move {
            let (head, body) = request.into_parts();
            limit.check(&head).await?;
            let mut readiness = Readiness::new(&head.extensions);
            poll_fn(|cx| readiness.poll(&mut inner, cx)).await?;
            drop(readiness);
            let response = inner.call(Request::from_parts(head, body)).await;
            Ok(response.map_err(Into::into)?.map(Body::new))
        }))
    }
}

impl SharedRateLimitLayer {
    async fn check(&self, head: &Parts) -> Result<(), Error> {
        let refused = |retry_after| Error::new(Kind::TooManyRequests, RateLimited { retry_after });
        let Some(key) = (self.key)(head) else { return Ok(()) };
        self.local.check(&key).map_err(refused)?;
        match self.store.take(&key).await {
            Decision::Allowed | Decision::Unknown => Ok(()),
            Decision::Refused(time) => Err(refused(time)),
        }
    }
}

/// The future of [`SharedRateLimit`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for SharedRateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimitLayer").field("store", &self.store).finish_non_exhaustive()
    }
}

impl fmt::Debug for SharedRateLimitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URL, which may contain a password.
        f.debug_struct("SharedRateLimitBuilder")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for SharedRateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimit").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
