use std::future::{pending, poll_fn};

use http::{
    Response, StatusCode,
    header::{EXPECT, SEC_WEBSOCKET_KEY},
};
use http_body::Body as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::Instant,
};
use tokio_stream::StreamExt;

use super::{upload::MAX_QUEUED, *};
use crate::{
    BoxError,
    conn::{Delivery, client::CONTINUE_TIMEOUT, upgrade},
};

type Served = h2::server::Connection<DuplexStream, Bytes>;

/// Returns a connection whose server allows `streams`.
async fn connect(streams: u32) -> (Connection, Served) {
    let (client, server) = duplex(64 << 10);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(streams);
    let limits = Arc::new(Limits::default());
    let (connection, driver) = handshake(client, Scheme::HTTP, limits).await.unwrap();
    tokio::spawn(driver); // it writes the preface
    (connection, builder.handshake(server).await.unwrap())
}

/// Returns a request with an expectation, and whether its body was read.
fn expecting() -> (Request<Body>, Arc<AtomicBool>) {
    let is_read = Arc::new(AtomicBool::new(false));
    let read = is_read.clone();
    let body = tokio_stream::iter([Bytes::from("body")]).map(move |data| {
        read.store(true, Ordering::Relaxed);
        Ok::<_, BoxError>(data)
    });
    let request = Request::post("http://a/").header(EXPECT, "100-continue");
    (request.body(Body::from_stream(body)).unwrap(), is_read)
}

/// Accepts a request, passes it to `answer`, and drives the connection.
async fn serve<F: Future>(
    mut served: Served,
    answer: impl FnOnce(h2::RecvStream, h2::server::SendResponse<Bytes>) -> F,
) {
    let (request, respond) = served.accept().await.unwrap().unwrap();
    assert_eq!(request.headers()[EXPECT], "100-continue");
    let answer = async {
        answer(request.into_body(), respond).await;
        pending::<()>().await
    };
    tokio::select! {
        () = answer => {}
        _ = served.accept() => {}
    }
}

