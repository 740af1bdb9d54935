//! Bodies of requests that travel between two sockets in pipes of the kernel.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;
use tower::{ServiceBuilder, service_fn};
use tower_http::trace::TraceLayer;

use super::*;
use crate::{BoxError, Budget, Response, body::Segment, serve::Serve};

/// The least length of a body that travels in pipes.
const MIN: usize = 32 << 10;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn post(len: usize) -> String {
    format!("POST /{len} HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n")
}

/// Reads a body in segments. Returns whether it is the expected one, and how many of its bytes were in pipes.
async fn read_segments(mut body: Body, expected: &[u8]) -> (bool, usize) {
    let (mut bytes, mut piped) = (Vec::new(), 0);
    while let Some(segment) = within(poll_fn(|cx| body.poll_segment(cx))).await {
        match segment.unwrap() {
            Segment::Bytes(piece) => bytes.extend_from_slice(&piece),
            Segment::Pipe(mut pipe) => {
                piped += pipe.len();
                while let Some(piece) = pipe.read_next().unwrap() {
                    bytes.extend_from_slice(&piece);
                }
            }
            Segment::File(_) | Segment::Trailers(_) => panic!("neither was sent"),
        }
    }
    (bytes == expected, piped)
}

#[tokio::test]
async fn upload_from_the_threshold_on_comes_in_pipes_if_its_reader_accepts_them() {
    for (len, accepts, soft_limit, piped) in [
        (MIN - 1, true, 1 << 30, 0),
        (MIN, true, 1 << 30, MIN),
        (MIN, false, 1 << 30, 0),
        (MIN, true, 0, 0),
        (700_000, true, 1 << 30, 700_000),
    ] {
        let is_called = Arc::new(Notify::new());
        let called = is_called.clone();
        let service = service_fn(move |request: Request| {
            let called = called.clone();
            async move {
                let body = request.into_body();
                if accepts {
                    body.accept_sent_pipes();
                }
                called.notify_one();
                let (is_whole, piped) = read_segments(body, &content(len)).await;
                Ok::<_, BoxError>(Response::new(Body::from(format!("{is_whole} {piped}"))))
            }
        });
        let budget = Budget::builder().soft_limit(soft_limit).build();
        let front = start_with(service, |serve: Serve<_>| serve.budget(budget)).await;
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        client.write_all(post(len).as_bytes()).await.unwrap();
        is_called.notified().await;
        client.write_all(&content(len)).await.unwrap();
        let answer = read_until(&mut client, &format!("true {piped}")).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
        front.stop().await;
    }
}

#[tokio::test]
async fn upload_in_pipes_is_read_as_frames_by_any_other_reader() {
    use http_body_util::BodyExt;
    let len = 300_000;
    let service = service_fn(move |request: Request| async move {
        let body = request.into_body();
        body.accept_sent_pipes();
        assert_eq!(body.len(), Some(len as u64));
        let is_whole = body.collect().await?.to_bytes() == content(len);
        Ok::<_, BoxError>(Response::new(Body::from(is_whole.to_string())))
    });
    let front = start(service).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(post(len).as_bytes()).await.unwrap();
    client.write_all(&content(len)).await.unwrap();
    read_until(&mut client, "true").await;
    front.stop().await;
}

