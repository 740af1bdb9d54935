//! The bound on what a connection queues of its streamed responses.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{frames::*, *};
use crate::body::Sender;

/// A client whose windows never close, and that sends requests on the streams 1, 3, and so on.
async fn greedy(served: &mut Served, streams: u32) -> Raw {
    let mut raw = Raw::begin(served, &[(4, 1 << 30)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
    raw.write(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes())).await;
    for n in 0..streams {
        raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, GET)).await;
    }
    raw
}

#[tokio::test]
async fn streamed_responses_of_a_connection_share_a_bound() {
    const LEN: usize = 640 << 10;
    const STREAMS: u32 = 40;
    let streamed = tower::service_fn(move |_: Request| {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let is_small = CALLS.fetch_add(1, Relaxed) % u64::from(STREAMS + 1) == u64::from(STREAMS);
        let pieces = if is_small { 1 } else { LEN >> 14 };
        let (tx, body) = Body::channel(Some((pieces << 14) as u64));
        for _ in 0..pieces {
            tx.send(Bytes::from(vec![b'x'; 1 << 14])).unwrap();
        }
        tx.finish(None);
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    for (others, expected) in [(0, 1 << 20), (80 << 20, 64 << 10)] {
        let budget = crate::Budget::builder().soft_limit(64 << 20).build();
        let mut lease = budget.memory_lease();
        lease.set(others);
        let config = Config::new().budget(budget.clone());
        let mut served = serve_piped(4 << 10, streamed, config, DrainWatch::never());
        let mut raw = greedy(&mut served, STREAMS + 1).await;
        let small = STREAMS * 2 + 1;
        within(async {
            while budget.usage().memory - others < expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let held = budget.usage().memory - others;
        assert!(held <= expected + (64 << 10), "{held} of {expected}");
        let (mut received, mut ended, mut before_small) = (0, 0, None);
        while ended < STREAMS + 1 {
            let data = raw.next_of(DATA).await.expect("all responses end");
            received += data.payload.len();
            ended += u32::from(data.flags & END_STREAM != 0);
            if data.stream == small {
                before_small.get_or_insert(received);
            }
        }
        assert_eq!(received, STREAMS as usize * LEN + (16 << 10));
        assert!(before_small.unwrap() < 8 << 20, "a small response does not wait for the others");
        assert_eq!(budget.usage().memory, others);
    }
}

#[tokio::test]
async fn streamed_responses_send_in_turn() {
    let endless = tower::service_fn(|_: Request| async {
        let pieces =
            std::iter::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 << 10])));
        Ok::<_, Infallible>(Response::new(Body::from_stream(tokio_stream::iter(pieces))))
    });
    let budget = crate::Budget::default();
    let config = Config::new().budget(budget.clone());
    let mut served = serve_piped(4 << 10, endless, config, DrainWatch::never());
    let mut raw = greedy(&mut served, 4).await;
    within(async {
        while budget.usage().memory < 1 << 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    raw.write(&frame(HEADERS, END_STREAM | END_HEADERS, 9, GET)).await;
    let mut received = [0; 5];
    while received.iter().sum::<usize>() < 20 << 20 {
        let data = raw.next_of(DATA).await.unwrap();
        received[data.stream as usize / 2] += data.payload.len();
    }
    assert!(received.iter().all(|bytes| *bytes > 2 << 20), "{received:?}");
    assert!(budget.usage().memory < (1 << 20) + (320 << 10), "few pieces are in memory");
}

#[tokio::test(start_paused = true)]
async fn response_that_waited_for_room_may_be_quiet_afterwards() {
    let senders: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let kept = senders.clone();
    let service = tower::service_fn(move |_: Request| {
        let (tx, body) = Body::channel(None);
        for _ in 0..64 {
            tx.send(Bytes::from(vec![b'x'; 16 << 10])).unwrap();
        }
        kept.lock().unwrap().push(tx);
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let mut served = serve_piped(4 << 10, service, Config::new(), DrainWatch::never());
    let mut raw = greedy(&mut served, 5).await;
    let mut received = 0;
    while received < 5 << 20 {
        received += raw.next_of(DATA).await.unwrap().payload.len();
    }
    tokio::time::sleep(600 * SECOND).await; // ten times the timeout of a client that does not read
    for tx in senders.lock().unwrap().drain(..) {
        tx.finish(None);
    }
    for _ in 0..5 {
        let last = raw.next().await.unwrap();
        assert_eq!((last.kind, last.flags & END_STREAM), (DATA, END_STREAM), "{last:?}");
    }
}
