//! `Endpoint`: a service with a key, a load and a health.

mod attempt_guard;
mod handle;
mod limits;
mod status;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    attempt::Attempt,
    error::{AttemptError, AttemptErrorKind},
    group::Group,
};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::Delivery,
    error::{Error, Kind},
    net::clock,
    policy::pick::Candidate,
};

pub(super) use attempt_guard::InFlight;
pub use handle::{EndpointHandle, LAST_ERRORS};
pub use limits::EndpointLimits;
pub use status::{EndpointError, EndpointStatus};

/// The key of an endpoint, which does not change when other endpoints are added or removed. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

impl EndpointKey {
    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EndpointKey {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

impl From<String> for EndpointKey {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service with a key, a load and a health, to which [`Balance`](super::Balance) can send requests.
///
/// The service is any HTTP service: a [`Remote`](super::Remote), a pool of workers, an `axum::Router`, a closure.
/// [`ErasedService`](super::ErasedService) makes one type of services of several types.
///
/// A request counts as in flight from `call` until the end of the response's body, or until the head if the response
/// is complete with it. An endpoint whose service cannot be reached, or fails to become ready, is ejected according
/// to [`HealthOptions`](crate::policy::health::HealthOptions). The begin of an ejection is logged as a `WARN` event
/// "endpoint ejected" with the target `vestibule::upstream`, with the fields `endpoint` (the key), `error`, and those
/// of the request. The end of an ejection is not logged. See [`EndpointHandle`] for the figures.
///
/// Clones share load and health. An endpoint is always ready; its service's readiness is awaited after
/// `call`, for up to [`READY_TIMEOUT`](super::READY_TIMEOUT). Beyond its [limits](Self::limits) a request fails
/// with [`AttemptErrorKind::Busy`].
///
/// ```
/// use std::convert::Infallible;
/// use tower::{ServiceExt, service_fn};
/// use vestibule::{Body, Request, Response, upstream::Endpoint};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let endpoint = Endpoint::new("hello", hello).weight(2);
///
/// # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// let response = rt.block_on(endpoint.clone().oneshot(Request::new(Body::empty()))).unwrap();
/// assert_eq!(response.status(), 200);
/// assert_eq!((endpoint.handle().in_flight(), endpoint.handle().is_available()), (0, true));
/// ```
#[derive(Debug, Clone)]
pub struct Endpoint<S> {
    service: S,
    place: Place,
    handle: EndpointHandle,
}

/// The properties of an endpoint in a set, except its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) weight: u32,
    pub(super) tier: u8,
    pub(super) zone: Arc<str>,
}

impl<S> Endpoint<S> {
    /// Creates an endpoint of weight 1, tier 0 and no zone.
    pub fn new(key: impl Into<EndpointKey>, service: S) -> Self {
        let place = Place { weight: 1, tier: 0, zone: Arc::default() };
        Self { service, place, handle: EndpointHandle::new(key.into(), EndpointLimits::new()) }
    }

    /// Sets the share of the requests, relative to the other weights; 0 counts as 1. Default 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.place.weight = weight.max(1);
        self
    }

    /// Sets the tier, for [`Tiers`](crate::policy::pick::Tiers): endpoints of tier 1 are the backups of those of tier
    /// 0. Default 0.
    #[must_use]
    pub fn tier(mut self, tier: u8) -> Self {
        self.place.tier = tier;
        self
    }

    /// Sets the zone, for [`Tiers::local_zone`](crate::policy::pick::Tiers::local_zone). Default: none.
    #[must_use]
    pub fn zone(mut self, zone: &str) -> Self {
        self.place.zone = zone.into();
        self
    }

    /// Sets the limits of concurrent requests. Default: no limit.
    ///
    /// The endpoint gets a load and a health of its own: it is another one than those that were cloned from it before, whose
    /// limits stay. [`EndpointHandle::set_limits`] changes the limits of an endpoint that is in use.
    #[must_use]
    pub fn limits(mut self, limits: EndpointLimits) -> Self {
        self.handle = EndpointHandle::new(self.handle.key().clone(), limits);
        self
    }

    /// Returns the handle of its load and health.
    pub fn handle(&self) -> &EndpointHandle {
        &self.handle
    }

    /// Returns the key.
    pub fn key(&self) -> &EndpointKey {
        self.handle.key()
    }

    /// Returns the service.
    pub fn service(&self) -> &S {
        &self.service
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    /// Returns the candidate for a policy, without load and health.
    pub(super) fn candidate(&self) -> Candidate<'_> {
        let mut candidate = Candidate::new(self.key().as_str());
        candidate.weight = self.place.weight;
        candidate.tier = self.place.tier;
        candidate.zone = &self.place.zone;
        candidate
    }

    /// Sends `request` to this endpoint as an attempt.
    pub(super) fn send(
        &self,
        mut request: Request<Body>,
        mut in_flight: InFlight,
    ) -> ResponseFuture<S, S::Future>
    where
        S: HttpService + Clone,
    {
        in_flight.observe_upload(&mut request);
        let attempt = Box::pin(Attempt::new(self.service.clone(), request));
        ResponseFuture(State::Sent { attempt, in_flight: Some(in_flight) })
    }
}

impl<S, B> Service<Request<B>> for Endpoint<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        let options = self.handle.options();
        match self.handle.begin(clock::now(), &options, true, None::<&Arc<Group>>) {
            Some(in_flight) => self.send(request, in_flight),
            None => {
                let source = Error::new(Kind::Overloaded, super::NoRoom);
                let error = AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, source);
                ResponseFuture(State::Refused(Some(error.with_request(request))))
            }
        }
    }
}

/// The future of [`Endpoint`].
pub struct ResponseFuture<S, F>(State<S, F>);

enum State<S, F> {
    Sent {
        /// Boxed, since it has the request in it, and is moved once for each layer around the endpoint.
        attempt: Pin<Box<Attempt<S, F>>>,
        in_flight: Option<InFlight>,
    },
    Refused(Option<AttemptError>),
}

impl<S: HttpService> ResponseFuture<S, S::Future> {
    /// Makes a timeout at or after `deadline` no failure of the endpoint, which has had the request for a small part of its
    /// time. A probe of an ejected endpoint that is not answered is always a failure: otherwise the next one would follow
    /// at once.
    pub(super) fn excuse_deadline(&mut self, deadline: Instant) {
        if let State::Sent { attempt, in_flight } = &mut self.0
            && !in_flight.as_ref().is_some_and(InFlight::is_probe)
        {
            attempt.as_mut().excuse_deadline(deadline);
        }
    }
}

const ENDED: &str = "not polled again after it has ended";

impl<S> Future for ResponseFuture<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (attempt, in_flight) = match &mut self.0 {
            State::Sent { attempt, in_flight } => (attempt, in_flight),
            State::Refused(error) => return Poll::Ready(Err(error.take().expect(ENDED))),
        };
        let mut result = ready!(attempt.as_mut().poll(cx));
        let mut in_flight = in_flight.take().expect(ENDED);
        match &mut result {
            Ok(response) => {
                in_flight.answer(response.status(), response.headers());
                let body = std::mem::take(response.body_mut());
                *response.body_mut() = body.with_observer(in_flight, InFlight::end_body);
            }
            Err(error) => in_flight.fail(error),
        }
        Poll::Ready(result)
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
