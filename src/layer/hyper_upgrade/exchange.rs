//! One request through a hyper server, over a pipe in memory.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, StatusCode, header::HOST};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use tokio::sync::oneshot;

use super::io::HyperIo;
use crate::{
    HttpService, Request, Response,
    body::{Body, HttpBody},
    conn::{SingleUse, h1::client::Connection, upgrade::Takeover},
    proto::h1::Limits,
    semantics::{
        problem::{self, Format},
        upgrade,
    },
};

/// Capacity of the pipe in each direction: 16 KiB.
const PIPE_BYTES: usize = 16 << 10;

/// The outcome of the service's call.
enum Outcome<E> {
    /// The service accepts the switch. The body of its response may hold permits.
    Switched(Body),
    Other(Result<Response, E>),
}

/// Calls a service that is ready with a request that asks for a switch. A response of 101 has the stream of the pipe.
pub(super) async fn run<S, B>(inner: S, request: Request<B>) -> Result<Response, S::Error>
where
    S: HttpService<B, Future: Send, Error: Send> + Send + 'static,
    B: HttpBody,
{
    let format = Format::of(request.method(), request.headers());
    let protocol = upgrade::protocol(request.headers()).cloned();
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (sender, mut outcome) = oneshot::channel();
    let call = Arc::new(Mutex::new(Some((inner, request, sender))));
    let service = service_fn(move |piped: hyper::Request<Incoming>| {
        let call = call.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let Some((inner, request, sender)) = call else {
                return Ok::<_, Infallible>(placeholder()); // one request was sent
            };
            let on_upgrade = piped.into_parts().0.extensions.remove::<OnUpgrade>();
            let (head, outcome) = call_service(inner, request, on_upgrade).await;
            let _ = sender.send(outcome); // fails if the client has disconnected
            Ok(head)
        }
    });
    let server = http1::Builder::new().serve_connection(HyperIo(far), service).with_upgrades();
    // The driver bounds the time of the service.
    let limits = Limits { head_timeout: NEVER, ..Limits::default() };
    let client =
        Connection::new(near, Arc::new(limits)).exchange(piped_request(protocol), SingleUse);
    let response = drive(server, client).await;
    match (outcome.try_recv(), response) {
        (Ok(Outcome::Other(result)), _) => result,
        (Ok(Outcome::Switched(body)), Ok(response)) => {
            Ok(response.map(|open| open.with_guard(body)))
        }
        // The service has panicked, or its response of 101 does not fit the request.
        (Ok(Outcome::Switched(_)) | Err(_), _) => {
            Ok(problem::response(StatusCode::INTERNAL_SERVER_ERROR, None, format))
        }
    }
}

/// Calls the service with the request of the client and the upgrade of the request in the pipe. Returns the head for
/// the pipe, and the outcome.
async fn call_service<S, B>(
    mut inner: S,
    mut request: Request<B>,
    on_upgrade: Option<OnUpgrade>,
) -> (Response, Outcome<S::Error>)
where
    S: HttpService<B>,
    B: HttpBody,
{
    if let Some(on_upgrade) = on_upgrade {
        request.extensions_mut().insert(on_upgrade);
    }
    match inner.call(request).await.map(|response| response.map(Body::new)) {
        // A tunnel of this crate does not use the pipe.
        Ok(response)
            if response.status() == StatusCode::SWITCHING_PROTOCOLS
                && response.extensions().get::<Takeover>().is_none() =>
        {
            let (parts, body) = response.into_parts();
            (Response::from_parts(parts, Body::empty()), Outcome::Switched(body))
        }
        other => (placeholder(), Outcome::Other(other)),
    }
}

/// Returns the request for the pipe.
fn piped_request(protocol: Option<HeaderValue>) -> Request {
    let mut request = Request::new(Body::empty());
    if let Some(protocol) = protocol {
        upgrade::set(request.headers_mut(), protocol);
    }
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    request
}

/// Polls both ends of the pipe until the client's end has a response, and after a response of 101 until hyper has
/// passed its end to the service.
async fn drive<E>(
    server: impl Future,
    client: impl Future<Output = Result<Response, E>>,
) -> Result<Response, E> {
    let (mut server, mut client) = (pin!(server), pin!(client));
    let (mut has_ended, mut response) = (false, None);
    poll_fn(|cx| {
        has_ended = has_ended || server.as_mut().poll(cx).is_ready();
        if response.is_none()
            && let Poll::Ready(received) = client.as_mut().poll(cx)
        {
            response = Some(received);
        }
        let is_switch = |r: &Response| r.status() == StatusCode::SWITCHING_PROTOCOLS;
        match response.take() {
            Some(Ok(head)) if is_switch(&head) && !has_ended => {
                response = Some(Ok(head));
                Poll::Pending
            }
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    })
    .await
}

/// A timeout that never passes.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// Returns the response that ends the connection in the pipe. It is not sent to the client.
fn placeholder() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
