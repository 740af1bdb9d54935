//! Tests all orders of this crate's layers: each gives the right responses.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneService};

use super::support::{exchange, start, statuses, within};
use crate::{
    Request, Response,
    cache::CacheLayer,
    layer::{
        HttpsLayer, RequestBufferLayer, RequestDeadlineLayer, RescueLayer, ResponseBufferLayer,
        https::HSTS_MAX_AGE,
    },
    peer::{Peer, Tls},
    upstream::{HedgeLayer, MirrorLayer},
    worker,
};

type Boxed = BoxCloneService<Request, Response, BoxError>;

/// Applies a layer to a boxed service.
type Wrap = fn(Boxed) -> Boxed;

const LAYERS: [(&str, Wrap); 5] = [
    ("rescue", |s| RescueLayer::new().layer(s).map_err(|e| match e {}).boxed_clone()),
    ("timeout", |s| RequestDeadlineLayer::new(Duration::from_secs(20)).layer(s).boxed_clone()),
    ("cache", |s| CacheLayer::new().layer(s).boxed_clone()),
    ("response", |s| ResponseBufferLayer::new().layer(s).boxed_clone()),
    ("request", |s| RequestBufferLayer::new().max_body(300_000).layer(s).boxed_clone()),
];

/// Returns the layers of order number `n` of the five: `https`, `hedge` and `mirror` stand at each place among them.
fn stack(
    order: &[usize],
    n: usize,
    app: Boxed,
    copies: &Arc<AtomicUsize>,
) -> (Boxed, Vec<&'static str>) {
    let mut names: Vec<_> = order.iter().map(|&i| LAYERS[i].0).collect();
    for (name, at) in [("https", n), ("hedge", n / 6), ("mirror", n / 20)] {
        names.insert(at % (order.len() + 1), name);
    }
    let copies = copies.clone();
    let shadow = service_fn(move |_: Request| {
        copies.fetch_add(1, Relaxed);
        async { Ok::<_, Infallible>(Response::new(crate::Body::from("copy"))) }
    });
    let stack = names.iter().fold(app, |s, &name| match name {
        "https" => HttpsLayer::new().hsts(HSTS_MAX_AGE).layer(s).boxed_clone(),
        "hedge" => HedgeLayer::new(Duration::from_secs(20)).layer(s).boxed_clone(),
        "mirror" => MirrorLayer::new(shadow.clone()).layer(s).boxed_clone(),
        _ => LAYERS.iter().find(|layer| layer.0 == name).unwrap().1(s),
    });
    let stack = stack.map_request(|mut request: Request| {
        request.extensions_mut().insert(Peer::memory().secured(Tls::new("TLSv1.3")));
        request
    });
    (stack.boxed_clone(), names)
}

/// Echoes the body in ten pieces; `/panic` panics.
fn app(request: Request<Bytes>) -> Response {
    assert!(request.uri().path() != "/panic", "expected");
    let body = request.into_body();
    let (tx, out) = crate::Body::channel(None);
    for piece in body.chunks(body.len() / 10 + 1) {
        tx.send(body.slice_ref(piece)).unwrap();
    }
    tx.finish(None);
    Response::new(out)
}

#[tokio::test]
async fn every_order_of_layers_gives_correct_responses() {
    let threads = worker::threads(2, || worker::blocking(app)).start().unwrap();
    let body = "0123456789abcdef".repeat(12_500); // 200 kB
    let requests = [
        format!("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        format!("POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
        "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        // A Content-Length above the limit is refused, and the connection ends.
        "POST /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\nsome".into(),
    ]
    .concat();
    let copies = Arc::new(AtomicUsize::new(0));
    for (n, order) in permutations(LAYERS.len()).iter().enumerate() {
        let (stack, names) = stack(order, n, threads.clone().boxed_clone(), &copies);
        let server = start(stack).await;
        let answer = exchange(server.addr, &requests).await;
        assert_eq!(statuses(&answer), [200, 200, 500, 200, 413], "{names:?}");
        // Both bodies were returned completely, apart from chunk lines.
        assert!(answer.matches("0123456789abcdef").count() >= 2 * 12_400, "{names:?}");
        assert!(answer.contains("strict-transport-security: "), "{names:?}");
        server.stop().await;
    }
    // Both requests without a body were mirrored in each order, by tasks of their own.
    within(async {
        while copies.load(Relaxed) < 2 * 120 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A worker counts a request shortly after its response was sent.
    within(async {
        while threads.stats().busy > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let stats = threads.stats();
    assert_eq!((stats.queued, stats.stuck, stats.panics), (0, 0, 120));
    threads.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// Returns all permutations of `0..n`.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for next in 0..n {
        all = all
            .into_iter()
            .flat_map(|p| {
                (0..=p.len()).map(move |at| {
                    let mut p = p.clone();
                    p.insert(at, next);
                    p
                })
            })
            .collect();
    }
    all
}
