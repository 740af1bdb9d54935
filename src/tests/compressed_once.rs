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

#[tokio::test]
async fn revalidated_response_is_not_sent_in_a_coding_that_the_client_does_not_accept() {
    let page = "a page of the site; ".repeat(500);
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for validator in [("etag", "\"1\""), ("etag", "W/\"1\""), ("last-modified", date)] {
        let content = page.clone();
        // The 304 has its own `Vary`, which replaces the stored one.
        let app = service_fn(move |request: Request| {
            let is_known = request.headers().keys().any(|name| name.as_str().starts_with("if-"));
            let response = Response::builder()
                .status(if is_known { 304 } else { 200 })
                .header("cache-control", "max-age=0")
                .header(validator.0, validator.1)
                .header("vary", "cookie");
            let response = match is_known {
                true => response.body(Body::empty()),
                false => response.header("content-type", "text/html").body(content.clone().into()),
            };
            std::future::ready(response.map_err(BoxError::from))
        });
        let layers = ServiceBuilder::new().layer(CacheLayer::new()).layer(CompressionLayer::new());
        let site = layers.service(app);
        for (accept, coding) in [("gzip", Some("gzip")), ("gzip", Some("gzip")), ("identity", None)]
        {
            let request = Request::get("http://site.example/").header("accept-encoding", accept);
            let request = request.body(Body::empty()).unwrap();
            let response = site.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let encoding = response.headers().get("content-encoding");
            assert_eq!(encoding.map(|value| value.to_str().unwrap()), coding, "{validator:?}");
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(bytes == page, coding.is_none(), "{validator:?}");
        }
    }
}
