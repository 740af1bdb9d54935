//! HTTP/2: what a client sees, and what a hostile one does.

mod attacks;
mod ending;
mod extremes;
mod frames;
mod gate;
mod last_data;
mod legitimate;
mod limits;
mod requests;
mod room;
mod windows;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::Response as HttpResponse;
use tokio::{io::DuplexStream, task::JoinHandle};

use crate::{
    Body, HttpService, Request, Response,
    conn::{Config, Connection, Transport},
    net::{Drain, DrainWatch},
    peer::Peer,
};

/// Fields of HTTP/1.1 that apply to a connection.
pub(super) const OF_CONNECTION: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"];

/// A connection that is served, and its other end.
struct Served {
    client: DuplexStream,
    task: JoinHandle<std::io::Result<()>>,
}

fn serve<S>(service: S, config: Config) -> Served
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    serve_watched(service, config, DrainWatch::never())
}

fn serve_watched<S>(service: S, config: Config, watch: DrainWatch) -> Served
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    serve_piped(1 << 20, service, config, watch)
}

/// Serves over a pipe that holds `len` bytes in each direction.
fn serve_piped<S>(len: usize, service: S, config: Config, watch: DrainWatch) -> Served
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let (client, io) = tokio::io::duplex(len);
    let transport = Transport::new(io, Peer::memory(), watch);
    let task = tokio::spawn(Connection::new(transport, service, Arc::new(config)));
    Served { client, task }
}

/// A client of `h2`, whose connection runs in a task.
async fn connect<S>(service: S, config: Config) -> SendRequest<Bytes>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    client_of(serve(service, config).client).await
}

async fn client_of(io: DuplexStream) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

/// Answers with the method, the path and the host.
fn tell() -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    tower::service_fn(async |request: Request| {
        let host = request.headers()["host"].to_str().unwrap();
        let text = format!("{} {} {host}", request.method(), request.uri());
        Ok::<_, Infallible>(Response::new(Body::from(text)))
    })
}

/// Sends a request with a body, and waits for the head of the response.
async fn send(
    client: &mut SendRequest<Bytes>,
    request: http::request::Builder,
    body: &'static str,
) -> Result<HttpResponse<RecvStream>, h2::Error> {
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body.as_bytes()), true)?;
    }
    within(response).await
}

/// The whole body of a response.
async fn read(response: HttpResponse<RecvStream>) -> Result<String, h2::Error> {
    let mut body = response.into_body();
    let mut all = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(String::from_utf8(all).unwrap())
}

use super::support::within;

const SECOND: Duration = Duration::from_secs(1);

fn drain() -> (Drain, DrainWatch) {
    let drain = Drain::new();
    let watch = drain.watch();
    (drain, watch)
}
