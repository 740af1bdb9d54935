//! gRPC with the client and the server of tonic: a service of it in this process, and behind the proxy.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc as Client,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::Grpc,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::support::{start, within};
use crate::{
    BoxError, Error,
    error::Kind,
    layer::{RequestBufferLayer, RescueLayer},
    upstream::Upstream,
};

/// Messages of text, so that no code has to be generated.
#[derive(Clone, Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = src.copy_to_bytes(src.remaining());
        let text = String::from_utf8(bytes.to_vec());
        text.map(Some).map_err(|_| Status::invalid_argument("not UTF-8"))
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// The service: `Echo`, `Count`, `Chat` and `Never`.
#[derive(Clone, Default)]
struct Talk {
    /// Notified when the messages of `Never` are dropped.
    cancelled: Arc<Notify>,
}

/// Echoes a message with a field of the request's metadata. `fail` is an error with metadata of its own.
async fn echo(request: Request<String>) -> Result<Response<String>, Status> {
    let metadata = request.metadata().clone();
    let text = request.into_inner();
    if text == "fail" {
        let mut status = Status::not_found("no such message: \u{fc}");
        status.metadata_mut().insert("x-reason", "tests".parse().unwrap());
        return Err(status);
    }
    let mut response = Response::new(text);
    for name in ["x-sent", "te"] {
        if let Some(value) = metadata.get(name) {
            response.metadata_mut().insert(
                format!("x-got-{name}").parse::<tonic::metadata::MetadataKey<_>>().unwrap(),
                value.clone(),
            );
        }
    }
    Ok(response)
}

/// Sends messages of 10 kB, and fails in the end if there are fewer than 10.
async fn count(request: Request<String>) -> Result<Response<Messages>, Status> {
    let n: usize =
        request.into_inner().parse().map_err(|_| Status::invalid_argument("a number"))?;
    let messages = (0..n).map(|i| Ok(format!("{i:010}").repeat(1000)));
    let failed = (n < 10).then(|| Err(Status::aborted("that was all")));
    Ok(Response::new(Box::pin(tokio_stream::iter(messages.chain(failed).collect::<Vec<_>>()))))
}

/// Echoes each message when it comes.
async fn chat(request: Request<Streaming<String>>) -> Result<Response<Messages>, Status> {
    Ok(Response::new(Box::pin(request.into_inner())))
}

