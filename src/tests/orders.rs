//! Tests that the layers of this crate give the same responses in every order.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneService};

use super::support::{exchange, start, statuses, within};
use crate::{
    Request, Response,
    cache::CacheLayer,
    layer::{
        AccessLayer, BasicAuthLayer, EarlyDataLayer, EditFieldsLayer, ErrorPagesLayer,
        ForwardAuthLayer, HttpsLayer, RedirectLayer, RequestBufferLayer, RequestDeadlineLayer,
        RescueLayer, ResponseBufferLayer, RewritePathLayer, https::HSTS_MAX_AGE,
    },
    peer::{Peer, Tls},
    upstream::{ConnectLayer, HedgeLayer, MirrorLayer},
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

/// Returns the layers in order number `n`, with `https`, `hedge`, `mirror`, `connect` and both codings inserted at positions
/// that depend on `n`.
fn stack(
    order: &[usize],
    n: usize,
    app: Boxed,
    copies: &Arc<AtomicUsize>,
) -> (Boxed, Vec<&'static str>) {
    let mut names: Vec<_> = order.iter().map(|&i| LAYERS[i].0).collect();
    let more = [("https", n), ("hedge", n / 6), ("mirror", n / 20), ("connect", n / 3)];
    #[cfg(feature = "compression")]
    let more = more.into_iter().chain([("compress", n / 2), ("decompress", n / 7)]);
    for (name, at) in more {
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
        "connect" => ConnectLayer::new().layer(s).boxed_clone(),
        "mirror" => MirrorLayer::new(shadow.clone()).layer(s).boxed_clone(),
        #[cfg(feature = "compression")]
        "compress" => crate::layer::CompressionLayer::new().layer(s).boxed_clone(),
        #[cfg(feature = "compression")]
        "decompress" => crate::layer::RequestDecompressionLayer::new().layer(s).boxed_clone(),
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

/// Layers that inspect or change heads. Each allows the requests of the test below.
const HEADS: [(&str, Wrap); 6] = [
    ("access", |s| AccessLayer::new().allow_others(true).layer(s).boxed_clone()),
    ("redirect", |s| {
        let layer = RedirectLayer::new().redirect(StatusCode::FOUND, "/old/{x}", "/new/{x}");
        layer.unwrap().layer(s).boxed_clone()
    }),
    ("rewrite", |s| {
        let layer = RewritePathLayer::new().rewrite("/v1/{*rest}", "/{rest}");
        layer.unwrap().layer(s).boxed_clone()
    }),
    ("fields", |s| EditFieldsLayer::new().remove_dangerous().add_security().layer(s).boxed_clone()),
    ("pages", |s| ErrorPagesLayer::new().page(404, "page").layer(s).boxed_clone()),
    ("auth", |s| {
        let authorizer =
            service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(crate::Body::empty())));
        ForwardAuthLayer::new(authorizer, "/check").layer(s).boxed_clone()
    }),
];

/// Layers that are inserted at each position among [`HEADS`].
const INSERTED: &[(&str, Wrap)] = &[
    ("basic", |s| BasicAuthLayer::new("realm").user("a", "b").layer(s).boxed_clone()),
    ("early", |s| EarlyDataLayer::new().layer(s).boxed_clone()),
    #[cfg(feature = "hyper")]
    ("upgrade", |s| crate::layer::HyperUpgradeLayer::new().layer(s).boxed_clone()),
    #[cfg(feature = "redis")]
    ("rate", |s| {
        // Redis is unreachable, so the limit of the front alone applies.
        let minute = Duration::from_secs(60);
        let url = "redis+unix:///nowhere";
        let limit = crate::layer::SharedRateLimitLayer::builder(url, 1, minute, 100);
        limit.per_key(|_| Some(String::new())).unwrap().layer(s).boxed_clone()
    }),
];

#[tokio::test]
async fn every_order_of_layers_on_heads_gives_correct_responses() {
    for (n, order) in permutations(HEADS.len()).into_iter().enumerate() {
        let mut layers: Vec<_> = order.iter().map(|&i| HEADS[i]).collect();
        for (i, layer) in (1..).zip(INSERTED) {
            layers.insert(n / i % (layers.len() + 1), *layer);
        }
        let names: Vec<_> = layers.iter().map(|layer| layer.0).collect();
        let app = service_fn(async |request: Request| {
            assert!(!request.headers().contains_key("proxy"));
            let status = if request.uri() == "/a?q" { 200 } else { 404 };
            let response = Response::builder().status(status).header("x-powered-by", "app");
            Ok::<_, BoxError>(response.body(crate::Body::from("app"))?)
        });
        let app = crate::layer::MaintenanceLayer::new("closed").layer(app);
        let stack = layers.iter().fold(app.boxed_clone(), |s, layer| layer.1(s));
        for (path, status, body) in
            [("/v1/a?q", 200, &b"app"[..]), ("/b", 404, b"page"), ("/old/a", 302, b"")]
        {
            let request = Request::get(path).header("accept", "text/html").header("proxy", "x");
            let request = request.header("authorization", "Basic YTpi");
            let request = request.body(crate::Body::empty()).unwrap();
            let response = stack.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{names:?} {path}");
            assert_eq!(response.body().as_bytes().unwrap_or_default(), body, "{names:?} {path}");
            assert!(!response.headers().contains_key("x-powered-by"), "{names:?} {path}");
        }
    }
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
