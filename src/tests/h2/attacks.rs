//! Section 4.2 of the list of incidents.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::io::AsyncWriteExt;

use super::{frames::*, *};

/// Counts the requests under way, and their maximum.
#[derive(Default)]
struct Work {
    calls: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Working(Arc<Work>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

/// A service that never answers.
fn never(
    work: &Arc<Work>,
) -> impl HttpService<Body, Future: Send> + Clone + Send + use<> + 'static {
    let work = work.clone();
    tower::service_fn(move |_: Request| {
        work.calls.fetch_add(1, Relaxed);
        let now = work.now.fetch_add(1, Relaxed) + 1;
        work.most.fetch_max(now, Relaxed);
        let working = Working(work.clone());
        async move {
            let _working = working;
            std::future::pending::<Result<Response, Infallible>>().await
        }
    })
}

/// The frames of one request on each of the streams 1, 3, 5 and so on, `n` of them.
fn requests(n: u32, of: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..n).flat_map(|i| of(2 * i + 1)).collect()
}

#[tokio::test]
async fn h1_rapid_reset_ends_the_connection_and_work_stays_bounded() {
    let work = Arc::default();
    let mut served = serve(never(&work), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    // One by one, so that each is accepted and its service called before it is cancelled.
    for stream in (0..1000).map(|i| 2 * i + 1) {
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
        tokio::task::yield_now().await;
        raw.write(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await;
    }
    assert_eq!(raw.goaway().await, Some(CALM));
    drop(raw);
    assert!(within(served.task).await.unwrap().is_err());
    let (calls, most) = (work.calls.load(Relaxed), work.most.load(Relaxed));
    assert!(calls > 100 && most <= 2, "{calls} calls, {most} at once");
    assert_eq!(work.now.load(Relaxed), 0, "the work of cancelled requests is dropped");
}

#[tokio::test]
async fn h1_reset_streams_count_as_work_until_their_futures_are_dropped() {
    let work = Arc::default();
    let config = Config::new().http2(crate::conn::Http2Config::new().max_streams(10));
    let mut served = serve(never(&work), config);
    let mut raw = Raw::begin(&mut served, &[]).await;
    let open = |streams: std::ops::Range<u32>| {
        streams
            .flat_map(|i| frame(HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, GET))
            .collect::<Vec<u8>>()
    };
    let reset = |streams: std::ops::Range<u32>| {
        streams
            .flat_map(|i| frame(RST_STREAM, 0, 2 * i + 1, &8u32.to_be_bytes()))
            .collect::<Vec<u8>>()
    };
    raw.write(&open(0..10)).await;
    let wait = async |n: usize| {
        within(async {
            while work.now.load(Relaxed) != n {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    wait(10).await;
    // In one read: all ten are cancelled, seven others begin and end, and ten more begin.
    let burst = [reset(0..10), open(10..17), reset(10..17), open(17..27)].concat();
    raw.write(&burst).await;
    within(async {
        while work.calls.load(Relaxed) < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    wait(10).await;
    assert_eq!(work.most.load(Relaxed), 10);
    assert_eq!(work.calls.load(Relaxed), 20, "a request that is cancelled already is not begun");
}

#[tokio::test(start_paused = true)] // so that the time of the drain cannot end it before
async fn h2_resets_that_the_client_provokes_end_the_connection() {
    let overflow = |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
    type Frames = dyn Fn(u32) -> Vec<u8>;
    let provocations: [(&str, &Frames); 6] = [
        ("a window update of 0", &|s| frame(WINDOW_UPDATE, 0, s, &[0; 4])),
        ("a short priority", &|s| frame(PRIORITY, 0, s, &[0; 4])),
        ("a dependency on itself", &|s| {
            frame(PRIORITY, 0, s, &[&s.to_be_bytes()[..], &[0]].concat())
        }),
        ("an overflow of the window", &overflow),
        ("a head after the end", &|s| frame(HEADERS, END_STREAM | END_HEADERS, s, GET)),
        ("data after the end", &|s| frame(DATA, 0, s, b"x")),
    ];
    for (what, provoke) in provocations {
        let work = Arc::default();
        let mut served = serve(never(&work), Config::new());
        let mut raw = Raw::begin(&mut served, &[]).await;
        for stream in (0..1000).map(|i| 2 * i + 1) {
            let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
            raw.write(&[request, provoke(stream)].concat()).await;
            tokio::task::yield_now().await;
        }
        // The end is announced without an error at half of the bound. `h2` ignores later requests only after the client
        // has acknowledged the PING behind it, which this one does not.
        let code = loop {
            match raw.goaway().await {
                Some(0) => {}
                code => break code,
            }
        };
        assert!(code.is_some(), "{what}: the connection ends without an error");
        drop(raw);
        assert!(within(served.task).await.unwrap().is_err(), "{what}");
        assert!(work.most.load(Relaxed) <= 100, "{what}: {}", work.most.load(Relaxed));
        assert_eq!(work.now.load(Relaxed), 0, "{what}");
    }
}

#[tokio::test]
async fn h4_h6_h7_floods_of_frames_end_the_connection() {
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let floods = [
        ("CONTINUATION", frame(HEADERS, 0, 1, GET), frame(CONTINUATION, 0, 1, &[])),
        ("DATA without content", open.clone(), frame(DATA, 0, 1, b"")),
        ("PING", vec![], frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", vec![], frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0])),
        ("an unknown type", vec![], frame(0xaa, 0, 0, b"x")),
    ];
    for (what, first, flood) in floods {
        let mut served = serve(never(&Arc::default()), Config::new());
        let mut raw = Raw::begin(&mut served, &[]).await;
        raw.write(&first).await;
        // The client does not read meanwhile: answers must not pile up.
        raw.write(&flood.repeat(20_000)).await;
        let code = raw.goaway().await;
        assert!(code.is_some_and(|code| code != 0), "{what}: {code:?}");
        drop(raw);
        assert!(within(served.task).await.unwrap().is_err(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn h3_resets_for_a_client_that_reads_nothing_are_bounded() {
    // Otherwise a connection that has ended reads and discards more.
    let config = Config::new().http2(crate::conn::Http2Config::new().linger_bytes(0));
    let mut served = serve_piped(4 << 10, never(&Arc::default()), config, DrainWatch::never());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let mut provoked = 0;
    for stream in (0..100_000).map(|i| 2 * i + 1) {
        let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
        // A window update of 0, which is answered by RST_STREAM.
        let both = [request, frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat();
        if !matches!(tokio::time::timeout(SECOND, raw.0.write_all(&both)).await, Ok(Ok(()))) {
            break;
        }
        provoked += 1;
    }
    assert!(provoked < 1_000, "the server takes no more: {provoked}");
    let _ = served.task.await.unwrap(); // the connection ends, though its client stays
}

#[tokio::test(start_paused = true)]
async fn h4_continuation_with_content_is_bounded_in_bytes() {
    let fields = [0, 1, b'a', 1, b'b'].repeat(3_200); // 16,000 bytes
    let mut served =
        serve_piped(4 << 10, never(&Arc::default()), Config::new(), DrainWatch::never());
    let mut raw = Raw::begin(&mut served, &[]).await;
    raw.write(&frame(HEADERS, 0, 1, GET)).await;
    let mut sent = 0;
    for _ in 0..1_000 {
        let more = frame(CONTINUATION, 0, 1, &fields);
        if !matches!(tokio::time::timeout(SECOND, raw.0.write_all(&more)).await, Ok(Ok(()))) {
            break;
        }
        if served.task.is_finished() {
            break;
        }
        sent += fields.len();
    }
    // Twice the bytes that a connection reads and discards after its end.
    assert!(sent < 2 << 20, "{sent}");
    assert!(raw.goaway().await.is_some_and(|code| code != 0));
    drop(raw);
    assert!(within(served.task).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn h5_bomb_of_indexed_fields_is_refused_and_closed_windows_are_reaped() {
    // One entry `a: ""` in the dynamic table, and references to it. The first list is within the bounds; the next two are
    // within the 32 KiB of the list alone.
    for (references, status) in [(50, 200), (101, 431), (900, 431)] {
        let mut served = serve(tell(), Config::new());
        let mut raw = Raw::begin(&mut served, &[]).await;
        let bomb = [GET, &[0x40, 1, b'a', 0], &vec![0xbe; references]].concat();
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
        let answer = raw.next_of(HEADERS).await.expect("the connection is open");
        assert_eq!((answer.stream, answer.status()), (1, status), "{references} references");
    }
    // More than the list may have ends the connection, or is refused too.
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let bomb = [GET, &[0x40, 1, b'a', 0], &vec![0xbe; 4000]].concat();
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
    let answer = raw.next_of(HEADERS).await;
    assert!(answer.is_none_or(|answer| answer.status() == 431));

    let mut served = serve(tell(), Config::new().write_timeout(5 * SECOND));
    let mut raw = Raw::begin(&mut served, &[(4, 0)]).await;
    raw.write(&requests(100, |s| frame(HEADERS, END_STREAM | END_HEADERS, s, GET))).await;
    for _ in 0..100 {
        let reset = raw.next_of(RST_STREAM).await.expect("each stream is reset");
        assert_eq!(reset.number(0), 8, "CANCEL");
    }
}

#[tokio::test(start_paused = true)]
async fn h5_window_updates_of_single_bytes_do_not_count_as_progress_forever() {
    let long = tower::service_fn(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; 100_000])))
    });
    let mut served = serve(long, Config::new());
    let mut raw = Raw::begin(&mut served, &[(4, 0)]).await;
    let began = tokio::time::Instant::now();
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET)).await;
    let mut received = 0;
    let reset = loop {
        // A byte each 30 seconds: twice as fast as the write timeout.
        tokio::time::sleep(30 * SECOND).await;
        raw.write(&frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).await;
        let frame = raw.next().await.expect("the connection stays");
        match frame.kind {
            DATA => received += frame.payload.len(),
            RST_STREAM => break frame,
            _ => {}
        }
    };
    assert_eq!(reset.number(0), 8);
    assert!(received < 10, "{received}");
    assert!(began.elapsed() < 300 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test]
async fn h9_bounds_are_announced_in_the_first_settings() {
    let mut served = serve(tell(), Config::new());
    let mut raw = Raw::begin(&mut served, &[]).await;
    let first = raw.next().await.unwrap();
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
    let settings: BTreeMap<u16, u32> = first
        .payload
        .chunks(6)
        .map(|s| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes(s[2..].try_into().unwrap())))
        .collect();
    assert_eq!(settings[&3], 100, "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(settings[&4], 256 << 10, "SETTINGS_INITIAL_WINDOW_SIZE");
    assert_eq!(settings[&6], 32 << 10, "SETTINGS_MAX_HEADER_LIST_SIZE");
    assert_eq!(settings[&8], 1, "SETTINGS_ENABLE_CONNECT_PROTOCOL");
    // The window of the connection has no setting (RFC 9113 section 6.9.2).
    let update = raw.next_of(WINDOW_UPDATE).await.unwrap();
    assert_eq!((update.stream, update.number(0)), (0, (1 << 20) - 65_535));
}

#[tokio::test]
async fn h8_request_that_is_malformed_is_refused_on_its_stream() {
    let field = |name: &str, value: &str| {
        let (n, v) = (u8::try_from(name.len()).unwrap(), u8::try_from(value.len()).unwrap());
        [&[0, n], name.as_bytes(), &[v], value.as_bytes()].concat()
    };
    let path = |path: &str| {
        let len = u8::try_from(path.len()).unwrap();
        [&[0x82, 0x86, 0x44, len], path.as_bytes(), &[0x41, 1, b'a']].concat()
    };
    let method = |method: &str| {
        let len = u8::try_from(method.len()).unwrap();
        [&[0x42, len], method.as_bytes(), &[0x86, 0x84, 0x41, 1, b'a']].concat()
    };
    let with = |name: &str, value: &str| [GET.to_vec(), field(name, value)].concat();
    let scheme = |scheme: &str| {
        let len = u8::try_from(scheme.len()).unwrap();
        [&[0x82, 0x46, len], scheme.as_bytes(), &[0x84, 0x41, 1, b'a']].concat()
    };
    let late = [&[0x82, 0x86, 0x84], &field("x", "y")[..], &[0x41, 1, b'a']].concat();
    for (what, block) in [
        ("a scheme with a host", scheme("http://localhost/?")),
        ("a pseudo-header after a field", late),
        ("a method with ?", method("GET?")),
        ("a method with a space", method("GET /x HTTP/1.1\r\nx: ")),
        ("a path without /", path("hello-world")),
        ("a path with a line end", path("/\r\nhost: b")),
        ("a path with a space", path("/ HTTP/1.1")),
        ("a value with a line end", with("x", "a\r\nhost: b")),
        ("a name with a colon", with("x:y", "z")),
        ("a name in upper case", with("Xy", "z")),
        ("chunked", with("transfer-encoding", "chunked")),
        ("connection", with("connection", "x-real-ip")),
        ("another host", with("host", "b")),
        ("a length of a body that does not come", with("content-length", "5")),
    ] {
        let mut served = serve(tell(), Config::new());
        let mut raw = Raw::begin(&mut served, &[]).await;
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
        let answer = loop {
            let frame = raw.next().await.unwrap_or_else(|| panic!("{what}: closed"));
            if matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY) {
                break frame;
            }
        };
        match answer.kind {
            // 400 is index 12 of the static table.
            HEADERS => assert_eq!(answer.payload[0], 0x80 | 12, "{what}"),
            RST_STREAM => assert_eq!(answer.number(0), PROTOCOL_ERROR, "{what}"),
            _ => assert_eq!(answer.number(4), PROTOCOL_ERROR, "{what}"),
        }
    }
}

#[tokio::test]
async fn h8_body_that_contradicts_its_length_is_no_body() {
    // `content-length: 5`, by index 28 of the static table.
    let block = [POST, &[0x0f, 13, 1, b'5']].concat();
    for (len, is_whole) in [(4, false), (5, true), (6, false)] {
        let (tx, mut results) = tokio::sync::mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request| {
            let tx = tx.clone();
            async move {
                let body = http_body_util::BodyExt::collect(request.into_body()).await;
                let body = body.map(|body| body.to_bytes().len());
                tx.send(body.as_ref().ok().copied()).unwrap();
                body.map(|_| Response::new(Body::empty()))
            }
        });
        let mut served = serve(service, Config::new());
        let mut raw = Raw::begin(&mut served, &[]).await;
        raw.write(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        tokio::task::yield_now().await;
        raw.write(&frame(DATA, END_STREAM, 1, &vec![b'x'; len])).await;
        if is_whole {
            assert_eq!(raw.next_of(HEADERS).await.unwrap().status(), 200);
            assert_eq!(within(results.recv()).await, Some(Some(len)));
        } else {
            let reset = raw.next_of(RST_STREAM).await.expect("the connection is open");
            assert_eq!(reset.number(0), PROTOCOL_ERROR, "{len} bytes");
            drop(raw);
            let _ = within(served.task).await.unwrap();
            assert!(!matches!(results.try_recv(), Ok(Some(_))), "{len} bytes");
        }
    }
}
