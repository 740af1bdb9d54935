//! Windows that a client shrinks while data waits for the socket (RFC 9113 section 6.9.2).

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep},
};
use tokio_stream::{Stream, StreamExt};

use super::{frames::*, *};
use crate::{conn::upgrade, peer::MinRate, proto::h1::Limits};

/// What waits for the socket when the client shrinks its window: 1000 bytes of ...
#[derive(Debug, Clone, Copy, PartialEq)]
enum Last {
    /// ... a response.
    Complete,
    /// ... a response whose body fails after them.
    Aborted,
    /// ... a tunnel that has ended after them.
    Tunnel,
    /// ... a response whose body has nothing after them, and does not end.
    Idle,
}

/// The stream of a body that sends a piece, and then waits for ever.
fn idle_after(piece: Vec<u8>) -> impl Stream<Item = Result<Vec<u8>, Infallible>> {
    tokio_stream::once(Ok(piece)).chain(tokio_stream::pending())
}

/// Has the client shrink the window of a stream whose last data was passed to `h2`, and then grant `step` bytes of it every 4
/// seconds. Returns the time until the stream has ended, and the bytes of its data.
async fn shrink(last: Last, step: Option<u32>) -> (Duration, usize) {
    let is_first = Arc::new(AtomicBool::new(true));
    let app = tower::service_fn(move |request: Request| {
        // The first one fills the socket, so that the second one waits.
        let is_first = is_first.swap(false, Ordering::Relaxed);
        async move {
            let content = vec![b'x'; if is_first { 8 << 20 } else { 1000 }];
            if request.method() == "CONNECT" {
                return Ok(upgrade::connected(async move |mut stream| {
                    stream.write_all(&content).await.unwrap();
                }));
            }
            if is_first || last == Last::Complete {
                return Ok(Response::new(Body::from(content)));
            }
            if last == Last::Idle {
                return Ok(Response::new(Body::from_stream(idle_after(content))));
            }
            let (tx, body) = Body::channel(None);
            tx.send(content.into()).unwrap();
            tx.abort("broken");
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let config = Config::new().write_timeout(5 * SECOND).write_rate(MinRate::new(10, 30 * SECOND));
    let config = config.limits(Limits::new().allow_connect(true));
    let mut served = serve(app, config);
    let mut raw = Raw::begin(&mut served, &[(4, 1 << 24)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())).await;
    let second = if last == Last::Tunnel { CONNECT } else { GET };
    let flags = if last == Last::Tunnel { END_HEADERS } else { END_STREAM | END_HEADERS };
    for request in
        [frame(HEADERS, END_STREAM | END_HEADERS, 1, GET), frame(HEADERS, flags, 3, second)]
    {
        raw.write(&request).await;
        sleep(SECOND).await;
    }
    raw.write(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    raw.write(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await;
    let (began, mut received) = (Instant::now(), 0);
    loop {
        let next = raw.next();
        let next = match step {
            None => next.await,
            Some(step) => match tokio::time::timeout(4 * SECOND, next).await {
                Ok(next) => next,
                Err(_) => {
                    raw.write(&frame(WINDOW_UPDATE, 0, 3, &step.to_be_bytes())).await;
                    continue;
                }
            },
        };
        match next.expect("the connection stays") {
            frame if frame.stream != 3 => {}
            frame if frame.kind == RST_STREAM => break (began.elapsed(), received),
            frame if frame.kind == DATA => {
                received += frame.payload.len();
                if frame.flags & END_STREAM != 0 {
                    break (began.elapsed(), received);
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn response_whose_window_was_shrunk_is_reset_by_the_write_timeout() {
    for last in [Last::Complete, Last::Aborted, Last::Tunnel, Last::Idle] {
        let (took, received) = shrink(last, None).await;
        assert_eq!(received, 0);
        assert!((4..=7).contains(&took.as_secs()), "{last:?} {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn response_whose_window_grows_by_single_bytes_is_reset_by_the_minimum_rate() {
    for last in [Last::Complete, Last::Aborted, Last::Tunnel] {
        let (took, received) = shrink(last, Some(1)).await;
        assert!((5..=10).contains(&received), "{last:?} {received}");
        assert!((28..=40).contains(&took.as_secs()), "{last:?} {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn response_whose_window_was_shrunk_is_complete_after_updates() {
    for last in [Last::Complete, Last::Aborted, Last::Tunnel] {
        let (took, received) = shrink(last, Some(300)).await;
        assert_eq!(received, 1000, "{last:?} {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn response_of_small_frames_waits_for_a_socket_that_another_response_fills() {
    let is_first = Arc::new(AtomicBool::new(true));
    let app = tower::service_fn(move |_: Request| {
        let body = if is_first.swap(false, Ordering::Relaxed) {
            Body::from(vec![b'x'; 8 << 20])
        } else {
            let pieces = vec![Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 100])); 200];
            Body::from_stream(tokio_stream::iter(pieces))
        };
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let config = Config::new().write_rate(MinRate::new(240, 120 * SECOND));
    let mut served = serve(app, config);
    let mut raw = Raw::begin(&mut served, &[(4, 1 << 24)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())).await;
    for stream in [1, 3] {
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
        sleep(SECOND).await;
    }
    // The client takes 8 KiB each second, of which 50 bytes are of the second response.
    let (began, mut received) = (Instant::now(), 0);
    loop {
        let next = raw.next().await.expect("the connection stays");
        match (next.stream, next.kind) {
            (1, DATA) => sleep(2 * SECOND).await,
            (3, DATA) => received += next.payload.len(),
            (3, RST_STREAM) => panic!("reset after {received} bytes, {:?}", began.elapsed()),
            _ => {}
        }
        if next.stream == 3 && next.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(received, 200 * 100);
    assert!(began.elapsed() > 360 * SECOND, "it outlasts the grace: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn response_whose_data_was_read_stays_while_its_body_is_idle() {
    let app = tower::service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from_stream(idle_after(vec![b'x'; 100_000]))))
    });
    let mut served = serve(app, Config::new().write_timeout(5 * SECOND));
    let mut raw = Raw::begin(&mut served, &[]).await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    let mut received = 0;
    while received < 100_000 {
        let data = raw.next_of(DATA).await.expect("the connection stays").payload.len();
        received += data;
        sleep(4 * SECOND).await;
        let update = u32::try_from(data).unwrap().to_be_bytes();
        for stream in [0, 1] {
            raw.write(&frame(WINDOW_UPDATE, 0, stream, &update)).await;
        }
    }
    let ends = tokio::time::timeout(60 * SECOND, raw.next_of(RST_STREAM)).await;
    assert!(ends.is_err(), "{ends:?}");
}
