//! A chat over WebSocket, in this process.
//!
//! Run with `cargo run --example chat`, and open <http://127.0.0.1:8080> in two windows. Any crate that speaks WebSocket
//! over a stream can be used; here it is `tokio-tungstenite`. It works over HTTP/1.1 and HTTP/2, alone and behind
//! `examples/proxy.rs`.

#[cfg(test)]
#[path = "chat/tests.rs"]
mod tests;

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use futures_util::SinkExt;
use http::{HeaderValue, StatusCode, header};
use tokio::{
    sync::{Semaphore, broadcast},
    time::timeout,
};
use tokio_stream::StreamExt;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tower::service_fn;
use vestibule::{
    Body, HttpService, Request, Response, Router,
    conn::upgrade::{self, Upgraded},
    serve::{serve, shutdown_signal},
};

/// Maximum number of clients. Others get 503.
const MAX_CLIENTS: usize = 4096;

/// Maximum size of a message: 4 KiB.
const MAX_MESSAGE: usize = 4 << 10;

/// Maximum number of messages that are queued for a client. A slower client misses messages.
const MAX_QUEUED: usize = 64;

/// Time that a client has to receive a message, or to confirm the end.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    serve(listen, site(MAX_CLIENTS)).shutdown(shutdown_signal()).await
}

/// Returns the service of the page and its chat room.
fn site(
    max_clients: usize,
) -> impl HttpService<Body, Future: Send> + Clone + Send + Sync + 'static {
    let (room, _) = broadcast::channel::<String>(MAX_QUEUED);
    let seats = Arc::new(Semaphore::new(max_clients));
    let chat = service_fn(move |request: Request| {
        let (room, seats) = (room.clone(), seats.clone());
        async move {
            // A page of another site can open a WebSocket to this site, with the cookies of this site.
            if !is_same_origin(&request) {
                return Ok(refusal(StatusCode::FORBIDDEN, "the page is of another site\n"));
            }
            let Ok(seat) = seats.try_acquire_owned() else {
                return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "the room is full\n"));
            };
            Ok::<_, Infallible>(upgrade::websocket(&request, |stream| async move {
                converse(stream, room).await;
                drop(seat);
            }))
        }
    });
    let page = service_fn(|_: Request| async {
        let mut page = Response::new(Body::from(include_str!("chat/page.html")));
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        page.headers_mut().insert(header::CONTENT_TYPE, html);
        Ok::<_, Infallible>(page)
    });
    Router::new().route("/chat", chat).route("/", page)
}

fn refusal(status: StatusCode, reason: &'static str) -> Response {
    let mut response = Response::new(Body::from(reason));
    *response.status_mut() = status;
    response
}

/// Returns whether a request comes from a page of this site, or from a program other than a browser.
fn is_same_origin(request: &Request) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, origin)| Some(origin) == host)
}

/// Passes messages between a client and the room until one of them ends.
async fn converse(stream: Upgraded, room: broadcast::Sender<String>) {
    let mut messages = room.subscribe();
    let mut draining = pin!(stream.draining());
    let config = WebSocketConfig::default()
        .read_buffer_size(MAX_MESSAGE) // allocated at once; the default is 128 KiB
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let end = loop {
        let message = tokio::select! {
            received = socket.next() => match received {
                Some(Ok(Message::Text(text))) => {
                    let _ = room.send(text.to_string()); // fails if there is no client
                    continue;
                }
                Some(Ok(_)) => continue, // pings and a close are answered by the next read
                None => return,
                Some(Err(Error::Capacity(_))) => break Some((CloseCode::Size, "too long")),
                Some(Err(_)) => return,
            },
            message = messages.recv() => match message {
                Ok(text) => Message::text(text),
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => break None,
            },
            () = &mut draining => break Some((CloseCode::Away, "the server shuts down")),
        };
        if !matches!(timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    };
    let frame = end.map(|(code, reason)| CloseFrame { code, reason: reason.into() });
    let closed = async {
        socket.close(frame).await?;
        while socket.try_next().await?.is_some() {} // until the client has confirmed
        Ok::<_, Error>(())
    };
    let _ = timeout(SEND_TIMEOUT, closed).await;
}