/// Answers every request on every connection with the length and the sum of its body, which has a `Content-Length`.
async fn serve_sums(listener: TcpListener) {
    loop {
        let mut server = listener.accept().await.unwrap().0;
        tokio::spawn(async move {
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = server.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let len = head.split("content-length: ").nth(1).and_then(|n| n.lines().next());
                let len: usize = len.map_or(0, |n| n.parse().unwrap());
                let mut body = vec![0; len];
                // Slowly, so that the front has to wait for this server.
                for piece in body.chunks_mut(50_000) {
                    if server.read_exact(piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
                let text = format!("{len} {}", body == content(len));
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                if server.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Sends bodies of all sizes over one connection, some with their heads.
async fn send_bodies(front: SocketAddr) {
    let mut client = TcpStream::connect(front).await.unwrap();
    let sizes =
        [1_000, 100_000, 100_000, 1_000, 30_000, MIN, 65_536, 65_536, 3_000_000, 0, 200_000];
    for (n, len) in sizes.into_iter().enumerate() {
        let (head, body) = (post(len), content(len));
        if n % 2 == 0 {
            client.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        } else {
            client.write_all(head.as_bytes()).await.unwrap();
            for piece in body.chunks(70_000) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        let answer = read_until(&mut client, &format!("\r\n\r\n{len} true")).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
    }
}

#[tokio::test]
async fn proxied_uploads_of_all_sizes_arrive_whatever_wraps_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let servers = tokio::spawn(serve_sums(listener));
    let plain = upstream(&[addr]);
    let foreign = ServiceBuilder::new().layer(TraceLayer::new_for_http()).service(plain.clone());
    let mapped = ServiceBuilder::new()
        .map_request(|request: Request| {
            request.map(|body| Body::new(http_body_util::BodyExt::map_err(body, BoxError::from)))
        })
        .service(plain.clone());
    let buffered = RequestBufferLayer::new().max_body(1 << 30).layer(plain.clone());
    for front in
        [start(plain).await, start(foreign).await, start(mapped).await, start(buffered).await]
    {
        send_bodies(front.addr).await;
        front.stop().await;
    }
    servers.abort();
}

/// Starts a proxy to a scripted server with a budget, and sends it the first half of an upload.
async fn begin(
    script: &Script,
    addr: SocketAddr,
    len: usize,
) -> (Running, Budget, TcpStream, TcpStream) {
    let budget = Budget::default();
    let counted = budget.clone();
    let front = start_with(upstream(&[addr]), |serve: Serve<_>| serve.budget(counted)).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(post(len).as_bytes()).await.unwrap();
    let mut server = script.accept().await;
    read_until(&mut server, "\r\n\r\n").await;
    (front, budget, client, server)
}

async fn returned(budget: &Budget) {
    within(async {
        while budget.usage().memory > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn upload_whose_server_dies_amid_pipes_is_answered_with_502() {
    let (script, addr) = Script::new().await;
    let (front, budget, mut client, mut server) = begin(&script, addr, 100 << 20).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let (mut from_front, mut to_front) = client.split();
    let sends = async {
        let piece = content(1 << 20);
        while to_front.write_all(&piece).await.is_ok() {
            sent.fetch_add(piece.len(), Relaxed);
        }
    };
    let dies = async {
        // It reads nothing but this, so bytes wait in a pipe when it dies.
        let mut some = vec![0; 300_000];
        server.read_exact(&mut some).await.unwrap();
        assert!(content(1 << 20).starts_with(&some));
        while budget.usage().memory == 0 {
            tokio::task::yield_now().await;
        }
        reset(server);
        let answer = read_all_of(&mut from_front).await;
        assert_eq!(statuses(&answer), [502], "{answer}");
    };
    within(async { tokio::join!(sends, dies) }).await;
    assert!(sent.load(Relaxed) < 100 << 20);
    returned(&budget).await;
    front.stop().await;
}

async fn read_all_of(client: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn client_that_leaves_amid_an_upload_ends_the_exchange_and_returns_the_budget() {
    let (script, addr) = Script::new().await;
    let (front, budget, mut client, mut server) = begin(&script, addr, 100 << 20).await;
    let piece = content(1 << 20);
    // The server reads nothing, so bytes stay in a pipe.
    within(async {
        while budget.usage().memory == 0 {
            tokio::select! {
                result = client.write_all(&piece) => result.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    reset(client);
    let mut received = Vec::new();
    let _ = within(server.read_to_end(&mut received)).await;
    assert!(received.len() < 100 << 20, "it is incomplete, and the connection has ended");
    returned(&budget).await;
    // The server's next connection is another one.
    let (answer, _next) = tokio::join!(exchange(front.addr, get("/2")), async {
        let mut next = script.accept().await;
        read_until(&mut next, "\r\n\r\n").await;
        next.write_all(OK.as_bytes()).await.unwrap();
        next
    });
    assert_eq!(statuses(&answer), [200]);
    front.stop().await;
}

#[tokio::test]
async fn early_response_ends_an_upload_in_pipes() {
    let (script, addr) = Script::new().await;
    let (front, budget, mut client, mut server) = begin(&script, addr, 100 << 20).await;
    let (mut from_front, mut to_front) = client.split();
    let sends = async {
        let piece = content(1 << 20);
        while to_front.write_all(&piece).await.is_ok() {}
    };
    let refuses = async {
        while budget.usage().memory == 0 {
            tokio::task::yield_now().await;
        }
        let refusal =
            "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        server.write_all(refusal.as_bytes()).await.unwrap();
        let answer = read_all_of(&mut from_front).await;
        assert_eq!(statuses(&answer), [413], "{answer}");
        drop(server);
    };
    within(async { tokio::join!(sends, refuses) }).await;
    returned(&budget).await;
    front.stop().await;
}
