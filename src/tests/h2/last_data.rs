//! The data before the end of a stream: of responses that are aborted, and of tunnels.

use std::{future::pending, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{frames::*, *};
use crate::{
    Budget,
    conn::{
        access_log::Entry,
        upgrade::{self, Upgraded},
    },
    proto::h1::Limits,
};

const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;

/// How a stream has ended for its client.
#[derive(Debug, PartialEq)]
struct End {
    data: usize,
    has_end_stream: bool,
    reset: Option<u32>,
}

/// Reads up to the reset of stream 1, or to END_STREAM unless `is_reset`.
async fn end_of(raw: &mut Raw, is_reset: bool) -> End {
    let mut end = End { data: 0, has_end_stream: false, reset: None };
    while end.reset.is_none() && (is_reset || !end.has_end_stream) {
        let next = raw.next().await.expect("the connection stays");
        match (next.stream, next.kind) {
            (1, DATA) => end.data += next.payload.len(),
            (1, RST_STREAM) => end.reset = Some(next.number(0)),
            _ => {}
        }
        end.has_end_stream |=
            next.stream == 1 && next.flags & END_STREAM != 0 && next.kind <= HEADERS;
    }
    end
}

/// A client with large windows, of a server whose connection holds `pipe` bytes.
async fn begin<S>(pipe: usize, service: S, config: Config) -> Raw
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let config = config.limits(Limits::new().allow_connect(true));
    let mut served = serve_piped(pipe, service, config, DrainWatch::never());
    let mut raw = Raw::begin(&mut served, &[(4, 1 << 24)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())).await;
    raw
}

/// Accepts each CONNECT with the function `run`.
fn tunnels<F>(
    run: impl Fn(Upgraded) -> F + Clone + Send + Sync + 'static,
) -> impl HttpService<Body, Future: Send> + Clone + Send + 'static
where
    F: Future<Output = ()> + Send + 'static,
{
    tower::service_fn(move |_: Request| {
        let run = run.clone();
        async move { Ok::<_, Infallible>(upgrade::connected(run)) }
    })
}

/// Waits until at least so many bytes count in the budget.
async fn held(budget: &Budget, bytes: usize) {
    within(async {
        while budget.usage().memory < bytes as u64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn aborted_response_is_reset_behind_the_data_before_its_failure() {
    const PIECE: usize = 20_000;
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let complete = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
    for (pipe, pieces, request) in [
        (1 << 20, 1, &complete),
        (1 << 20, 1, &open),
        (4 << 10, 40, &complete),
        (4 << 10, 40, &open),
    ] {
        let app = tower::service_fn(move |_: Request| {
            let (tx, body) = Body::channel(None);
            for _ in 0..pieces {
                tx.send(Bytes::from(vec![b'x'; PIECE])).unwrap();
            }
            tx.abort("broken");
            async { Ok::<_, Infallible>(Response::new(body)) }
        });
        let (budget, log) = (Budget::default(), Arc::<Mutex<Vec<Entry>>>::default());
        let entries = log.clone();
        let config = Config::new()
            .budget(budget.clone())
            .access_log(move |entry| entries.lock().unwrap().push(entry.clone()));
        let mut raw = begin(pipe, app, config).await;
        raw.write(request).await;
        if pieces > 1 {
            held(&budget, 200 << 10).await;
        }
        let data = pieces * PIECE;
        let end = end_of(&mut raw, true).await;
        assert_eq!(end, End { data, has_end_stream: false, reset: Some(CANCEL) });
        assert_eq!(budget.usage().memory, 0);
        let log = log.lock().unwrap();
        assert_eq!((log[0].bytes, log[0].complete), (data as u64, false));
    }
}

#[tokio::test]
async fn tunnel_sends_its_data_before_its_end() {
    const LEN: usize = 60_000;
    for pipe in [1 << 20, 4 << 10] {
        for (shuts_down, client_ends) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let app = tunnels(move |mut stream: Upgraded| async move {
                stream.write_all(&[b'x'; LEN]).await.unwrap();
                if client_ends {
                    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
                }
                if shuts_down {
                    stream.shutdown().await.unwrap();
                }
            });
            let mut raw = begin(pipe, app, Config::new()).await;
            raw.write(&frame(HEADERS, END_HEADERS, 1, CONNECT)).await;
            if client_ends {
                raw.write(&frame(DATA, END_STREAM, 1, &[])).await;
            }
            let end = end_of(&mut raw, !(shuts_down && client_ends)).await;
            let reset = match (shuts_down, client_ends) {
                (true, true) => None,
                (true, false) => Some(NO_ERROR),
                (false, _) => Some(CANCEL),
            };
            let expected = End { data: LEN, has_end_stream: shuts_down, reset };
            assert_eq!(end, expected, "{pipe} {client_ends}");
        }
    }
}

#[tokio::test]
async fn flush_of_a_tunnel_waits_for_its_data_which_counts_in_the_budget() {
    const LEN: usize = 60_000;
    let (flushed, mut is_flushed) = mpsc::unbounded_channel();
    let app = tunnels(move |mut stream: Upgraded| {
        let flushed = flushed.clone();
        async move {
            stream.write_all(&[b'x'; LEN]).await.unwrap();
            flushed.send(stream.flush().await.is_ok()).unwrap();
            pending::<()>().await
        }
    });
    let budget = Budget::default();
    let mut raw = begin(4 << 10, app, Config::new().budget(budget.clone())).await;
    raw.write(&frame(HEADERS, END_HEADERS, 1, CONNECT)).await;
    held(&budget, LEN).await;
    assert!(is_flushed.try_recv().is_err(), "the pipe holds less");
    let mut received = 0;
    while received < LEN {
        received += raw.next_of(DATA).await.unwrap().payload.len();
    }
    assert_eq!(within(is_flushed.recv()).await, Some(true));
    within(async {
        while budget.usage().memory > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn flush_of_a_tunnel_fails_if_its_client_resets_the_stream() {
    let (flushed, mut is_flushed) = mpsc::unbounded_channel();
    let app = tunnels(move |mut stream: Upgraded| {
        let flushed = flushed.clone();
        async move {
            stream.write_all(&[b'x'; 60_000]).await.unwrap();
            flushed.send(stream.flush().await.is_ok()).unwrap();
        }
    });
    let budget = Budget::default();
    let mut raw = begin(4 << 10, app, Config::new().budget(budget.clone())).await;
    raw.write(&frame(HEADERS, END_HEADERS, 1, CONNECT)).await;
    held(&budget, 60_000).await;
    raw.write(&frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())).await;
    // The frame that is on its way is written to its end.
    let is_ok = tokio::select! {
        is_ok = is_flushed.recv() => is_ok,
        _ = async { while raw.next().await.is_some() {} } => panic!("the connection stays"),
    };
    assert_eq!(is_ok, Some(false));
}

#[tokio::test]
async fn stream_in_another_task_sends_what_was_flushed_before_its_drop() {
    const LEN: usize = 60_000;
    let app = tunnels(|mut stream: Upgraded| async move {
        tokio::spawn(async move {
            stream.write_all(&[b'x'; LEN]).await.unwrap();
            stream.flush().await.unwrap();
        });
    });
    let mut raw = begin(4 << 10, app, Config::new()).await;
    raw.write(&frame(HEADERS, END_HEADERS, 1, CONNECT)).await;
    let end = end_of(&mut raw, true).await;
    assert_eq!(end, End { data: LEN, has_end_stream: false, reset: Some(CANCEL) });
}
