//! The share of an endpoint in a request that passes its deadline.

#[cfg(feature = "h2")]
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::{body::Sender, upstream::Endpoint};

/// A request whose deadline passes in a second.
fn urgent(body: Body) -> Request<Body> {
    let mut request = Request::post("/").body(body).unwrap();
    request.extensions_mut().insert(Deadline(crate::net::clock::now() + SEC));
    request
}

/// Sends a request, and returns its future when the server has its head.
async fn begin(
    endpoint: &Endpoint<Remote>,
    listener: &TcpListener,
    request: Request<Body>,
) -> (tokio::task::JoinHandle<AttemptErrorKind>, TcpStream) {
    let call = endpoint.clone().oneshot(request);
    let call = tokio::spawn(async move { call.await.unwrap_err().kind() });
    let mut server = accept(listener).await;
    read_head(&mut server).await;
    (call, server)
}

fn endpoint(address: Address) -> Endpoint<Remote> {
    Remote::builder(address).pool(PoolConfig::new().max_connections(1)).build().into()
}

#[tokio::test]
async fn deadline_is_a_failure_of_an_endpoint_that_has_the_request() {
    let (listener, address) = listen().await;
    let endpoint = endpoint(address);
    let (call, _server) = begin(&endpoint, &listener, urgent(Body::from("all of it"))).await;
    pause();
    assert_eq!(call.await.unwrap(), AttemptErrorKind::Timeout);
    let status = endpoint.handle().status(endpoint.place());
    assert_eq!((status.failures, status.success), (1, 950));
    assert!(status.latency > SEC / 2);
}

#[tokio::test]
async fn deadline_within_an_upload_is_no_failure_of_the_endpoint() {
    let (listener, address) = listen().await;
    let endpoint = endpoint(address);
    let (sender, body): (Sender, _) = Body::channel(None);
    let (call, _server) = begin(&endpoint, &listener, urgent(body)).await;
    pause();
    assert_eq!(call.await.unwrap(), AttemptErrorKind::Timeout);
    let status = endpoint.handle().status(endpoint.place());
    assert_eq!((status.failures, status.success), (0, 1000));
    assert_eq!((status.latency, status.pending, status.in_flight), (Duration::ZERO, 0, 0));
    drop(sender);
}

#[tokio::test]
async fn deadline_within_an_upload_that_the_server_does_not_read_is_its_failure() {
    let (listener, address) = listen().await;
    let endpoint = endpoint(address);
    let large = urgent(Body::from(vec![0; 64 << 20]));
    let (call, _server) = begin(&endpoint, &listener, large).await;
    pause();
    assert_eq!(call.await.unwrap(), AttemptErrorKind::Timeout);
    assert_eq!(endpoint.handle().failures(), 1);
}

#[tokio::test]
async fn deadline_before_a_connection_is_no_failure_of_the_endpoint() {
    let (listener, address) = listen().await;
    let endpoint = endpoint(address);
    let mut late = get();
    late.extensions_mut().insert(Deadline(crate::net::clock::now()));
    let error = endpoint.clone().oneshot(late).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Timeout, Delivery::NotSent));
    assert_eq!(endpoint.handle().failures(), 0, "there was no time to connect");

    let (_first, _server) = begin(&endpoint, &listener, get()).await;
    pause();
    let error = endpoint.clone().oneshot(urgent(Body::empty())).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Timeout, Delivery::NotSent));
    assert_eq!(endpoint.handle().failures(), 0, "it has waited for the connection of the first");
}

/// A server of HTTP/2 that allows one request at a time, and answers only those for `/answered`.
#[cfg(feature = "h2")]
struct Http2(Endpoint<Remote>, Arc<AtomicUsize>);

