//! Times and bounds.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tokio_stream::StreamExt;

use super::{frames::*, *};
use crate::{conn::testing::FullSocket, proto::h2::PREFACE};

#[tokio::test(start_paused = true)]
async fn preface_must_come_within_the_time_of_a_head() {
    for sent in [0, 1, PREFACE.len() - 1, PREFACE.len()] {
        let mut served = serve(tell(), Config::new());
        let began = Instant::now();
        served.client.write_all(&PREFACE[..sent]).await.unwrap();
        let mut answer = Vec::new();
        served.client.read_to_end(&mut answer).await.unwrap();
        // A whole preface makes a connection without requests.
        let expected = if sent == PREFACE.len() { 76 } else { 20 };
        assert_eq!(began.elapsed().as_secs(), expected, "{sent} bytes");
        drop(served.client);
        served.task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn response_larger_than_the_send_buffer_waits_for_a_socket_that_its_client_reads_slowly() {
    let response = Arc::new(());
    let held = Arc::downgrade(&response);
    let body = tokio_stream::iter(vec![Bytes::from(vec![b'x'; 16 << 10]); 64]).map(move |piece| {
        let _ = &response;
        Ok::<_, Infallible>(piece)
    });
    let body = Arc::new(Mutex::new(Some(Body::from_stream(body))));
    let service = tower::service_fn(move |_: Request| {
        let response = Response::new(body.lock().unwrap().take().unwrap());
        async { Ok::<_, Infallible>(response) }
    });
    let queue = Arc::new(AtomicU64::new(1 << 20));
    let io = FullSocket(queue.clone());
    let mut transport = Transport::new(io, Peer::memory(), DrainWatch::never());
    let window = frame(SETTINGS, 0, 0, &[&[0, 4][..], &(1u32 << 20).to_be_bytes()].concat());
    let of_connection = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes());
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    transport.read_ahead.extend_from_slice(PREFACE);
    transport.read_ahead.extend_from_slice(&[window, of_connection, request].concat());
    let config = Arc::new(Config::new());
    let task = tokio::spawn(crate::conn::h2::server::Connection::new(transport, service, config));
    for second in 0..600 {
        queue.fetch_sub(500, Relaxed);
        tokio::time::sleep(SECOND).await;
        assert!(!task.is_finished() && held.strong_count() > 0, "after {second} s");
    }
    // It takes no more.
    let error = tokio::time::timeout(70 * SECOND, task).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(held.strong_count(), 0);
}

#[tokio::test]
async fn preface_that_comes_after_the_first_poll_is_served() {
    // As after a TLS handshake, which negotiates the protocol before its first byte.
    let (client, io) = tokio::io::duplex(1 << 20);
    let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
    let server = crate::conn::h2::server::Connection::new(transport, tell(), Arc::default());
    let mut server = Box::pin(server);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(server.as_mut().poll(&mut cx).is_pending());
    tokio::spawn(server);
    let mut client = client_of(client).await;
    let response = send(&mut client, http::Request::get("http://a/"), "").await.unwrap();
    assert_eq!(read(response).await.unwrap(), "GET / a");
}

#[tokio::test]
async fn incomplete_preface_ends_the_connection_in_order() {
    for sent in [1, 10, PREFACE.len() - 1] {
        let mut served = serve(tell(), Config::new());
        served.client.write_all(&PREFACE[..sent]).await.unwrap();
        served.client.shutdown().await.unwrap();
        within(served.task).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn slow_head_and_idle_connection_are_ended() {
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let began = Instant::now();
    raw.write(&frame(HEADERS, 0, 1, GET)).await;
    assert!(served.task.await.unwrap().is_err());
    assert_eq!(began.elapsed().as_secs(), 20);

    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let began = Instant::now();
    assert_eq!(raw.goaway().await, Some(0));
    assert_eq!(raw.next_of(GOAWAY).await.map(|frame| frame.kind), None);
    assert_eq!(began.elapsed().as_secs(), 76, "the idle timeout, and a second for the client");
    // It does not close the connection.
    served.task.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 81);
}

#[tokio::test(start_paused = true)]
async fn slow_body_is_answered_and_late_service_too() {
    let service = tower::service_fn(async |request: Request| {
        use http_body_util::BodyExt;
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, crate::BoxError>(Response::new(Body::from(body)))
    });
    let mut client = connect(service, Config::new().answer_timeout(7 * SECOND)).await;
    let began = Instant::now();
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (response, _stream) = client.send_request(request, false).unwrap();
    assert_eq!(response.await.unwrap().status(), 408);
    assert_eq!(began.elapsed().as_secs(), 30, "body_timeout");
    let began = Instant::now();
    let request = http::Request::get("http://a/never").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 504);
    assert_eq!(began.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_nothing_from_its_socket_is_ended() {
    let long = tower::service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; 4 << 20])))
    });
    let mut served = serve(long, Config::new());
    // Its windows are open, its socket is full.
    let mut raw = Raw::begin(&mut served, &[(4, 0x7fff_ffff)]).await;
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes())).await;
    let began = Instant::now();
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    assert!(served.task.await.unwrap().is_err());
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn drain_ends_a_connection_without_requests_within_a_second() {
    let (drain, watch) = drain();
    let mut served = serve_watched(tell(), Config::new(), watch);
    let mut raw = Raw::begin(&mut served, &[]).await;
    raw.next().await.unwrap();
    let began = Instant::now();
    drain.begin();
    assert_eq!(raw.goaway().await, Some(0));
    drain.ended().await;
    assert!(began.elapsed() <= SECOND);
    drop(raw);
    served.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_sends_goaway_in_two_steps_and_serves_requests_in_flight() {
    let (drain, watch) = drain();
    let mut served = serve_watched(tell(), Config::new(), watch);
    let mut raw = Raw::begin(&mut served, &[]).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    assert_eq!(raw.next_of(HEADERS).await.unwrap().stream, 1);
    drain.begin();
    // RFC 9113 section 6.8: first the largest stream, since requests may be on their way.
    let first = raw.next_of(GOAWAY).await.unwrap();
    assert_eq!((first.number(0), first.number(4)), (0x7fff_ffff, 0));
    let ping = raw.next_of(PING).await.unwrap();
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 3, GET)).await;
    raw.write(&frame(PING, 1, 0, &ping.payload)).await; // ACK: what was sent before it has arrived
    let mut was_served = false;
    let second = loop {
        let frame = raw.next().await.expect("the second step comes");
        match frame.kind {
            HEADERS => was_served |= frame.stream == 3,
            GOAWAY => break frame,
            _ => {}
        }
    };
    assert_eq!((second.number(0), second.number(4)), (3, 0));
    while let Some(frame) = raw.next().await {
        was_served |= frame.kind == HEADERS && frame.stream == 3;
    }
    assert!(was_served);
    drop(raw);
    within(served.task).await.unwrap().unwrap();
    within(drain.ended()).await;
}

