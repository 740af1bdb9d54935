//! Clients that read slowly or not at all.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::net::Io;

/// Reads `step` bytes of `/kilobyte` at each interval. Returns the result and the time.
async fn read(step: usize, every: Duration) -> (Result<usize, ()>, Duration) {
    let (mut client, task) = connect();
    let start = Instant::now();
    let request = "GET /kilobyte HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut body = Vec::new();
    let mut buf = vec![0; step];
    loop {
        sleep(every).await;
        match client.read(&mut buf).await {
            Ok(n) if n > 0 => body.extend_from_slice(&buf[..n]),
            _ => break,
        }
    }
    let result = task.await.unwrap().map(|()| body.len()).map_err(drop);
    (result, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn r4_client_that_does_not_read_or_hardly_reads_is_aborted() {
    let (result, took) = read(1, secs(200)).await;
    assert!(result.is_err() && took >= secs(200), "nothing within 60 s");
    // One byte in 20 s, which adds 0.1 s to the grace period of 120 s.
    let (mut client, task) = connect();
    let start = Instant::now();
    client.write_all(b"GET /kilobyte HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let reading = async {
        loop {
            sleep(secs(20)).await;
            let _ = client.read(&mut [0]).await;
        }
    };
    let ended = tokio::select! {
        result = task => result.unwrap(),
        () = reading => unreachable!(),
    };
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!((120..=121).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_at_the_minimum_rate_gets_everything() {
    let (result, took) = read(10, secs(1)).await;
    assert!(result.is_ok_and(|n| n > 1000), "the head and the body");
    assert!(took >= secs(100), "{took:?}");
}

/// Random speeds above and below the rate. A connection is aborted if and only if its time bucket is empty.
#[tokio::test(start_paused = true)]
async fn body_is_cut_exactly_when_its_rate_is_too_low() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (mut cut, mut served) = (0, 0);
    for _ in 0..200 {
        // The expected time, by the documentation of `RateMeter`, in milliseconds.
        let (bytes, every) = (1 + random(40), 500 + random(8_000));
        let pieces = 2 + random(60);
        let (mut due, mut fine) = (60_000.0_f64, true);
        for piece in 1..=pieces {
            let at = (piece * every) as f64;
            fine &= at < due;
            due = (due + bytes as f64 * 100.0).min(at + 60_000.0);
        }
        let (mut client, task) = connect();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes * pieces
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; bytes as usize];
        for _ in 0..pieces {
            sleep(Duration::from_millis(every)).await;
            if client.write_all(&piece).await.is_err() {
                break;
            }
        }
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        drop(client);
        let _ = task.await.unwrap();
        assert_eq!(
            statuses(&answer),
            [if fine { 200 } else { 408 }],
            "{bytes} each {every} ms, {pieces} times"
        );
        if fine { served += 1 } else { cut += 1 }
    }
    assert!(cut > 20 && served > 20, "both happen: {cut} and {served}");
}

#[tokio::test(start_paused = true)]
async fn r4_bytes_in_the_kernel_count_as_progress_when_the_client_takes_them() {
    // A listener of the caller has no limit on the send queue: while a client reads megabytes from it, no write
    // makes progress.
    let page = Bytes::from(vec![b'x'; 16 << 20]);
    let app = service_fn(move |_: Request| {
        let page = page.clone();
        async { Ok::<_, Infallible>(Response::new(Body::from(page))) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = serve(listener, app).write_timeout(secs(1));
    let server = server.write_rate(MinRate::new(1, secs(600)));
    tokio::spawn(server.into_future());
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap(); // the rest waits at the server's end
    let mut client = socket.connect(addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut got, mut buf, start) = (0, vec![0; 16 << 10], Instant::now());
    loop {
        // 0.5 MB per second for three times `write_timeout`, then the rest at once.
        if start.elapsed() < secs(3) {
            sleep(Duration::from_millis(30)).await;
        }
        match client.read(&mut buf).await.unwrap() {
            0 => break,
            n => got += n,
        }
    }
    assert!(got > 16 << 20, "{got}");
}

/// A stream whose end takes bytes, like that of TLS, and whose peer takes none.
struct Endless(DuplexStream);

impl Io for Endless {
    fn needs_shutdown(&self) -> bool {
        true
    }
}

impl AsyncRead for Endless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Endless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_take_the_end_of_the_stream_is_closed_by_the_write_timeout() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let app = service_fn(async |_: Request| {
            Ok::<_, Infallible>(Response::new(Body::from("the response")))
        });
        let (mut client, io) = tokio::io::duplex(1 << 10);
        let transport = Transport::new(Endless(io), Peer::memory(), DrainWatch::never());
        let task = tokio::spawn(Connection::new(transport, app, Arc::new(config())));
        let began = Instant::now();
        client.write_all(request.as_bytes()).await.unwrap();
        let ended = tokio::time::timeout(secs(1000), task).await;
        ended.expect("a deadline").unwrap().unwrap();
        assert_eq!(began.elapsed().as_secs(), 60, "{request}");
    }
}