/// Notifies when it is dropped.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl<B> Service<http::Request<B>> for Talk
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let cancelled = self.cancelled.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(Text);
            let path = request.uri().path().to_owned();
            Ok(match &*path {
                "/t.Talk/Echo" => grpc.unary(service_fn(echo), request).await,
                "/t.Talk/Count" => grpc.server_streaming(service_fn(count), request).await,
                "/t.Talk/Chat" => grpc.streaming(service_fn(chat), request).await,
                "/t.Talk/Never" => {
                    let mut guard = Some(Guard(cancelled));
                    let never = move |_: Request<String>| {
                        let guard = guard.take();
                        async move {
                            let first = tokio_stream::once(Ok("first".to_owned()));
                            let rest = tokio_stream::pending().map(move |message| {
                                let _ = &guard;
                                message
                            });
                            Ok(Response::new(Box::pin(first.chain(rest)) as Messages))
                        }
                    };
                    grpc.server_streaming(service_fn(never), request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

fn method(name: &str) -> PathAndQuery {
    format!("/t.Talk/{name}").parse().unwrap()
}

async fn client(addr: SocketAddr) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let mut client = Client::new(within(endpoint.connect()).await.unwrap());
    client.ready().await.unwrap();
    client
}

async fn unary(
    client: &mut Client<Channel>,
    name: &str,
    text: &str,
) -> Result<Response<String>, Status> {
    client.ready().await.unwrap();
    let mut request = Request::new(text.to_owned());
    request.metadata_mut().insert("x-sent", "metadata".parse().unwrap());
    within(client.unary(request, method(name), Text)).await
}

async fn streaming(client: &mut Client<Channel>, name: &str, text: &str) -> Streaming<String> {
    client.ready().await.unwrap();
    let request = Request::new(text.to_owned());
    within(client.server_streaming(request, method(name), Text)).await.unwrap().into_inner()
}

/// Makes all kinds of gRPC calls to `addr`.
async fn run_calls(addr: SocketAddr, cancelled: &Notify) {
    let client = &mut client(addr).await;
    let response = unary(client, "Echo", "hello").await.unwrap();
    assert_eq!(response.get_ref(), "hello");
    assert_eq!(response.metadata().get("x-got-x-sent").unwrap(), "metadata");
    // The client's `te: trailers` must arrive (RFC 9110 section 10.1.4).
    assert_eq!(response.metadata().get("x-got-te").unwrap(), "trailers");
    let large = "x".repeat(2_000_000);
    assert!(*unary(client, "Echo", &large).await.unwrap().get_ref() == large);
    assert_eq!(unary(client, "Echo", "").await.unwrap().get_ref(), "");

    let status = unary(client, "Echo", "fail").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such message: \u{fc}"));
    assert_eq!(status.metadata().get("x-reason").unwrap(), "tests");
    assert_eq!(unary(client, "Nothing", "").await.unwrap_err().code(), Code::Unimplemented);

    let mut messages = streaming(client, "Count", "100").await;
    for i in 0..100 {
        let message = within(messages.message()).await.unwrap().unwrap();
        assert!(message == format!("{i:010}").repeat(1000), "message {i}");
    }
    assert_eq!(within(messages.message()).await.unwrap(), None);

    let mut messages = streaming(client, "Count", "3").await;
    for _ in 0..3 {
        assert!(within(messages.message()).await.unwrap().is_some());
    }
    let status = within(messages.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "that was all"));

    run_chat(client).await;

    let mut messages = streaming(client, "Never", "").await;
    assert_eq!(within(messages.message()).await.unwrap().unwrap(), "first");
    drop(messages);
    within(cancelled.notified()).await;
    // The connection is still usable.
    assert_eq!(unary(client, "Echo", "again").await.unwrap().get_ref(), "again");
}

/// Both directions at once: each message is answered before the next is sent.
async fn run_chat(client: &mut Client<Channel>) {
    client.ready().await.unwrap();
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(rx);
    tx.send("0".to_owned()).await.unwrap();
    let request = Request::new(outgoing);
    let mut incoming =
        within(client.streaming(request, method("Chat"), Text)).await.unwrap().into_inner();
    for i in 0..20 {
        let message = within(incoming.message()).await.unwrap().unwrap();
        assert_eq!(message, i.to_string());
        tx.send((i + 1).to_string()).await.unwrap();
    }
    drop(tx);
    assert_eq!(within(incoming.message()).await.unwrap().unwrap(), "20");
    assert_eq!(within(incoming.message()).await.unwrap(), None);
}

#[tokio::test]
async fn tonic_client_calls_a_service_of_tonic_under_serve() {
    let talk = Talk::default();
    let server = start(talk.clone()).await;
    run_calls(server.addr, &talk.cancelled).await;
    server.stop().await;
}

#[tokio::test]
async fn tonic_client_calls_a_server_of_tonic_through_the_proxy() {
    let talk = Talk::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { stopped.await.unwrap_or_default() };
    let serving = Server::builder().serve_with_incoming_shutdown(
        talk.clone(),
        TcpIncoming::from(listener),
        stopped,
    );
    let serving = tokio::spawn(serving);
    let upstream = Upstream::new([format!("h2://{addr}")]).unwrap();
    let proxy = start(upstream.clone()).await;
    run_calls(proxy.addr, &talk.cancelled).await;
    assert_eq!(upstream.endpoints()[0].service().idle_connections(), 1, "all on one connection");

    // Without a server, the client gets the gateway's status.
    drop(upstream);
    stop.send(()).unwrap();
    let client = &mut client(proxy.addr).await;
    within(async {
        loop {
            match unary(client, "Echo", "hello").await {
                Ok(_) => tokio::task::yield_now().await, // it is still ending
                Err(status) => {
                    assert_eq!(status.message(), "502 Bad Gateway");
                    assert_eq!(status.code(), Code::Unavailable);
                    return;
                }
            }
        }
    })
    .await;
    proxy.stop().await;
    within(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn errors_of_layers_and_the_driver_are_read_by_a_tonic_client() {
    let app = service_fn(async |request: crate::Request| {
        let path = request.uri().path().to_owned();
        match &*path {
            "/t.Talk/Full" => Err(Error::new(Kind::Overloaded, "the queue is full").into()),
            "/t.Talk/Fails" => Err::<crate::Response, BoxError>("a bug".into()),
            _ => Ok(crate::Router::new().oneshot(request).await.unwrap()),
        }
    });
    let buffered = RequestBufferLayer::new().max_body(1000).layer(app);
    let layers = start(RescueLayer::new().layer(buffered)).await;
    let driver = start(app).await;
    for (addr, has_buffer) in [(layers.addr, true), (driver.addr, false)] {
        let client = &mut client(addr).await;
        for (name, text, code, message) in [
            ("Full", "", Code::Unavailable, "503 Service Unavailable"),
            ("Fails", "", Code::Internal, "500 Internal Server Error"),
            ("Other", "", Code::Unimplemented, "404 Not Found"),
            ("Other", &*"x".repeat(2000), Code::ResourceExhausted, "413 Payload Too Large"),
        ] {
            if has_buffer || text.is_empty() {
                let status = unary(client, name, text).await.unwrap_err();
                assert_eq!((status.code(), status.message()), (code, message), "{name}");
            }
        }
    }
    layers.stop().await;
    driver.stop().await;
}
