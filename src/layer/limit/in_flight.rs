//! `InFlight`: limits the requests of one client in flight.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::request::Parts;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    error::TooManyInFlight,
    key::{KeyFn, by_network},
    response_guard::attach_guard,
    sharded::Sharded,
};
use crate::{
    Body, HttpService, Request, Response,
    body::HttpBody,
    error::{BoxError, Error, Kind},
    peer::IPV6_PREFIX,
};

/// Wraps a service in [`InFlight`]. All services that it and its clones make share the counts.
pub struct InFlightLayer<K = IpAddr> {
    limit: usize,
    key: KeyFn<K>,
    counts: Arc<dyn Counts<K>>,
}

impl InFlightLayer {
    /// Allows `n` requests in flight, at least one, from each IPv4 address and each IPv6 network of
    /// [`IPV6_PREFIX`] bits. [`Peer::network`](crate::peer::Peer::network) tells how a client's network is
    /// determined; clients without an IP address are not limited.
    ///
    /// An HTTP/1.1 connection has one request in flight. A browser opens 6 connections, and many people may
    /// share one IPv4 address.
    pub fn per_ip(n: usize) -> Self {
        Self::per_network(n, IPV6_PREFIX)
    }

    /// As [`per_ip`](Self::per_ip), with IPv6 networks of `ipv6_prefix` bits.
    pub fn per_network(n: usize, ipv6_prefix: u8) -> Self {
        Self { limit: n.max(1), key: by_network(ipv6_prefix), counts: Arc::new(Sharded::new()) }
    }
}

impl<K> InFlightLayer<K> {
    /// Allows `n` requests in flight, at least one, for each key. Requests for which `key` returns `None`
    /// are not limited.
    ///
    /// ```
    /// use http::request::Parts;
    /// use vestibule::layer::InFlightLayer;
    ///
    /// // Each host may have 100 requests in flight, over all clients.
    /// let layer = InFlightLayer::per_key(100, |head: &Parts| head.headers.get("host").cloned());
    /// # drop(layer);
    /// ```
    pub fn per_key<F>(n: usize, key: F) -> Self
    where
        F: Fn(&Parts) -> Option<K> + Send + Sync + 'static,
        K: Hash + Eq + Clone + Send + 'static,
    {
        Self { limit: n.max(1), key: Arc::new(key), counts: Arc::new(Sharded::new()) }
    }

    /// Returns the number of clients with requests in flight.
    pub fn clients(&self) -> usize {
        self.counts.keys()
    }
}

impl<K> Clone for InFlightLayer<K> {
    fn clone(&self) -> Self {
        Self { limit: self.limit, key: self.key.clone(), counts: self.counts.clone() }
    }
}

impl<K> fmt::Debug for InFlightLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightLayer").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<S, K> Layer<S> for InFlightLayer<K> {
    type Service = InFlight<S, K>;

    fn layer(&self, inner: S) -> InFlight<S, K> {
        InFlight { inner, limit: self.clone() }
    }
}

/// The counts that all clones share. A trait, so that only the constructors need bounds on `K`.
trait Counts<K>: Send + Sync {
    /// Adds one to the count of `key`; returns `false` if it is `limit` already.
    fn try_increment(&self, key: &K, limit: usize) -> bool;
    /// Subtracts one from the count of `key`, and removes the key at zero.
    fn decrement(&self, key: &K);
    /// Returns the number of keys.
    fn keys(&self) -> usize;
}

impl<K> Counts<K> for Sharded<K, usize>
where
    K: Hash + Eq + Clone + Send,
{
    fn try_increment(&self, key: &K, limit: usize) -> bool {
        let mut shard = self.shard(key);
        match shard.get_mut(key) {
            Some(n) if *n >= limit => return false,
            Some(n) => *n += 1,
            None => drop(shard.insert(key.clone(), 1)),
        }
        true
    }

    fn decrement(&self, key: &K) {
        let mut shard = self.shard(key);
        match shard.get_mut(key) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(shard.remove(key)),
        }
    }

    fn keys(&self) -> usize {
        self.shards().map(|shard| shard.len()).sum()
    }
}

/// Counts one request until it is dropped.
struct CountGuard<K> {
    key: K,
    counts: Arc<dyn Counts<K>>,
}

impl<K> Drop for CountGuard<K> {
    fn drop(&mut self) {
        self.counts.decrement(&self.key);
    }
}

/// Limits the requests of one client in flight, over all clones.
///
/// A request above the limit is refused at once, with an error of [`Kind::TooManyRequests`] whose source is
/// [`TooManyInFlight`]; the inner service is not called. A request counts from `call` until the body of its
/// response has ended or is dropped, or its future is dropped. With a body that is complete with its head
/// it counts until the head only.
///
/// Readiness passes through. A refused request releases what was reserved inside: the inner service is
/// replaced by a clone.
///
/// Memory is bounded by the requests in flight: clients without any are not stored.
pub struct InFlight<S, K = IpAddr> {
    inner: S,
    limit: InFlightLayer<K>,
}

impl<S: Clone, K> Clone for InFlight<S, K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), limit: self.limit.clone() }
    }
}

impl<S: fmt::Debug, K> fmt::Debug for InFlight<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("inner", &self.inner).field("limit", &self.limit).finish()
    }
}

impl<S, B, K> Service<Request<B>> for InFlight<S, K>
where
    S: HttpService<B> + Clone,
    K: Send + 'static,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, K>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let InFlightLayer { limit, ref key, ref counts } = self.limit;
        let (head, body) = request.into_parts();
        let state = match key(&head) {
            Some(key) if !counts.try_increment(&key, limit) => {
                self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
                State::Refused(Some(Error::new(Kind::TooManyRequests, TooManyInFlight { limit })))
            }
            key => {
                let guard = key.map(|key| CountGuard { key, counts: counts.clone() });
                let request = Request::from_parts(head, body);
                State::Inner { future: self.inner.call(request), guard }
            }
        };
        ResponseFuture { state }
    }
}

/// The future of [`InFlight`].
#[pin_project]
pub struct ResponseFuture<F, K> {
    #[pin]
    state: State<F, K>,
}

#[pin_project(project = StateProj)]
enum State<F, K> {
    Inner {
        #[pin]
        future: F,
        /// `None` for a request that is not limited.
        guard: Option<CountGuard<K>>,
    },
    Refused(Option<Error>),
}

impl<F, K, B, E> Future for ResponseFuture<F, K>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
    K: Send + 'static,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Inner { future, guard } => {
                let answer = ready!(future.poll(cx));
                let answer = answer.map(|r| r.map(Body::new)).map_err(Into::into);
                let Some(guard) = guard.take() else { return Poll::Ready(answer) };
                Poll::Ready(answer.map(|response| attach_guard(response, guard)))
            }
            StateProj::Refused(e) => {
                Poll::Ready(Err(e.take().expect("a future is not polled after its end").into()))
            }
        }
    }
}

impl<F, K> fmt::Debug for ResponseFuture<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
