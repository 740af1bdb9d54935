//! A cache around the compression of responses.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use http_body_util::BodyExt;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::{
    Body, BoxError, Request, Response,
    cache::CacheLayer,
    layer::{CompressionLayer, compression::Level},
};

#[tokio::test]
async fn cache_compresses_an_object_once_for_each_coding() {
    let compressed = Arc::new(AtomicUsize::new(0));
    let count = compressed.clone();
    let compression = CompressionLayer::new().level(move |_| {
        count.fetch_add(1, Relaxed);
        Some(Level::Best)
    });
    let page = "a page of the site; ".repeat(500);
    let content = page.clone();
    let site = ServiceBuilder::new().layer(CacheLayer::new()).layer(compression).service(
        service_fn(move |_: Request| {
            let response = Response::builder()
                .header("cache-control", "max-age=1000")
                .header("content-type", "text/html");
            std::future::ready(response.body(Body::from(content.clone())).map_err(BoxError::from))
        }),
    );
    let mut first = std::collections::HashMap::new();
    // Spellings of the same preference share a variant.
    for (accept, coding) in [
        ("gzip", "gzip"),
        ("GZIP;q=1.0", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd, br, gzip", "zstd"),
        ("br", "br"),
        ("identity", ""),
        ("", ""),
    ] {
        for _ in 0..3 {
            let request = Request::get("http://site.example/").header("accept-encoding", accept);
            let request = request.body(Body::empty()).unwrap();
            let response = site.clone().oneshot(request).await.unwrap();
            let encoding = response.headers().get("content-encoding");
            assert_eq!(encoding.map_or("", |value| value.to_str().unwrap()), coding, "{accept}");
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let known = first.entry(coding).or_insert_with(|| bytes.clone());
            assert_eq!(*known, bytes, "the same bytes as for the first client");
            assert_eq!(coding.is_empty(), bytes == page);
        }
    }
    assert_eq!(compressed.load(Relaxed), 4, "gzip, zstd, br and unchanged");
}
