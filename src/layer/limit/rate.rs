//! `ClientRateLimit`: limits the request rate of a client, with bursts.

mod buckets;

use std::{
    fmt,
    future::Future,
    hash::Hash,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use governor::Quota;
use http::request::Parts;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::buckets::{Buckets, Check, quota};
use super::{
    error::RateLimited,
    key::{KeyFn, by_network},
};
use crate::{
    HttpService, Request,
    error::{BoxError, Error, Kind},
    peer::IPV6_PREFIX,
};

/// The default bound on stored keys, 65,536: with addresses as keys at most 4 MiB. Only keys whose burst is
/// not full need to be stored.
pub const MAX_KEYS: usize = 1 << 16;

/// Wraps a service in [`ClientRateLimit`]. All services that it and its clones make share the buckets.
pub struct ClientRateLimitLayer<K = IpAddr> {
    quota: Quota,
    key: KeyFn<K>,
    buckets: Arc<dyn Check<K>>,
}

impl ClientRateLimitLayer {
    /// Allows `rate` requests in each `per` on average, and up to `burst` at once, each at least 1, from
    /// each IPv4 address and each IPv6 network of [`IPV6_PREFIX`] bits.
    /// [`Peer::network`](crate::peer::Peer::network) tells how a client's network is determined; clients
    /// without an IP address are not limited.
    ///
    /// Requests above the rate use up the burst, which refills at the rate.
    ///
    /// ```
    /// use std::time::Duration;
    /// use vestibule::layer::ClientRateLimitLayer;
    ///
    /// // A page and its 40 pictures at once, then 10 requests a second.
    /// let layer = ClientRateLimitLayer::per_ip(10, Duration::from_secs(1), 41);
    /// # drop(layer);
    /// ```
    pub fn per_ip(rate: u32, per: Duration, burst: u32) -> Self {
        Self::builder(rate, per, burst).per_ip()
    }

    /// Returns a builder for a limit with options.
    ///
    /// ```
    /// use std::time::Duration;
    /// use vestibule::layer::ClientRateLimitLayer;
    ///
    /// let second = Duration::from_secs(1);
    /// let layer = ClientRateLimitLayer::builder(10, second, 41).ipv6_prefix(56).per_ip();
    /// # drop(layer);
    /// ```
    pub fn builder(rate: u32, per: Duration, burst: u32) -> ClientRateLimitBuilder {
        let quota = quota(rate, per, burst);
        ClientRateLimitBuilder { quota, max_keys: MAX_KEYS, ipv6_prefix: IPV6_PREFIX }
    }
}

/// Options of a [`ClientRateLimitLayer`].
#[derive(Debug)]
#[must_use = "a limit is made by per_ip() or per_key()"]
pub struct ClientRateLimitBuilder {
    quota: Quota,
    max_keys: usize,
    ipv6_prefix: u8,
}

impl ClientRateLimitBuilder {
    /// Sets how many keys are stored at most. Defaults to [`MAX_KEYS`]. With 0 all clients share one bucket.
    pub fn max_keys(mut self, max: usize) -> Self {
        self.max_keys = max;
        self
    }

    /// Sets the prefix length of a client's IPv6 network for [`per_ip`](Self::per_ip), in bits. Defaults to
    /// [`IPV6_PREFIX`].
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Creates the layer, keyed by client address. See [`ClientRateLimitLayer::per_ip`].
    pub fn per_ip(self) -> ClientRateLimitLayer {
        let key = by_network(self.ipv6_prefix);
        self.build(key)
    }

    /// Creates the layer with this key. See [`ClientRateLimitLayer::per_key`].
    pub fn per_key<K, F>(self, key: F) -> ClientRateLimitLayer<K>
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
        K: Hash + Eq + Clone + Send + 'static,
    {
        self.build(Arc::new(key))
    }

    fn build<K>(self, key: KeyFn<K>) -> ClientRateLimitLayer<K>
    where
        K: Hash + Eq + Clone + Send + 'static,
    {
        let Self { quota, max_keys, .. } = self;
        ClientRateLimitLayer { quota, key, buckets: Arc::new(Buckets::new(quota, max_keys)) }
    }
}

impl<K: Hash + Eq + Clone + Send + 'static> ClientRateLimitLayer<K> {
    /// Allows `rate` requests in each `per` on average, and up to `burst` at once, each at least 1, for each
    /// key. Requests for which `key` returns `None` are not limited.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::request::Parts;
    /// use vestibule::layer::ClientRateLimitLayer;
    ///
    /// // Five attempts to log in, then one a minute, over all clients.
    /// let minute = Duration::from_secs(60);
    /// let layer = ClientRateLimitLayer::per_key(1, minute, 5, |head: &Parts| {
    ///     (head.uri.path() == "/login").then_some(())
    /// });
    /// # drop(layer);
    /// ```
    pub fn per_key<F>(rate: u32, per: Duration, burst: u32, key: F) -> Self
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
    {
        ClientRateLimitLayer::builder(rate, per, burst).per_key(key)
    }
}

