//! `sync`: a plain blocking function as an application.

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

/// Makes a plain function the application of a worker.
///
/// `handler` gets the request with its whole body and may block as it likes: it has the thread
/// for itself. It returns a [`Response`] of anything that becomes a [`Body`], or a `Result` of
/// one; an error becomes the error of the service.
///
/// The body is gathered in memory first. Its size is bounded by what stands in front, which is
/// where a bound belongs: put a
/// [`RequestBufferLayer`](crate::layer::RequestBufferLayer) there, and no worker ever waits for
/// a client.
///
/// ```
/// use bytes::Bytes;
/// use vestibule::{Request, Response, worker};
///
/// let app = || worker::sync(|request: Request<Bytes>| Response::new(request.into_body()));
/// let threads = worker::threads(2, app).start()?;
/// # Ok::<_, vestibule::Error>(())
/// ```
pub fn sync<F, R>(handler: F) -> SyncApp<F>
where
    F: FnMut(Request<Bytes>) -> R,
    R: Reply,
{
    SyncApp { handler: Rc::new(RefCell::new(handler)) }
}

/// What a [`sync`] handler may return.
pub trait Reply {
    /// As the service's answer.
    ///
    /// # Errors
    /// The handler's own.
    fn into_answer(self) -> Result<Response, BoxError>;
}

impl<B: Into<Body>> Reply for Response<B> {
    fn into_answer(self) -> Result<Response, BoxError> {
        Ok(self.map(Into::into))
    }
}

impl<B: Into<Body>, E: Into<BoxError>> Reply for Result<Response<B>, E> {
    fn into_answer(self) -> Result<Response, BoxError> {
        self.map(|r| r.map(Into::into)).map_err(Into::into)
    }
}

/// The service that [`sync`] makes.
pub struct SyncApp<F> {
    /// Shared with a call that still gathers its body; only one is made at a time.
    handler: Rc<RefCell<F>>,
}

impl<F> fmt::Debug for SyncApp<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncApp").finish_non_exhaustive()
    }
}

impl<F, R> Service<Request> for SyncApp<F>
where
    F: FnMut(Request<Bytes>) -> R,
    R: Reply,
{
    type Response = Response;
    type Error = BoxError;
    type Future = SyncFuture<F>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> SyncFuture<F> {
        let (head, body) = request.into_parts();
        SyncFuture {
            head: Some(Request::from_parts(head, ())),
            body,
            gathered: Gathered::default(),
            handler: self.handler.clone(),
        }
    }
}

/// The future of [`SyncApp`]: gathers the body, then runs the handler to its end in one poll.
pub struct SyncFuture<F> {
    head: Option<Request<()>>,
    body: Body,
    gathered: Gathered,
    handler: Rc<RefCell<F>>,
}

impl<F, R> Future for SyncFuture<F>
where
    F: FnMut(Request<Bytes>) -> R,
    R: Reply,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        while let Some(frame) = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            // Trailers are for applications that stream; a plain function has no place for them.
            if let Ok(data) = frame?.into_data() {
                this.gathered.push(data);
            }
        }
        let body = std::mem::take(&mut this.gathered).whole();
        let request = this.head.take().expect("not polled after its end").map(|()| body);
        let reply = (this.handler.borrow_mut())(request);
        Poll::Ready(reply.into_answer())
    }
}

impl<F> fmt::Debug for SyncFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncFuture").finish_non_exhaustive()
    }
}

/// A body so far. The first piece is not copied: behind a request buffer it is the only one.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn push(&mut self, data: Bytes) {
        if self.all.is_empty() && self.first.is_empty() {
            self.first = data;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&data);
    }

    fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn the_handler_gets_the_whole_body_and_keeps_its_state() {
        let mut calls = 0;
        let app = sync(move |r: Request<Bytes>| {
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
    async fn an_error_of_the_handler_and_one_of_the_body_are_errors_of_the_service() {
        let app = sync(|_| Err::<Response<Bytes>, _>("no"));
        assert_eq!(app.oneshot(Request::default()).await.unwrap_err().to_string(), "no");

        let app = sync(|_| -> Response<Bytes> { panic!("a cut body must not be run") });
        let (tx, body) = Body::channel(None);
        tx.abort("cut");
        assert_eq!(app.oneshot(Request::new(body)).await.unwrap_err().to_string(), "cut");
    }
}
