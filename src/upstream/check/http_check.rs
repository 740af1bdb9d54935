//! `HttpCheck`: a health check by an HTTP request.

use std::{fmt, ops::RangeInclusive};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header::HOST};

use super::Check;
use crate::{
    HttpService,
    body::Body,
    error::BoxError,
    upstream::{
        call::{next_frame, send},
        endpoint::Endpoint,
        error::{AttemptError, AttemptErrorKind},
        pooled::ExceedsMaximum,
    },
};

/// Bytes of a response's body that are searched for a text: 64 KiB. The rest is not read.
pub const MAX_CHECK_BODY: usize = 64 << 10;

/// Sends a GET to an endpoint, outside of its load and limits, and expects a status and optionally a text in the
/// body.
///
/// It does not wait for a connection of a server whose [maximum](crate::upstream::PoolConfig::max_connections) is in use,
/// since that would make a busy server a broken one: it opens one more, and closes it. Over HTTP/2 it waits.
///
/// ```
/// use vestibule::upstream::check::HttpCheck;
///
/// let check = HttpCheck::new("/healthz").unwrap().status(200..=204).body_contains("ok");
/// assert!(HttpCheck::new("not a path").is_none());
/// # drop(check);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HttpCheck {
    target: Uri,
    host: Option<HeaderValue>,
    status: RangeInclusive<u16>,
    text: Option<Bytes>,
}

/// The difference between a response and the expectation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Unexpected {
    #[error("status {0}, not {1:?}")]
    Status(u16, RangeInclusive<u16>),
    #[error("the body does not contain the expected text")]
    Body,
}

impl HttpCheck {
    /// Creates a check of this path, which may have a query. Returns `None` if it is not valid. A status of 200 to
    /// 399 is expected.
    pub fn new(path: &str) -> Option<Self> {
        let target: Uri = path.parse().ok().filter(|_| path.starts_with('/'))?;
        Some(Self { target, host: None, status: 200..=399, text: None })
    }

    /// Sets the `Host` of the request. Default: the server's address.
    pub fn host(mut self, host: HeaderValue) -> Self {
        self.host = Some(host);
        self
    }

    /// Sets the expected status. Default: 200 to 399.
    pub fn status(mut self, status: RangeInclusive<u16>) -> Self {
        self.status = status;
        self
    }

    /// Sets a text that the first [`MAX_CHECK_BODY`] bytes of the body must contain. Default: none.
    pub fn body_contains(mut self, text: impl Into<Bytes>) -> Self {
        self.text = Some(text.into());
        self
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.target.clone();
        request.extensions_mut().insert(ExceedsMaximum);
        if let Some(host) = &self.host {
            request.headers_mut().insert(HOST, host.clone());
        }
        request
    }

    /// Sends the request; once more if the server had closed the idle connection on which it was sent, which says nothing
    /// about the server.
    async fn send<S: HttpService + Clone>(&self, service: &S) -> Result<Response<Body>, BoxError> {
        let error = match send(service.clone(), self.request()).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let mut error = error.downcast::<AttemptError>()?;
        if error.kind() == AttemptErrorKind::StaleConnection
            && let Some(request) = error.take_request()
        {
            return send(service.clone(), request).await;
        }
        Err(error)
    }

    async fn judge(&self, response: Response<Body>) -> Result<(), BoxError> {
        let status = response.status().as_u16();
        if !self.status.contains(&status) {
            return Err(Unexpected::Status(status, self.status.clone()).into());
        }
        let (mut body, mut start) = (response.into_body(), Vec::new());
        // A short body is read to its end, so that the connection can be reused.
        while let Some(data) = next_frame(&mut body).await {
            let data = data?;
            let room = MAX_CHECK_BODY.saturating_sub(start.len());
            start.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                break;
            }
        }
        let is_there = |text: &Bytes| memchr::memmem::find(&start, text).is_some();
        if self.text.as_ref().is_none_or(is_there) { Ok(()) } else { Err(Unexpected::Body.into()) }
    }
}

impl<S> Check<S> for HttpCheck
where
    S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
{
    async fn check(&self, endpoint: Endpoint<S>) -> Result<(), BoxError> {
        self.judge(self.send(endpoint.service()).await?).await
    }
}

impl fmt::Display for HttpCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GET {}", self.target)
    }
}
