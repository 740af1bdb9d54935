//! `TryFiles`: a file if the path names one, and another service otherwise.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{StatusCode, request::Parts};
use pin_project::pin_project;
use tower_service::Service;

use super::{
    Dir,
    entry::Entry,
    respond::respond,
    service::{PendingLookup, Resolution, refuse},
};
use crate::{
    Body, BoxError, HttpService, Request, Response, body::HttpBody, conn::head_pool,
    service::Readiness,
};

/// Files, and another service for all other requests; made by
/// [`DirBuilder::or`](super::DirBuilder::or).
///
/// It takes requests with any body; the other service gets them with a [`Body`].
#[derive(Debug, Clone)]
pub struct TryFiles<S> {
    dir: Dir,
    service: S,
}

impl<S> TryFiles<S> {
    pub(super) fn new(dir: Dir, service: S) -> Self {
        Self { dir, service }
    }
}

impl<S, B> Service<Request<B>> for TryFiles<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture<S> {
        let (parts, body) = request.into_parts();
        ResponseFuture(match self.dir.0.resolve(&parts) {
            Resolution::Entry(entry, status) if !matches!(*entry, Entry::Missing) => {
                let response = respond(&parts, &entry, status);
                head_pool::release(parts);
                State::File(Some(response))
            }
            Resolution::Refused(status) if status == StatusCode::BAD_REQUEST => {
                State::File(Some(refuse(&parts, status)))
            }
            Resolution::Entry(..) | Resolution::Refused(_) => {
                let request = Request::from_parts(parts, Body::new(body));
                State::ready(self.service.clone(), request)
            }
            Resolution::OnDisk(pending) => {
                let lookup = self.dir.0.lookup_blocking(pending);
                let request = Box::new((parts, Body::new(body)));
                State::Lookup(lookup, Some(request), self.service.clone())
            }
        })
    }
}

/// The future of [`TryFiles`].
#[pin_project]
pub struct ResponseFuture<S: Service<Request>>(#[pin] State<S>);

#[pin_project(project = StateProj)]
#[allow(clippy::large_enum_variant, reason = "a file's response is the common one")]
enum State<S: Service<Request>> {
    /// `None` after completion.
    File(Option<Response>),
    /// Waits for a lookup of the file.
    Lookup(PendingLookup, Option<Box<(Parts, Body)>>, S),
    /// There is no file: waits for the service to be ready.
    Ready(S, Option<Request>, Readiness),
    Call(#[pin] S::Future),
}

impl<S: Service<Request>> State<S> {
    fn ready(service: S, request: Request) -> Self {
        let readiness = Readiness::new(request.extensions());
        Self::Ready(service, Some(request), readiness)
    }
}

impl<S> Future for ResponseFuture<S>
where
    S: HttpService + Clone,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        loop {
            let next = match state.as_mut().project() {
                StateProj::File(response) => {
                    return Poll::Ready(Ok(response.take().expect("polled after completion")));
                }
                StateProj::Lookup(lookup, request, service) => {
                    let (status, entry) = ready!(lookup.poll(cx))?;
                    let (parts, body) = *request.take().expect("polled after completion");
                    if !matches!(*entry, Entry::Missing) {
                        return Poll::Ready(Ok(respond(&parts, &entry, status)));
                    }
                    State::ready(service.clone(), Request::from_parts(parts, body))
                }
                StateProj::Ready(service, request, readiness) => {
                    ready!(readiness.poll(service, cx))?;
                    State::Call(service.call(request.take().expect("polled after completion")))
                }
                StateProj::Call(future) => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    return Poll::Ready(Ok(response.map(Body::new)));
                }
            };
            state.set(next);
        }
    }
}

impl<S: Service<Request>> fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
