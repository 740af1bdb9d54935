//! Bodies that travel between two sockets in pipes of the kernel.

use std::future::poll_fn;

use http_body_util::BodyExt;
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;

use super::*;
use crate::{
    Budget,
    body::Segment,
    layer::{BandwidthLayer, ResponseBufferLayer},
    serve::Serve,
};

/// The least length of a body that travels in pipes.
const MIN: usize = 32 << 10;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn head(len: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n")
}

/// Requests `/`, and returns the body of the response when its head alone has arrived, and the server.
async fn begin(script: &Script, addr: SocketAddr, len: usize) -> (Body, TcpStream) {
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(head(len).as_bytes()).await.unwrap();
        server
    };
    let request = Request::builder().uri("http://a/").body(Body::empty()).unwrap();
    let (server, response) = tokio::join!(server, upstream(&[addr]).oneshot(request));
    (response.unwrap().into_body(), server)
}

/// Reads a body in segments. Returns its bytes, and how many of them were in pipes.
async fn read_segments(mut body: Body) -> (Vec<u8>, usize) {
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
    (bytes, piped)
}

#[tokio::test]
async fn body_from_the_threshold_on_travels_in_pipes_if_its_reader_accepts_them() {
    let (script, addr) = Script::new().await;
    let free = Budget::default();
    let full = Budget::builder().soft_limit(0).build();
    for (len, budget, piped) in [
        (MIN - 1, Some(&free), 0),
        (MIN, Some(&free), MIN),
        (MIN, None, 0),
        (MIN, Some(&full), 0),
        (600_000, Some(&free), 600_000),
    ] {
        let (mut body, mut server) = begin(&script, addr, len).await;
        if let Some(budget) = budget {
            body.accept_pipes(budget);
        }
        let data = content(len);
        let (sent, read) = tokio::join!(server.write_all(&data), read_segments(body));
        sent.unwrap();
        assert!(read.0 == data);
        assert_eq!(read.1, piped, "of {len}");
    }
}

#[tokio::test]
async fn body_in_pipes_is_read_as_frames_by_any_other_reader() {
    let (script, addr) = Script::new().await;
    let (mut body, mut server) = begin(&script, addr, 300_000).await;
    body.accept_pipes(&Budget::default());
    let data = content(300_000);
    let (sent, read) = tokio::join!(server.write_all(&data), within(body.collect()));
    sent.unwrap();
    assert!(read.unwrap().to_bytes() == data);
}

#[tokio::test]
async fn bytes_in_a_pipe_count_in_the_budget_until_they_are_sent() {
    let (script, addr) = Script::new().await;
    let (mut body, mut server) = begin(&script, addr, MIN).await;
    let budget = Budget::default();
    body.accept_pipes(&budget);
    server.write_all(&content(MIN)).await.unwrap();
    let segment = within(poll_fn(|cx| body.poll_segment(cx))).await;
    let Some(Ok(Segment::Pipe(mut pipe))) = segment else { panic!("no pipe") };
    assert!(!pipe.is_empty());
    assert_eq!(budget.usage().memory, pipe.len() as u64);
    while pipe.read_next().unwrap().is_some() {}
    assert_eq!(budget.usage().memory, 0);
}

/// Answers every request on every connection with a body of the length that its path names.
async fn serve_bodies(listener: TcpListener) {
    loop {
        let mut server = listener.accept().await.unwrap().0;
        tokio::spawn(async move {
            let mut request = Vec::new();
            while server.read_buf(&mut request).await.unwrap_or(0) > 0 {
                while let Some(end) = memchr::memmem::find(&request, b"\r\n\r\n") {
                    let line = String::from_utf8_lossy(&request[..end]).into_owned();
                    request.drain(..end + 4);
                    let len = line.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
                    let answer = [head(len).into_bytes(), content(len)].concat();
                    if server.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// Requests bodies of all sizes over one connection, and reads them slowly.
async fn request_bodies(front: SocketAddr) {
    let mut client = TcpStream::connect(front).await.unwrap();
    for len in [1_000, 100_000, 100_000, 1_000, 30_000, MIN, 100_000, 3_000_000, 0, 200_000] {
        let request = format!("GET /{len} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await;
        assert_eq!(statuses(&head), [200], "{head}");
        let mut body = vec![0; len];
        for piece in body.chunks_mut(50_000) {
            within(client.read_exact(piece)).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(body == content(len), "{len} bytes");
    }
}

#[tokio::test]
async fn proxied_bodies_of_all_sizes_arrive_whatever_wraps_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let servers = tokio::spawn(serve_bodies(listener));
    let plain = upstream(&[addr]);
    let foreign = ServiceBuilder::new().layer(TraceLayer::new_for_http()).service(plain.clone());
    let buffered = ResponseBufferLayer::new().layer(plain.clone());
    let paced = BandwidthLayer::new(1 << 30).layer(plain.clone());
    for front in
        [start(plain).await, start(foreign).await, start(buffered).await, start(paced).await]
    {
        request_bodies(front.addr).await;
        front.stop().await;
    }
    servers.abort();
}

#[tokio::test]
async fn response_whose_server_dies_amid_pipes_is_cut_and_its_connection_not_used_again() {
    let (script, addr) = Script::new().await;
    let front = proxy(&[addr]).await;
    let server = async {
        let mut server = script.accept().await;
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(head(1_000_000).as_bytes()).await.unwrap();
        server.write_all(&content(400_000)).await.unwrap();
        drop(server);
        let mut next = script.accept().await;
        read_until(&mut next, "\r\n\r\n").await;
        next.write_all(OK.as_bytes()).await.unwrap();
        next
    };
    let client = async {
        let mut client = TcpStream::connect(front.addr).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let head = read_until(&mut client, "\r\n\r\n").await;
        let mut body = Vec::new();
        let _ = within(client.read_to_end(&mut body)).await;
        assert!(body.len() <= 400_000 && content(400_000).starts_with(&body));
        (statuses(&head), statuses(&exchange(front.addr, get("/2")).await))
    };
    let (_next, statuses) = tokio::join!(server, client);
    assert_eq!(statuses, (vec![200], vec![200]));
    front.stop().await;
}

#[tokio::test]
async fn client_that_leaves_amid_pipes_ends_the_exchange_and_returns_the_budget() {
    let (script, addr) = Script::new().await;
    let budget = Budget::default();
    let counted = budget.clone();
    let front = start_with(upstream(&[addr]), |serve: Serve<_>| serve.budget(counted)).await;
    let mut client = TcpStream::connect(front.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut server = script.accept().await;
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all(head(100 << 20).as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    let sends = async {
        let piece = content(1 << 20);
        while server.write_all(&piece).await.is_ok() {}
    };
    // The client reads nothing, so bytes stay in a pipe until it has left.
    let leaves = async {
        while budget.usage().memory == 0 {
            tokio::task::yield_now().await;
        }
        reset(client);
    };
    within(async { tokio::join!(sends, leaves) }).await;
    within(async {
        while budget.usage().memory > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    front.stop().await;
}