#[cfg(feature = "h2")]
impl Http2 {
    async fn start() -> Self {
        let (listener, address) = listen().await;
        let received = Arc::new(AtomicUsize::new(0));
        let count = received.clone();
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(1);
            let socket = accept(&listener).await;
            let mut connection = builder.handshake::<_, bytes::Bytes>(socket).await.unwrap();
            let mut unanswered = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/answered" {
                    respond.send_response(Response::new(()), true).unwrap();
                } else {
                    unanswered.push((request, respond));
                }
                count.fetch_add(1, SeqCst);
            }
        });
        let pool = PoolConfig::new().max_connections(1).queue_timeout(60 * SEC);
        let server = ServerAddress::new(Scheme::Http2, address);
        let remote = Remote::with_options(&server, &Options { pool, ..Options::default() });
        Self(remote.into(), received)
    }

    /// Sends a request whose deadline passes when `is_there` is true. Returns the kind of its error.
    async fn pass_deadline(
        &self,
        body: Body,
        is_there: impl Fn(&Self) -> bool,
    ) -> AttemptErrorKind {
        let call = tokio::spawn(self.0.clone().oneshot(urgent(body)));
        within(async {
            while !is_there(self) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        pause();
        let kind = call.await.unwrap().unwrap_err().kind();
        tokio::time::resume();
        kind
    }

    fn failures(&self) -> u32 {
        self.0.handle().failures()
    }
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn deadline_over_http2_is_a_failure_only_of_a_server_that_has_the_request() {
    let server = Http2::start().await;
    let received = |n| move |server: &Http2| server.1.load(SeqCst) == n;
    let (sender, body): (Sender, _) = Body::channel(None);
    assert_eq!(server.pass_deadline(body, received(1)).await, AttemptErrorKind::Timeout);
    assert_eq!(server.failures(), 0, "the client has not sent all of it");
    drop(sender);
    let whole = Body::from("all of it");
    assert_eq!(server.pass_deadline(whole, received(2)).await, AttemptErrorKind::Timeout);
    assert_eq!(server.failures(), 1);
    let large = Body::from(vec![0; 64 << 20]);
    assert_eq!(server.pass_deadline(large, received(3)).await, AttemptErrorKind::Timeout);
    assert_eq!(server.failures(), 2, "the server does not read it");
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn deadline_in_the_wait_for_an_http2_connection_is_no_failure_of_the_endpoint() {
    let server = Http2::start().await;
    let mut late = get();
    late.extensions_mut().insert(Deadline(crate::net::clock::now()));
    let error = server.0.clone().oneshot(late).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Timeout, Delivery::NotSent));
    assert_eq!(server.failures(), 0, "there was no time to connect");

    // After it the limit of the server is known.
    let answered = Request::get("/answered").body(Body::empty()).unwrap();
    server.0.clone().oneshot(answered).await.unwrap();
    let first = tokio::spawn(server.0.clone().oneshot(get()));
    while server.1.load(SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let is_queued = |server: &Http2| server.0.service().queued() == 1;
    let kind = server.pass_deadline(Body::empty(), is_queued).await;
    assert_eq!((kind, server.failures()), (AttemptErrorKind::Timeout, 0));
    first.abort();
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn deadline_in_the_wait_for_http2_settings_is_a_failure_of_the_endpoint() {
    let (listener, address) = listen().await;
    let pool = PoolConfig::new().max_connections(1);
    let server = ServerAddress::new(Scheme::Http2, address);
    let remote = Remote::with_options(&server, &Options { pool, ..Options::default() });
    let endpoint = Endpoint::from(remote);
    let first = tokio::spawn(endpoint.clone().oneshot(get()));
    let _silent = accept(&listener).await;
    while endpoint.service().idle_connections() == 0 {
        tokio::task::yield_now().await;
    }
    pause();
    let error = endpoint.clone().oneshot(urgent(Body::empty())).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Timeout, Delivery::NotSent));
    assert_eq!(endpoint.handle().failures(), 1);
    first.abort();
}

/// A request that is sent only after the SETTINGS of the server.
#[cfg(feature = "h2")]
fn websocket() -> Request<Body> {
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "websocket");
    request.body(Body::empty()).unwrap()
}

#[cfg(feature = "h2")]
#[tokio::test]
async fn http2_connection_that_ends_without_settings_is_a_failure_of_the_endpoint() {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let mut socket = accept(&listener).await;
            socket.read_exact(&mut [0; 24]).await.unwrap(); // the preface
            socket.shutdown().await.unwrap();
            let _ = socket.read_to_end(&mut Vec::new()).await;
        }
    });
    let endpoint =
        Endpoint::from(Remote::builder(ServerAddress::new(Scheme::Http2, address)).build());
    for failures in 1..=2 {
        let error = within(endpoint.clone().oneshot(websocket())).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.delivery()),
            (AttemptErrorKind::ConnectionLost, Delivery::NotSent)
        );
        assert_eq!(endpoint.handle().failures(), failures);
    }
}
