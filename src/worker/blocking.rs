//! `blocking`: a blocking function as an application.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use tower_service::Service;

use crate::{Body, Request, Response, error::BoxError};

/// Creates an application from a blocking function.
///
/// `handler` receives the request with its complete body. It may block: a worker has its own thread and
/// runs one request at a time. It returns a [`Response`] of anything that converts into a [`Body`],
/// or a `Result` of one; its error becomes the error of the service.
///
/// The body is collected in memory first, without a bound. Put a
/// [`RequestBufferLayer`](crate::layer::RequestBufferLayer) in front of the pool: it bounds the size,
/// and no worker waits for a client. Trailers are dropped.
///
/// ```
/// use bytes::Bytes;
/// use vestibule::{Request, Response, worker};
///
/// let app = || worker::blocking(|request: Request<Bytes>| Response::new(request.into_body()));
/// let threads = worker::threads(2, app).start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
pub fn blocking<F, R>(handler: F) -> BlockingService<F>
where
    F: FnMut(Request<Bytes>) -> R,
    R: IntoResponse,
{
    BlockingService { handler: Rc::new(RefCell::new(handler)) }
}

/// The return types of a [`blocking`](blocking()) handler.
///
/// ```
/// use vestibule::{Response, worker::IntoResponse};
///
/// let failed = Err::<Response<&str>, _>("no such table").into_response();
/// assert_eq!(failed.unwrap_err().to_string(), "no such table");
/// ```
pub trait IntoResponse {
    /// Converts the value into the result of a service.
    ///
    /// # Errors
    /// The handler's error.
    fn into_response(self) -> Result<Response, BoxError>;
}

impl<B: Into<Body>> IntoResponse for Response<B> {
    fn into_response(self) -> Result<Response, BoxError> {
        Ok(self.map(Into::into))
    }
}

impl<B: Into<Body>, E: Into<BoxError>> IntoResponse for Result<Response<B>, E> {
    fn into_response(self) -> Result<Response, BoxError> {
        self.map(|r| r.map(Into::into)).map_err(Into::into)
    }
}

/// The service of [`blocking`](blocking()).
pub struct BlockingService<F> {
    /// Shared with the future of a call, which collects the body before it runs the handler.
    handler: Rc<RefCell<F>>,
}

impl<F> fmt::Debug for BlockingService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingService").finish_non_exhaustive()
    }
}

impl<F, R> Service<Request> for BlockingService<F>
where
    F: FnMut(Request<Bytes>) -> R,
    R: IntoResponse,
{
    type Response = Response;
    type Error = BoxError;
    type Future = BlockingFuture<F>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> BlockingFuture<F> {
        let (head, body) = request.into_parts();
        BlockingFuture {
            head: Some(Request::from_parts(head, ())),
            body,
            collected: Collected::default(),
            handler: self.handler.clone(),
        }
    }
}

/// The future of [`BlockingService`]: collects the body, then runs the handler in one poll.
pub struct BlockingFuture<F> {
    head: Option<Request<()>>,
    body: Body,
    collected: Collected,
    handler: Rc<RefCell<F>>,
}

impl<F, R> Future for BlockingFuture<F>
where
    F: FnMut(Request<Bytes>) -> R,
    R: IntoResponse,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while let Some(frame) = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            // The request of the handler cannot contain trailers.
            if let Ok(data) = frame?.into_data() {
                this.collected.push(data);
            }
        }
        let body = std::mem::take(&mut this.collected).into_bytes();
        let request = this.head.take().expect("not polled after its end").map(|()| body);
        let response = (this.handler.borrow_mut())(request);
        Poll::Ready(response.into_response())
    }
}

impl<F> fmt::Debug for BlockingFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingFuture").finish_non_exhaustive()
    }
}

/// The part of a body received so far. The first piece is not copied; behind a request buffer it is the whole
/// body.
#[derive(Default)]
struct Collected {
    first: Bytes,
    all: BytesMut,
}

impl Collected {
    fn push(&mut self, data: Bytes) {
        if self.all.is_empty() && self.first.is_empty() {
            self.first = data;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn handler_receives_complete_body_and_keeps_its_state() {
        let mut calls = 0;
        let app = blocking(move |r: Request<Bytes>| {
            calls += 1;
            Response::new(format!("{calls}: {:?}", r.body()))
        });
        let (tx, body) = Body::channel(None);
        for piece in ["a", "b", "c"] {
            tx.send(piece.into()).unwrap();
        }
        tx.finish(None);
        let mut app = app;
        let first = app.ready().await.unwrap().call(Request::new(body)).await.unwrap();
        assert_eq!(first.body().as_bytes().unwrap(), "1: b\"abc\"");
        let second = app.ready().await.unwrap().call(Request::new("x".into())).await.unwrap();
        assert_eq!(second.body().as_bytes().unwrap(), "2: b\"x\"");
    }

    #[tokio::test]
    async fn service_returns_error_of_handler_and_of_body() {
        let app = blocking(|_| Err::<Response<Bytes>, _>("no"));
        assert_eq!(app.oneshot(Request::default()).await.unwrap_err().to_string(), "no");

        let app = blocking(|_| -> Response<Bytes> {
            panic!("an aborted body must not reach the handler")
        });
        let (tx, body) = Body::channel(None);
        tx.abort("aborted");
        assert_eq!(app.oneshot(Request::new(body)).await.unwrap_err().to_string(), "aborted");
    }
}
