//! Tests of the server over real sockets: responses, limits and shutdown.

mod bad_input;
mod clients;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore},
};
use tower::{limit::ConcurrencyLimit, service_fn};

use super::support::{exchange, read_all, read_until, reset, start, start_with, statuses, within};
use crate::{Body, BoxError, Error, Request, Response, error::Kind, proto::h1::Limits};

/// Responds with the request's body and its length.
async fn echo(request: Request) -> Result<Response, BoxError> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::builder().header("x-len", body.len()).body(body.into())?)
}

/// A service that is never ready and counts calls of `poll_ready`.
#[derive(Clone)]
struct NeverReady(Arc<AtomicUsize>);

impl tower_service::Service<Request> for NeverReady {
    type Response = Response;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Pending
    }

    fn call(&mut self, _: Request) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(Response::new(Body::empty())))
    }
}

#[tokio::test]
async fn server_answers_options_asterisk_without_its_service() {
    let calls = Arc::new(AtomicUsize::new(0));
    let server = start(NeverReady(calls.clone())).await;
    let answer = exchange(
        server.addr,
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\
         OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n\
         OPTIONS * HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(statuses(&answer), [200, 200, 200]);
    let allow = "allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n";
    assert_eq!(answer.matches(allow).count(), 3, "{answer}");
    assert_eq!(answer.matches("content-length: 0\r\n").count(), 3, "{answer}");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test]
async fn service_answers_options_of_its_resources() {
    let server = start(service_fn(echo)).await;
    let answer = exchange(
        server.addr,
        "OPTIONS /a HTTP/1.1\r\nHost: a\r\n\r\n\
         OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!((statuses(&answer), answer.matches("x-len: 0").count()), (vec![200, 200], 2));
    server.stop().await;
}

#[tokio::test]
async fn server_keeps_the_connection_and_answers_pipelined_requests_in_order() {
    let server = start(service_fn(echo)).await;
    let answer = exchange(
        server.addr,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\noneGET /x HTTP/1.1\r\nHost: a\r\n\r\n\
         POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nthree",
    )
    .await;
    assert_eq!(statuses(&answer), [200, 200, 200]);
    let lens: Vec<_> =
        answer.match_indices("x-len: ").map(|(i, m)| &answer[i + m.len()..][..1]).collect();
    assert_eq!(lens, ["3", "0", "5"]);
    assert!(answer.ends_with("\r\n\r\nthree"));
    server.stop().await;
}

#[tokio::test]
async fn response_to_head_is_head_alone_and_http_1_0_ends_with_close() {
    let server = start(service_fn(|_: Request| async {
        Ok::<_, Infallible>(Response::new(Body::from("body")))
    }))
    .await;
    let answer = exchange(
        server.addr,
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    .await;
    assert_eq!(statuses(&answer), [200, 200], "nothing follows HTTP/1.0 without keep-alive");
    assert_eq!(answer.matches("content-length: 4\r\n").count(), 2);
    assert_eq!(answer.matches("\r\n\r\nbody").count(), 1);
    assert!(answer.contains("connection: close\r\n"));
    server.stop().await;
}

#[tokio::test]
async fn continue_is_sent_when_the_body_is_polled_and_not_before() {
    let server = start(service_fn(|request: Request| async {
        if request.uri().path() == "/refuse" {
            return Ok(Response::builder().status(403).body(Body::empty())?);
        }
        echo(request).await
    }))
    .await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(head("/take").as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\nhello").await.starts_with("HTTP/1.1 200 OK\r\n"));

    // Refused before the body: the connection ends, since the body may follow or not.
    client.write_all(head("/refuse").as_bytes()).await.unwrap();
    let answer = read_all(&mut client).await;
    assert_eq!(statuses(&answer), [403]);
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn s3_early_answer_drains_small_body_and_closes_before_large_one() {
    let server = start(service_fn(|_: Request| async {
        Ok::<_, Infallible>(Response::builder().status(413).body(Body::from("no")).unwrap())
    }))
    .await;
    // S3: the bytes of a body are never parsed as a request.
    let smuggled = "GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n";
    let answer = exchange(
        server.addr,
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}\
             GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            smuggled.len()
        ),
    )
    .await;
    assert_eq!(statuses(&answer), [413, 413]);

    // A large body: the response arrives although the client never stops sending.
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        .await
        .unwrap();
    let (mut read, mut write) = client.split();
    let mut answer = String::new();
    let sending = async {
        let piece = [0; 8192];
        for _ in 0..64 {
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    let (_, got) = within(async { tokio::join!(sending, read.read_to_string(&mut answer)) }).await;
    got.unwrap();
    assert_eq!(statuses(&answer), [413]);
    assert!(answer.contains("connection: close\r\n"));
    drop(client); // the server waits for the client to disconnect
    server.stop().await;
}

#[tokio::test]
async fn shutdown_finishes_active_requests_and_closes_idle_connections() {
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, g) = (began.clone(), go_on.clone());
    let server = start(service_fn(move |request: Request| {
        let (began, go_on) = (b.clone(), g.clone());
        async move {
            if request.uri().path() == "/slow" {
                began.notify_one();
                go_on.notified().await;
            }
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    }))
    .await;
    let addr = server.addr;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut idle, "done").await;
    let mut busy = TcpStream::connect(addr).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(began.notified()).await;

    let stopping = tokio::spawn(server.stop());
    assert_eq!(read_all(&mut idle).await, "", "the idle one is closed");
    go_on.notify_one();
    let answer = read_all(&mut busy).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("done"), "{answer}");
    within(stopping).await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn connections_above_the_limit_wait_until_one_ends() {
    let server = start_with(service_fn(echo), |s| s.connections(1)).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut first, "\r\n\r\n").await;
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    // The first connection is still served while the second one waits.
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut first, "\r\n\r\n").await;
    let mut nothing = [0];
    assert!(second.try_read(&mut nothing).is_err());
    drop(first);
    assert_eq!(statuses(&read_all(&mut second).await), [200]);
    server.stop().await;
}

#[tokio::test]
async fn unix_socket_is_served_and_its_path_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let address = format!("unix:{}", path.display());
    for _ in 0..2 {
        // The second time over a socket file of a crashed server.
        drop(std::os::unix::net::UnixListener::bind(&path).ok());
        let bound = crate::serve(address.as_str(), service_fn(echo)).bind().unwrap();
        let task = tokio::spawn(bound.into_future());
        let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        within(client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(statuses(&answer), [200]);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn every_split_of_the_input_gives_the_same_answer() {
    let server = start(service_fn(echo)).await;
    let bytes =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
                  GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let whole = exchange(server.addr, bytes).await;
    assert_eq!(statuses(&whole), [200, 200]);
    for at in 1..bytes.len() {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(&bytes[..at]).await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(&bytes[at..]).await.unwrap();
        let answer = read_all(&mut client).await;
        assert_eq!(statuses(&answer), [200, 200], "split at {at}");
        assert!(answer.contains("\r\n\r\nhello"));
    }
    server.stop().await;
}

#[tokio::test]
async fn panic_of_service_ends_one_connection() {
    let server = start(service_fn(|request: Request| async move {
        assert!(request.uri().path() != "/panic", "expected");
        Ok::<_, Infallible>(Response::new(Body::from("fine")))
    }))
    .await;
    let answer = exchange(server.addr, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(statuses(&answer), [500]);
    let answer =
        exchange(server.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), [200]);
    server.stop().await;
}

#[test]
fn connection_future_is_small() {
    use crate::{conn::Connection, layer::Rescue, net::Stream};
    // With up to 160 bytes the allocation of its task is 256 bytes; the next size is 384. In a debug build the
    // stream has an additional field of mio.
    let most = if cfg!(debug_assertions) { 168 } else { 160 };
    assert_eq!(size_of::<Connection<Stream, Rescue<crate::Router>>>(), most);
}

#[tokio::test]
async fn shutdown_waits_for_detached_work_and_then_aborts_it() {
    for (patience, finishes) in
        [(Duration::from_secs(20), true), (Duration::from_millis(50), false)]
    {
        let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let done = Arc::new(AtomicUsize::new(0));
        let (b, g, d) = (began.clone(), go_on.clone(), done.clone());
        let app = service_fn(move |_: Request| {
            let (began, go_on, done) = (b.clone(), g.clone(), d.clone());
            async move {
                began.notify_one();
                go_on.notified().await;
                done.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let layer = crate::layer::DisconnectLayer::detach();
        let detached = layer.detached();
        let app = tower::Layer::layer(&layer, app);
        let register = detached.clone();
        let options = |s: crate::serve::Serve<_>| {
            s.shutdown_timeout(patience).drain_also(register).runtime_threads(1)
        };
        let server = start_with(app, options).await;
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        within(began.notified()).await;
        reset(client);
        within(async {
            while detached.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let stopping = tokio::spawn(server.stop());
        if finishes {
            go_on.notify_one();
        }
        within(stopping).await.unwrap();
        assert_eq!((done.load(Ordering::SeqCst), detached.len()), (usize::from(finishes), 0));
    }
}

#[tokio::test]
async fn request_has_addresses_of_its_client_and_of_the_listener() {
    for bound in ["127.0.0.1:0", "0.0.0.0:0"] {
        let app = service_fn(async |request: Request| {
            let peer = request.extensions().get::<crate::peer::Peer>().unwrap();
            let text = format!("{} to {}", peer.addr().unwrap(), peer.local_addr().unwrap());
            Ok::<_, Infallible>(Response::new(Body::from(text)))
        });
        let server = crate::serve(bound, app).bind().unwrap();
        let crate::net::Address::Tcp(addr) = server.local_addr().unwrap() else { panic!() };
        let port = addr.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let server = tokio::spawn(server.into_future());
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let here = client.local_addr().unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let answer = read_all(&mut client).await;
        assert!(answer.ends_with(&format!("\r\n\r\n{here} to 127.0.0.1:{port}")), "{answer}");
        server.abort();
    }
}