impl<K> ClientRateLimitLayer<K> {
    /// Takes one request from the bucket of `key`.
    ///
    /// # Errors
    /// The time until the next one is allowed.
    pub(super) fn check(&self, key: &K) -> Result<(), Duration> {
        self.buckets.check(key)
    }

    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "for a limit in Redis"))]
    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    /// Returns the number of stored keys, including idle ones that are not yet removed.
    pub fn keys(&self) -> usize {
        self.buckets.keys()
    }
}

impl<K> Clone for ClientRateLimitLayer<K> {
    fn clone(&self) -> Self {
        Self { quota: self.quota, key: self.key.clone(), buckets: self.buckets.clone() }
    }
}

impl<K> fmt::Debug for ClientRateLimitLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRateLimitLayer").field("quota", &self.quota).finish_non_exhaustive()
    }
}

impl<S, K> Layer<S> for ClientRateLimitLayer<K> {
    type Service = ClientRateLimit<S, K>;

    fn layer(&self, inner: S) -> ClientRateLimit<S, K> {
        ClientRateLimit { inner, limit: self.clone() }
    }
}

/// Limits the request rate of each client, with bursts, over all clones.
///
/// A request above the rate is refused at once, with an error of [`Kind::TooManyRequests`] whose source is
/// [`RateLimited`]: the time until the next request is allowed, which the rescue table sends as
/// `retry-after`. A refused request does not count against the client. The inner service is not called and
/// is replaced by a clone, which releases what was reserved inside. Otherwise readiness passes through.
///
/// **Memory.** The number of keys is bounded by [`ClientRateLimitBuilder::max_keys`]. When there is no room
/// for a new key, keys whose burst is full again are removed, at most once a second. If that frees none, all
/// new clients share one bucket, as large as that of a single client: an attacker with very many addresses
/// may exclude new clients, but not known ones, and gains neither memory nor more requests.
pub struct ClientRateLimit<S, K = IpAddr> {
    inner: S,
    limit: ClientRateLimitLayer<K>,
}

impl<S: Clone, K> Clone for ClientRateLimit<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), limit: self.limit.clone() }
    }
}

impl<S: fmt::Debug, K> fmt::Debug for ClientRateLimit<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientRateLimit")
            .field("inner", &self.inner)
            .field("limit", &self.limit)
            .finish()
    }
}

impl<S, B, K> Service<Request<B>> for ClientRateLimit<S, K>
where
    S: HttpService<B> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = &self.limit;
        let (head, body) = request.into_parts();
        let state = match (limit.key)(&head).map_or(Ok(()), |key| limit.check(&key)) {
            Ok(()) => State::Inner(self.inner.call(Request::from_parts(head, body))),
            Err(retry_after) => {
                self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
                State::Refused(Some(Error::new(Kind::TooManyRequests, RateLimited { retry_after })))
            }
        };
        ResponseFuture { state }
    }
}

/// The future of [`ClientRateLimit`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Inner(#[pin] F),
    Refused(Option<Error>),
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Inner(future) => future.poll(cx).map_err(Into::into),
            StateProj::Refused(e) => {
                Poll::Ready(Err(e.take().expect("a future is not polled after its end").into()))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
