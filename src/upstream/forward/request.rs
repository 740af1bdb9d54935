//! The edits of a request, and the requests that are answered here.

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{EXPECT, HOST},
    uri::{Parts, Scheme},
};

use super::{HostPolicy, Options};
use crate::{
    body::{Body, HttpBody},
    peer::Peer,
    semantics::{
        forwarded::AuthorizedRequest,
        gateway,
        problem::{self, Format},
    },
};

impl Options {
    /// Returns the response to a request that is not forwarded.
    pub(super) fn answer<B: HttpBody>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        if let Some(rewrite) = &self.rewrite {
            let status = match rewrite.request_target(request.uri()) {
                Ok(Some(target)) => {
                    *request.uri_mut() = target;
                    None
                }
                Ok(None) => Some(StatusCode::NOT_FOUND),
                Err(_) => Some(StatusCode::BAD_REQUEST),
            };
            if let Some(status) = status {
                return Some(problem::response(
                    status,
                    None,
                    Format::of(request.method(), request.headers()),
                ));
            }
        }
        if !matches!(*request.method(), Method::OPTIONS | Method::TRACE) {
            return None;
        }
        let (method, has_content) = (request.method().clone(), !request.body().is_end_stream());
        let mut status = gateway::answer(&method, request.headers_mut(), self.forwards_trace);
        if status.is_none() && method == Method::TRACE && has_content {
            status = Some(StatusCode::BAD_REQUEST);
        }
        Some(match status? {
            StatusCode::OK => Response::new(Body::empty()),
            status => {
                problem::response(status, None, Format::of(request.method(), request.headers()))
            }
        })
    }

    /// Removes and adds fields.
    pub(super) fn prepare<B>(&self, request: &mut Request<B>) {
        // Out of the request, so that its peer can be borrowed.
        let mut headers = std::mem::take(request.headers_mut());
        match request.extensions().get::<Peer>() {
            Some(peer) => gateway::prepare_request(&mut headers, &self.fields, peer),
            None => {
                // Without a peer, the server has set the scheme of the target. With one, the client may have set it.
                let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
                let peer = Peer::memory().forwarded_proto(scheme);
                gateway::prepare_request(&mut headers, &self.fields, &peer);
            }
        }
        AuthorizedRequest::restore_fields(request.extensions(), &mut headers);
        *request.headers_mut() = headers;
    }

    /// Returns the value of `Expect` that is forwarded. That of HTTP/1.0 is ignored (RFC 9110 section 10.1.1).
    pub(super) fn forwarded_expect<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        if !self.forwards_expect || request.version() <= Version::HTTP_10 {
            return None;
        }
        let expect = request.headers().get(EXPECT)?;
        expect.as_bytes().eq_ignore_ascii_case(b"100-continue").then(|| expect.clone())
    }
}

impl HostPolicy {
    /// Sets the `Host`.
    pub(super) fn apply<B>(&self, request: &mut Request<B>) {
        match self {
            Self::Client => {}
            Self::Fixed(host) => drop(request.headers_mut().insert(HOST, host.clone())),
            Self::Server => {
                request.headers_mut().remove(HOST);
                // An absolute target has a host too.
                let mut parts = Parts::default();
                parts.path_and_query = request.uri().path_and_query().cloned();
                if let Ok(target) = Uri::from_parts(parts) {
                    *request.uri_mut() = target;
                }
            }
        }
    }
}