#[tokio::test]
async fn announced_streams_are_no_more_than_the_workers_take() {
    let pool = crate::worker::threads(2, || crate::worker::blocking(|_| Response::new("done")));
    let pool = pool.queue(3).start().unwrap();
    let half = Config::new().http2(crate::conn::Http2Config::new().max_streams(4));
    for (config, streams) in
        [(Config::new(), 100), (Config::new().gate(pool.gate()), 5), (half.gate(pool.gate()), 4)]
    {
        let mut served = serve(tell(), config);
        let mut raw = Raw::begin(&mut served, &[]).await;
        let first = raw.next().await.unwrap();
        let mut settings = first.payload.chunks(6);
        let announced = settings.find(|s| s[..2] == [0, 3]).expect("MAX_CONCURRENT_STREAMS");
        assert_eq!(announced[2..], u32::to_be_bytes(streams));
    }
    pool.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn streamed_responses_that_are_not_read_count_in_the_budget() {
    const LEN: usize = 640 << 10;
    for length in [None, Some(LEN as u64)] {
        let streamed = tower::service_fn(move |_: Request| {
            let (tx, body) = Body::channel(length);
            for _ in 0..LEN >> 14 {
                tx.send(Bytes::from(vec![b'x'; 1 << 14])).unwrap();
            }
            tx.finish(None);
            async { Ok::<_, Infallible>(Response::new(body)) }
        });
        let budget = crate::Budget::default();
        let config = Config::new().budget(budget.clone());
        let mut served = serve_piped(4 << 10, streamed, config, DrainWatch::never());
        let mut raw = Raw::begin(&mut served, &[(4, 1 << 20)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
        raw.write(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes())).await;
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
        within(async {
            while budget.usage().memory < 200 << 10 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let mut received = 0;
        while let Some(data) = raw.next_of(DATA).await {
            received += data.payload.len();
            if data.flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!((received, budget.usage().memory), (LEN, 0), "{length:?}");
    }
}

#[tokio::test]
async fn unread_bodies_count_in_the_budget() {
    let never = tower::service_fn(async |request: Request| {
        let _unread = request;
        std::future::pending::<Result<Response, Infallible>>().await
    });
    let budget = crate::Budget::default();
    let mut served = serve(never, Config::new().budget(budget.clone()));
    let mut raw = Raw::begin(&mut served, &[]).await;
    // The announced window holds from the acknowledgement on.
    assert_eq!(raw.next().await.unwrap().kind, SETTINGS);
    raw.write(&frame(SETTINGS, 1, 0, &[])).await;
    let sent = 2 * 12 * 16_384;
    for stream in [1, 3] {
        raw.write(&frame(HEADERS, END_HEADERS, stream, POST)).await;
        for _ in 0..12 {
            raw.write(&frame(DATA, 0, stream, &[b'x'; 16_384])).await;
        }
    }
    // The channel of each body has 64 KiB, and a piece more.
    let unread = sent - 2 * (80 << 10);
    let memory = async |expected: std::ops::RangeInclusive<u64>| {
        within(async {
            while !expected.contains(&budget.usage().memory) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    memory(unread..=sent).await;
    raw.write(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await;
    memory(unread / 2..=sent / 2).await;
    raw.write(&frame(RST_STREAM, 0, 3, &8u32.to_be_bytes())).await;
    memory(0..=0).await;
    drop(raw);
    let _ = within(served.task).await.unwrap();
}
