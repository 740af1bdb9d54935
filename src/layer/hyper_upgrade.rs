//! `HyperUpgrade`: lets services that are written for hyper's upgrades, such as axum's `WebSocketUpgrade`, take over
//! connections.

mod exchange;
mod io;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService, Request, Response,
    body::{Body, HttpBody},
    conn::tunnels::{Switch, TooManyTunnels, TunnelOptions, TunnelStats, Tunnels},
    semantics::problem::{self, Format},
};

/// Wraps a service in [`HyperUpgrade`].
#[derive(Debug, Clone, Default)]
pub struct HyperUpgradeLayer {
    options: TunnelOptions,
}

impl HyperUpgradeLayer {
    /// Creates a layer for WebSockets, with the bounds of [`TunnelOptions::new`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the allowed protocols, and the bounds of the tunnels.
    #[must_use]
    pub fn tunnels(mut self, options: TunnelOptions) -> Self {
        self.options = options;
        self
    }
}

impl<S> Layer<S> for HyperUpgradeLayer {
    type Service = HyperUpgrade<S>;

    fn layer(&self, inner: S) -> HyperUpgrade<S> {
        HyperUpgrade { inner, tunnels: Tunnels::new(self.options.clone()) }
    }
}

/// Gives requests that [ask for another protocol](crate::semantics::upgrade::requested) hyper's
/// [`OnUpgrade`](hyper::upgrade::OnUpgrade), so that an unchanged service for hyper, such as an `axum::Router` with
/// `WebSocketUpgrade`, works under [`serve`](crate::serve()).
///
/// Only hyper can create an `OnUpgrade`. So each upgrade request is sent through a hyper server of its own over an in-memory
/// pipe. That server receives an equivalent request, and the service is called with the original one, extensions included. If
/// the service answers 101, the pipe becomes a tunnel to the client, within the bounds of [`TunnelOptions`]: over HTTP/1.1
/// and, for WebSockets, over HTTP/2. Any other response is returned unchanged. Requests without an upgrade do not use hyper.
///
/// A service that spawns a task for the upgraded connection, as axum does, is not told about a shutdown: its connection is
/// closed, and the task ends as if the client had disconnected.
///
/// Readiness passes through.
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use axum::{Router, extract::ws::{WebSocket, WebSocketUpgrade}, response::Response, routing::get};
/// use tower::Layer;
/// use vestibule::{layer::HyperUpgradeLayer, serve};
///
/// async fn chat(upgrade: WebSocketUpgrade) -> Response {
///     upgrade.on_upgrade(|mut socket: WebSocket| async move {
///         while let Some(Ok(message)) = socket.recv().await {
///             if socket.send(message).await.is_err() {
///                 return;
///             }
///         }
///     })
/// }
///
/// let app = Router::new().route("/chat", get(chat));
/// serve("127.0.0.1:8080", HyperUpgradeLayer::new().layer(app)).await
/// # }
/// ```
#[derive(Clone)]
pub struct HyperUpgrade<S> {
    inner: S,
    tunnels: Arc<Tunnels>,
}

impl<S> HyperUpgrade<S> {
    /// Returns the counters of the tunnels of all clones.
    pub fn tunnel_stats(&self) -> TunnelStats {
        self.tunnels.stats()
    }
}

impl<S, B> Service<Request<B>> for HyperUpgrade<S>
where
    S: HttpService<B, Future: Send, Error: Send> + Clone + Send + 'static,
    B: HttpBody,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.tunnels.switch(&request) {
            Ok(None) => ResponseFuture(State::Called(self.inner.call(request))),
            Ok(Some(switch)) => {
                // Calls the instance that was polled ready.
                let clone = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, clone);
                ResponseFuture(State::Switching {
                    exchange: Box::pin(exchange::run(inner, request)),
                    switch: Some(switch),
                })
            }
            Err(TooManyTunnels) => {
                self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
                let format = Format::of(request.method(), request.headers());
                let status = http::StatusCode::SERVICE_UNAVAILABLE;
                let refused = problem::response(status, None, format);
                ResponseFuture(State::Refused(Some(Box::new(refused))))
            }
        }
    }
}

/// The future of [`HyperUpgrade`].
#[pin_project]
pub struct ResponseFuture<F, E>(#[pin] State<F, E>);

#[pin_project(project = StateProj)]
enum State<F, E> {
    Called(#[pin] F),
    Switching {
        exchange: Pin<Box<dyn Future<Output = Result<Response, E>> + Send>>,
        switch: Option<Box<Switch>>,
    },
    Refused(Option<Box<Response>>),
}

const ENDED: &str = "not polled after completion";

impl<F, R, E> Future for ResponseFuture<F, E>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Called(future) => future.poll(cx).map_ok(|response| response.map(Body::new)),
            StateProj::Switching { exchange, switch } => {
                exchange.as_mut().poll(cx).map_ok(|mut response| {
                    switch.take().expect(ENDED).complete(&mut response);
                    response
                })
            }
            StateProj::Refused(response) => Poll::Ready(Ok(*response.take().expect(ENDED))),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for HyperUpgrade<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HyperUpgrade").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<F, E> fmt::Debug for ResponseFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