fn status(status: StatusCode) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn body_is_held_until_the_server_accepts_the_expectation() {
    for accepts in [true, false] {
        let (connection, served) = connect(100).await;
        let (request, is_read) = expecting();
        let began = Instant::now();
        let server = serve(served, async |mut body, mut respond| {
            assert!(!is_read.load(Ordering::Relaxed));
            if accepts {
                respond.send_informational(status(StatusCode::CONTINUE)).unwrap();
            }
            assert_eq!(body.data().await.unwrap().unwrap(), "body");
            respond.send_response(status(StatusCode::OK), true).unwrap();
        });
        let response = tokio::select! {
            response = connection.exchange(request) => response.unwrap(),
            () = server => unreachable!("it drives the connection"),
        };
        assert_eq!(response.status(), 200);
        // A server that does not answer the expectation gets the body after a second.
        assert_eq!(began.elapsed() >= CONTINUE_TIMEOUT, !accepts, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn body_is_not_sent_after_a_refusal_of_the_expectation() {
    for has_content in [false, true] {
        let (connection, served) = connect(100).await;
        let (request, is_read) = expecting();
        let (ended, mut has_ended) = watch::channel(false);
        let server = serve(served, async move |mut body, mut respond| {
            let head = status(StatusCode::PAYLOAD_TOO_LARGE);
            let mut stream = respond.send_response(head, !has_content).unwrap();
            if has_content {
                stream.send_data(Bytes::from("no"), true).unwrap();
            }
            assert!(body.data().await.is_none_or(|data| data.is_err()), "the request is reset");
            ended.send_replace(true);
        });
        let client = async {
            let response = connection.clone().exchange(request).await.unwrap();
            assert_eq!(response.status(), 413);
            let mut body = response.into_body();
            let mut content = Vec::new();
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                content.extend_from_slice(frame.unwrap().data_ref().unwrap());
            }
            assert_eq!(content.len(), if has_content { 2 } else { 0 });
            drop(body);
            has_ended.wait_for(|ended| *ended).await.unwrap();
        };
        tokio::select! {
            () = client => {}
            () = server => unreachable!("it drives the connection"),
        }
        assert!(!is_read.load(Ordering::Relaxed), "no part of the body is read");
    }
}

#[tokio::test(start_paused = true)]
async fn body_that_was_held_back_is_returned_with_a_refused_request() {
    let (connection, served) = connect(100).await;
    let (request, is_read) = expecting();
    let server = serve(served, async move |_, mut respond| {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    });
    let error = tokio::select! {
        result = connection.clone().exchange(request) => result.unwrap_err(),
        () = server => unreachable!("it drives the connection"),
    };
    assert_eq!(error.delivery, Delivery::NotSent);
    assert!(!is_read.load(Ordering::Relaxed));
    let mut body = error.request.unwrap().into_body();
    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
    assert_eq!(frame.data_ref().unwrap(), "body");
}

#[tokio::test(start_paused = true)]
async fn settings_that_arrive_with_the_end_of_the_connection_are_noticed() {
    let (client, mut server) = duplex(64 << 10);
    let limits = Arc::new(Limits::default());
    let (connection, mut driver) = handshake(client, Scheme::HTTP, limits).await.unwrap();
    let settings = connection.settings(Duration::from_secs(1));
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0]; // the head of the frame
    let mut received = Vec::new();
    let payload = loop {
        tokio::select! {
            _ = &mut driver => panic!("it has not ended"),
            read = server.read_buf(&mut received) => assert_ne!(read.unwrap(), 0),
        }
        let at = received.windows(ping.len()).position(|window| window == ping);
        if let Some(payload) = at.and_then(|at| received.get(at + ping.len()..at + ping.len() + 8))
        {
            break payload;
        }
    };
    let (settings_frame, pong) = ([0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, 8, 6, 1, 0, 0, 0, 0]);
    server.write_all(&[&settings_frame[..], &pong, payload].concat()).await.unwrap();
    server.shutdown().await.unwrap();
    let _ = driver.await;
    settings.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn uploads_to_a_server_that_stops_reading_have_a_common_bound() {
    const UPLOADS: usize = 40;
    const PIECE: usize = 16 << 10;
    const PIECES: usize = 32;
    const SOCKET: usize = 64 << 10;
    let (client, server) = duplex(SOCKET);
    let limits = Arc::new(Limits::default());
    let (connection, driver) = handshake(client, Scheme::HTTP, limits).await.unwrap();
    tokio::spawn(driver);
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 30);
    let mut served = builder.handshake::<_, Bytes>(server).await.unwrap();
    tokio::select! {
        settings = connection.settings(Duration::from_secs(60)) => settings.unwrap(),
        _ = served.accept() => unreachable!("there is no request yet"),
    }
    let taken = Arc::new(AtomicUsize::new(0));
    let mut uploads = Vec::new();
    for _ in 0..UPLOADS {
        let taken = taken.clone();
        let pieces = tokio_stream::iter(0..PIECES).map(move |_| {
            taken.fetch_add(PIECE, Ordering::Relaxed);
            Ok::<_, BoxError>(Bytes::from(vec![0; PIECE]))
        });
        let request = Request::post("http://a/").body(Body::from_stream(pieces)).unwrap();
        uploads.push(tokio::spawn(connection.clone().exchange(request)));
    }
    // The clock advances when no task can continue.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let held = taken.load(Ordering::Relaxed);
    let most = MAX_QUEUED + UPLOADS * PIECE + 2 * SOCKET;
    assert!(held >= MAX_QUEUED && held <= most, "{held} of at most {most}");
    tokio::spawn(async move {
        while let Some(Ok((request, mut respond))) = served.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(data) = body.data().await {
                    body.flow_control().release_capacity(data.unwrap().len()).unwrap();
                }
                respond.send_response(status(StatusCode::OK), true).unwrap();
            });
        }
    });
    for upload in uploads {
        assert_eq!(upload.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(taken.load(Ordering::Relaxed), UPLOADS * PIECES * PIECE);
}

#[tokio::test]
async fn data_of_a_tunnel_that_was_flushed_arrives_before_the_reset() {
    let (client, server) = duplex(64 << 10);
    let limits = Arc::new(Limits::default());
    let (connection, driver) = handshake(client, Scheme::HTTP, limits).await.unwrap();
    tokio::spawn(driver);
    let mut builder = h2::server::Builder::new();
    let mut served: Served = builder.enable_connect_protocol().handshake(server).await.unwrap();
    let client = async {
        let request = Request::get("http://a/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        let request = request.body(Body::empty()).unwrap();
        let mut response = connection.clone().exchange(request).await.unwrap();
        let mut stream = upgrade::take_stream(&mut response).unwrap();
        stream.write_all(b"bye").await.unwrap();
        stream.flush().await.unwrap();
    };
    let accept = async {
        let (request, mut respond) = served.accept().await.unwrap().unwrap();
        let _stream = respond.send_response(status(StatusCode::OK), false).unwrap();
        let mut body = request.into_body();
        let read = async {
            assert_eq!(body.data().await.unwrap().unwrap(), "bye");
            body.data().await.unwrap().unwrap_err().reason()
        };
        tokio::select! {
            reason = read => reason,
            _ = served.accept() => unreachable!("no further request"),
        }
    };
    let ((), reason) = tokio::join!(client, accept);
    assert_eq!(reason, Some(h2::Reason::CANCEL));
}
