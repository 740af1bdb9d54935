//! Clients that send many frames within the rules of the protocol are served.

use http_body_util::BodyExt;
use tokio::sync::Notify;

use super::{frames::*, *};

const NO_ERROR: u32 = 0;

/// A request without a body that is answered shows that the connection is alive.
async fn is_served(raw: &mut Raw, stream: u32) {
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
    is_answered(raw, stream).await;
}

async fn is_answered(raw: &mut Raw, stream: u32) {
    loop {
        let frame = raw.next().await.expect("the connection is open");
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        if frame.kind == HEADERS && frame.stream == stream {
            return;
        }
    }
}

fn update(stream: u32, n: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &n.to_be_bytes())
}

#[tokio::test]
async fn each_data_frame_may_be_acknowledged_and_measured_with_any_window() {
    const LEN: usize = 8_000;
    let service = tower::service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; LEN])))
    });
    // As h2load -w 1 and -w 10 choose it.
    for window in [1, (1 << 10) - 1] {
        let mut served = serve(service, Config::new());
        let mut raw = Raw::begin(&mut served, &[(4, window)]).await;
        let responses = if window == 1 { 1 } else { 500 };
        for stream in (0..responses).map(|i| 2 * i + 1) {
            raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
            let mut received = 0;
            loop {
                let next = raw.next().await.expect("the connection is open");
                assert_ne!(next.kind, GOAWAY, "{next:?}");
                if next.kind != DATA {
                    continue;
                }
                let n = u32::try_from(next.payload.len()).unwrap();
                received += next.payload.len();
                if n > 0 {
                    let ping = frame(PING, 0, 0, &[7; 8]); // as gRPC does
                    raw.write(&[update(0, n), update(stream, n), ping].concat()).await;
                }
                if next.flags & END_STREAM != 0 {
                    break;
                }
            }
            assert_eq!(received, LEN, "{window}");
        }
    }
}

