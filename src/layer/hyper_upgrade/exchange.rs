//! One request through a server of hyper over a pipe in memory.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use http::StatusCode;
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

/// Bytes of a tunnel on their way through the pipe, in each direction, 16 KiB.
const PIPE_BYTES: usize = 16 << 10;

/// What the service has answered.
enum Answer<E> {
    /// It has agreed to a switch. With its response's body, for what that holds.
    Switched(Body),
    Other(Result<Response, E>),
}

/// Calls a service that is ready with a request that asks for a switch. A response of 101 has the stream of the pipe.
pub(super) async fn run<S, B>(inner: S, request: Request<B>) -> Result<Response, S::Error>
where
    S: HttpService<B, Future: Send, Error: Send> + Send + 'static,
    B: HttpBody,
{
    let format = Format::of(request.headers());
    let protocol = upgrade::protocol(request.headers()).cloned();
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (answer, mut answered) = oneshot::channel();
    let call = Arc::new(Mutex::new(Some((inner, request, answer))));
    let service = service_fn(move |asked: hyper::Request<Incoming>| {
        let call = call.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let Some((mut inner, mut request, answer)) = call else {
                return Ok::<_, Infallible>(refusal()); // one request was sent
            };
            if let Some(on_upgrade) = asked.into_parts().0.extensions.remove::<OnUpgrade>() {
                request.extensions_mut().insert(on_upgrade);
            }
            let result = inner.call(request).await.map(|response| response.map(Body::new));
            let (head, outcome) = match result {
                // One with a tunnel of this crate has no use for the pipe.
                Ok(response)
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS
                        && response.extensions().get::<Takeover>().is_none() =>
                {
                    let (parts, body) = response.into_parts();
                    (Response::from_parts(parts, Body::empty()), Answer::Switched(body))
                }
                other => (refusal(), Answer::Other(other)),
            };
            let _ = answer.send(outcome); // fails if the client has left
            Ok(head)
        }
    });
    let server = http1::Builder::new().serve_connection(HyperIo(far), service).with_upgrades();
    let mut asked = Request::new(Body::empty());
    if let Some(protocol) = protocol {
        upgrade::set(asked.headers_mut(), protocol);
    }
    asked.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    // The service has the time that it has anywhere: its driver bounds it.
    let limits = Limits { head_timeout: NEVER, ..Limits::default() };
    let client = Connection::new(near, Arc::new(limits)).exchange(asked, SingleUse);
    let (mut server, mut client) = (pin!(server), pin!(client));
    let (mut has_ended, mut response) = (false, None);
    poll_fn(|cx| {
        has_ended = has_ended || server.as_mut().poll(cx).is_ready();
        if response.is_none()
            && let Poll::Ready(received) = client.as_mut().poll(cx)
        {
            response = Some(received);
        }
        // The server ends when it has passed its end of the pipe to the service.
        let is_switch = |r: &Response| r.status() == StatusCode::SWITCHING_PROTOCOLS;
        match &response {
            Some(Ok(head)) if is_switch(head) && !has_ended => Poll::Pending,
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        }
    })
    .await;
    match (answered.try_recv(), response) {
        (Ok(Answer::Other(result)), _) => result,
        (Ok(Answer::Switched(body)), Some(Ok(response))) => {
            Ok(response.map(|open| open.with_guard(body)))
        }
        // The service has panicked, or its response of 101 was not one to this request.
        (Ok(Answer::Switched(_)) | Err(_), _) => {
            Ok(problem::response(StatusCode::INTERNAL_SERVER_ERROR, None, format))
        }
    }
}

/// Stands for "never" among the timeouts of a connection.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// The response that ends the connection in the pipe; no client gets it.
fn refusal() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