#[tokio::test]
async fn requests_may_all_be_cancelled_before_the_first_is_served() {
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let cancelled = (0..100).map(|i| 2 * i + 1).flat_map(|stream| {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        [request, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    });
    raw.write(&cancelled.collect::<Vec<u8>>()).await;
    is_served(&mut raw, 201).await;
}

#[tokio::test]
async fn data_of_uploads_that_were_refused_early_is_ignored() {
    let service = tower::service_fn(async |request: Request| {
        let status = if request.method() == "POST" { 413 } else { 200 };
        Ok::<_, Infallible>(Response::builder().status(status).body(Body::empty()).unwrap())
    });
    let mut served = serve(service, Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let streams = (0..100).map(|i| 2 * i + 1);
    for stream in streams.clone() {
        raw.write(&frame(HEADERS, END_HEADERS, stream, POST)).await;
    }
    for _ in streams.clone() {
        let reset = raw.next_of(RST_STREAM).await.expect("the connection is open");
        assert_eq!(reset.number(0), NO_ERROR);
    }
    for stream in streams {
        raw.write(&frame(DATA, 0, stream, &[b'x'; 1000]).repeat(5)).await;
    }
    is_served(&mut raw, 201).await;
    // The window of the ignored data was released.
    let big = frame(DATA, 0, 203, &[b'x'; 16_000]);
    raw.write(&frame(HEADERS, END_HEADERS, 203, POST)).await;
    raw.write(&big.repeat(16)).await;
    is_served(&mut raw, 205).await;
}

#[tokio::test]
async fn short_upload_that_is_not_read_ends_without_a_reset() {
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    for stream in (0..2_000).map(|i| 2 * i + 1) {
        raw.write(&frame(HEADERS, END_HEADERS, stream, POST)).await;
        // The response is complete before the body has come.
        loop {
            let next = raw.next().await.expect("the connection is open");
            assert!(!matches!(next.kind, RST_STREAM | GOAWAY), "{next:?}");
            if next.kind == DATA && next.flags & END_STREAM != 0 {
                break;
            }
        }
        raw.write(&frame(DATA, END_STREAM, stream, &[b'x'; 1000])).await;
    }
    is_served(&mut raw, 4_001).await;
}

#[tokio::test(start_paused = true)]
async fn upload_that_is_not_read_is_reset_when_it_is_long_or_slow() {
    for (pieces, is_long) in [(0, false), (1, false), (4, true)] {
        let mut served = serve(tell(), Config::new());
        let mut raw = Raw::begin(&mut served, &[]).await;
        let began = tokio::time::Instant::now();
        raw.write(&frame(HEADERS, END_HEADERS, 1, POST)).await;
        // The response is complete before the body has come.
        while raw.next_of(DATA).await.expect("the connection is open").flags & END_STREAM == 0 {}
        let piece = frame(DATA, 0, 1, &[b'x'; 16_000]);
        raw.write(&piece.repeat(pieces)).await;
        if is_long {
            while raw.next_of(WINDOW_UPDATE).await.expect("the connection is open").stream != 1 {}
            raw.write(&piece.repeat(2)).await;
        }
        let reset = raw.next_of(RST_STREAM).await.expect("the connection is open");
        assert_eq!((reset.stream, reset.number(0)), (1, NO_ERROR));
        assert_eq!(began.elapsed() < SECOND, is_long, "{pieces}: {:?}", began.elapsed());
        is_served(&mut raw, 3).await;
    }
}

#[tokio::test]
async fn connection_with_many_malformed_requests_ends_without_an_error() {
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let mut stream = 1;
    let goaway = loop {
        assert!(stream < 4 * 500, "no GOAWAY");
        let overflow = update(stream, u32::MAX >> 1);
        raw.write(&[frame(HEADERS, END_HEADERS, stream, POST), overflow].concat()).await;
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream + 2, GET)).await;
        let next = loop {
            let next = raw.next().await.expect("the connection is open");
            let is_response = next.kind == HEADERS && next.stream == stream + 2;
            if is_response || next.kind == GOAWAY {
                break next;
            }
        };
        if next.kind == GOAWAY {
            break next;
        }
        stream += 4;
    };
    assert!(stream > 4 * 240, "after {stream}");
    // The first step of two: requests on their way are still served.
    assert_eq!((goaway.number(0), goaway.number(4)), (u32::MAX >> 1, NO_ERROR));
    is_answered(&mut raw, stream + 2).await;
}

#[tokio::test]
async fn small_frames_of_an_upload_wait_for_their_reader() {
    const FRAMES: usize = 20_000;
    let may_read = Arc::new(Notify::new());
    let read_when_told = {
        let may_read = may_read.clone();
        tower::service_fn(move |request: Request| {
            let may_read = may_read.clone();
            async move {
                if request.method() == "GET" {
                    return Ok::<_, Infallible>(Response::new(Body::empty()));
                }
                may_read.notified().await;
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Ok(Response::new(Body::from(body)))
            }
        })
    };
    let mut served = serve(read_when_told, Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    raw.write(&frame(HEADERS, END_HEADERS, 1, POST)).await;
    // In one write, so that the server can read all of them at once.
    let frames = (0..FRAMES).map(|i| frame(DATA, 0, 1, &[u8::try_from(i % 251).unwrap()]));
    let mut burst = frames.collect::<Vec<_>>().concat();
    burst.extend(frame(DATA, END_STREAM, 1, b"end"));
    raw.write(&burst).await;
    is_served(&mut raw, 3).await;
    may_read.notify_one();
    let mut echo = Vec::new();
    while echo.len() < FRAMES + 3 {
        echo.extend(raw.next_of(DATA).await.expect("the connection is open").payload);
    }
    assert!(echo.iter().take(FRAMES).enumerate().all(|(i, byte)| usize::from(*byte) == i % 251));
    assert!(echo.ends_with(b"end"));
}
