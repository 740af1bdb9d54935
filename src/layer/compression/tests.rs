use std::io::Read;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::{codec::Decoder, *};
use crate::BoxError;

const TEXT: &str = "all work and no play makes a dull page; ";

fn page(n: usize) -> String {
    TEXT.repeat(n)
}

/// A response with these fields.
fn response(fields: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    for (name, value) in fields {
        if *name == "status" {
            *response.status_mut() = value.parse().unwrap();
        } else {
            let name: HeaderName = name.parse().unwrap();
            response.headers_mut().append(name, value.parse().unwrap());
        }
    }
    response
}

async fn ask(
    layer: CompressionLayer,
    request: &[(&str, &str)],
    answer: Response<Body>,
) -> Response<Body> {
    let slot = std::sync::Mutex::new(Some(answer));
    let slot = Arc::new(slot);
    let service = layer.layer(service_fn(move |_: Request| {
        let answer = slot.lock().unwrap().take().unwrap();
        async move { Ok::<_, BoxError>(answer) }
    }));
    let mut asked = http::Request::builder();
    for (name, value) in request {
        asked = if *name == "method" { asked.method(*value) } else { asked.header(*name, *value) };
    }
    service.oneshot(asked.body(Body::empty()).unwrap()).await.unwrap()
}

/// Decodes with another implementation where there is one.
fn decode(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => {
            flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
        }
        other => {
            let coding = if other == "br" { Coding::Brotli } else { Coding::Zstd };
            let (mut decoder, mut text) = (Decoder::new(coding).unwrap(), BytesMut::new());
            assert_eq!(decoder.decode(bytes, &mut text, usize::MAX).unwrap(), bytes.len());
            assert!(decoder.is_done());
            out.extend_from_slice(&text);
        }
    }
    out
}

const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");

#[tokio::test]
async fn response_is_encoded_as_the_client_prefers() {
    for (accept, coding) in [
        ("gzip", "gzip"),
        ("gzip, br", "br"),
        ("gzip, br, zstd", "zstd"),
        ("br;q=0.5, gzip", "gzip"),
        ("x-gzip", "gzip"),
    ] {
        // In one piece, and as a stream.
        for n in [100, 10_000] {
            let answer = response(
                &[HTML, ("content-length", "1"), ("etag", "\"1\""), ("accept-ranges", "bytes")],
                page(n),
            );
            let got = ask(CompressionLayer::new(), &[("accept-encoding", accept)], answer).await;
            let headers = got.headers().clone();
            assert_eq!(
                (&headers["content-encoding"], &headers["vary"], &headers["etag"]),
                (
                    &coding.parse().unwrap(),
                    &"accept-encoding".parse().unwrap(),
                    &"W/\"1\"".parse().unwrap()
                )
            );
            assert!(
                !headers.contains_key("content-length") && !headers.contains_key("accept-ranges")
            );
            assert_eq!(got.body().len().is_some(), n == 100);
            let bytes = got.into_body().collect().await.unwrap().to_bytes();
            assert!(bytes.len() < page(n).len() / 3, "{coding}: {}", bytes.len());
            assert!(decode(coding, &bytes) == page(n).into_bytes(), "{coding}");
        }
    }
}

#[tokio::test]
async fn response_that_should_not_be_encoded_is_left_as_it_is() {
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let gzip: Fields<'_> = &[("accept-encoding", "gzip")];
    let cases: [(Fields<'_>, Fields<'_>, usize, bool); 12] = [
        (&[], &[HTML], 100, true),
        (&[("accept-encoding", "identity")], &[HTML], 100, true),
        (&[("accept-encoding", "gzip;q=0, br;q=0")], &[HTML], 100, true),
        (&[("accept-encoding", "gzip"), ("range", "bytes=0-1")], &[HTML], 100, true),
        (gzip, &[HTML], 20, true),
        (gzip, &[("content-type", "image/png")], 100, false),
        (gzip, &[], 100, false),
        (gzip, &[HTML, ("content-encoding", "br")], 100, false),
        (gzip, &[HTML, ("content-range", "bytes 0-1/2")], 100, false),
        (gzip, &[HTML, ("cache-control", "max-age=1, No-Transform")], 100, false),
        (gzip, &[HTML, ("status", "206")], 100, false),
        (gzip, &[HTML, ("vary", "x, Accept-Encoding")], 20, true),
    ];
    for (request, fields, n, varies) in cases {
        let fields = [fields, &[("etag", "\"1\"")]].concat();
        let got = ask(CompressionLayer::new(), request, response(&fields, page(n))).await;
        let is_named = got
            .headers()
            .get_all("vary")
            .iter()
            .filter(|v| v.to_str().unwrap().to_lowercase().contains("accept-encoding"))
            .count();
        assert_eq!(is_named, usize::from(varies), "{request:?} {fields:?}");
        assert_eq!(got.headers()["etag"], "\"1\"");
        assert_eq!(
            got.into_body().collect().await.unwrap().to_bytes(),
            page(n),
            "{request:?} {fields:?}"
        );
    }
}

#[tokio::test]
async fn head_has_the_fields_of_get_without_content() {
    let fields = &[HTML, ("content-length", "5000")];
    let request = &[("method", "HEAD"), ("accept-encoding", "gzip")];
    let got = ask(CompressionLayer::new(), request, response(fields, Body::empty())).await;
    assert_eq!(got.headers()["content-encoding"], "gzip");
    assert!(!got.headers().contains_key("content-length") && got.body().len() == Some(0));
    let small = &[HTML, ("content-length", "5")];
    let got = ask(CompressionLayer::new(), request, response(small, Body::empty())).await;
    assert_eq!(got.headers()["content-length"], "5");
}

#[tokio::test]
async fn event_is_sent_before_the_next_one_is_written() {
    for coding in ["gzip", "br", "zstd"] {
        let (sender, body) = Body::channel(None);
        let answer = response(&[("content-type", "text/event-stream")], body);
        let got = ask(CompressionLayer::new(), &[("accept-encoding", coding)], answer).await;
        assert_eq!(got.headers()["content-encoding"], coding);
        let mut body = got.into_body();
        let known = [Coding::Gzip, Coding::Brotli, Coding::Zstd];
        let known = known.into_iter().find(|c| c.name() == Some(coding)).unwrap();
        let (mut decoder, mut text) = (Decoder::new(known).unwrap(), BytesMut::new());
        for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            sender.send(Bytes::from(event)).unwrap();
            while !text.ends_with(event.as_bytes()) {
                let read = tokio::time::timeout(std::time::Duration::from_secs(60), body.frame());
                let frame = read.await.expect("the event is held back").unwrap().unwrap();
                let piece = frame.into_data().unwrap();
                assert_eq!(decoder.decode(&piece, &mut text, usize::MAX).unwrap(), piece.len());
            }
        }
        sender.finish(None);
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            decoder.decode(&piece, &mut text, usize::MAX).unwrap();
        }
        assert_eq!(text, "data: one\n\ndata: two\n\ndata: three\n\n", "{coding}");
        assert!(decoder.is_done());
    }
}

#[tokio::test]
async fn trailers_and_errors_of_the_content_pass_through() {
    let (sender, body) = Body::channel(None);
    sender.send(page(100).into()).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x", HeaderValue::from_static("y"));
    sender.finish(Some(trailers.clone()));
    let got =
        ask(CompressionLayer::new(), &[("accept-encoding", "gzip")], response(&[HTML], body)).await;
    let collected = got.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(decode("gzip", &collected.to_bytes()), page(100).as_bytes());

    let (sender, body) = Body::channel(None);
    sender.send(page(100).into()).unwrap();
    drop(sender);
    let got =
        ask(CompressionLayer::new(), &[("accept-encoding", "gzip")], response(&[HTML], body)).await;
    assert!(got.into_body().collect().await.is_err());
}

#[tokio::test]
async fn not_modified_response_has_the_fields_of_the_content_that_the_client_has() {
    for (known, etag, want, varies) in [
        ("W/\"1\"", "\"1\"", "W/\"1\"", true),
        ("\"0\", W/\"1\"", "\"1\"", "W/\"1\"", true),
        ("\"1\"", "\"1\"", "\"1\"", false),
        ("W/\"1\", \"1\"", "\"1\"", "\"1\"", false),
        ("W/\"1\"", "W/\"1\"", "W/\"1\"", false),
        ("W/\"2\"", "\"1\"", "\"1\"", false),
        ("*", "\"1\"", "\"1\"", false),
    ] {
        let request = [("accept-encoding", "gzip"), ("if-none-match", known)];
        let answer = response(&[("status", "304"), ("etag", etag)], Body::empty());
        let got = ask(CompressionLayer::new(), &request, answer).await;
        assert_eq!(got.headers()["etag"], want, "{known} {etag}");
        assert_eq!(got.headers().contains_key("vary"), varies, "{known} {etag}");
    }
    let got = ask(
        CompressionLayer::new(),
        &[("if-none-match", "W/\"1\"")],
        response(&[HTML, ("etag", "\"1\"")], page(100)),
    )
    .await;
    assert_eq!(got.headers()["etag"], "\"1\"", "only in a 304");
}

#[tokio::test]
async fn vary_of_not_modified_response_has_accept_encoding() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    for validator in [("etag", "\"1\""), ("etag", "W/\"1\""), ("last-modified", date)] {
        let answer = response(&[("status", "304"), ("vary", "cookie"), validator], Body::empty());
        let request = [("accept-encoding", "gzip"), ("if-modified-since", date)];
        let got = ask(CompressionLayer::new(), &request, answer).await;
        let vary: Vec<_> = got.headers().get_all("vary").iter().collect();
        assert_eq!(vary, ["cookie", "accept-encoding"], "{validator:?}");
    }
}

#[tokio::test]
async fn head_of_a_service_that_returns_the_content_has_the_fields_of_get() {
    let request = &[("method", "HEAD"), ("accept-encoding", "gzip")];
    let got = ask(CompressionLayer::new(), request, response(&[HTML], page(100))).await;
    assert_eq!(got.headers()["content-encoding"], "gzip");
    assert_eq!(got.body().len(), Some(0), "the length of the identity form would be sent");
    let got = ask(CompressionLayer::new(), request, response(&[HTML], page(1))).await;
    assert!(!got.headers().contains_key("content-encoding"));
    assert_eq!(got.body().len(), Some(TEXT.len() as u64));
}

#[tokio::test]
async fn level_and_pressure_are_chosen_by_the_site() {
    let request = &[("accept-encoding", "gzip")];
    let len = async |level| {
        let layer = CompressionLayer::new().level(move |_| level);
        let answer = response(
            &[("content-type", "x/y")],
            (0..20_000).map(|i| (i * i % 251) as u8).collect::<Vec<_>>(),
        );
        ask(layer, request, answer).await.into_body().collect().await.unwrap().to_bytes().len()
    };
    let (none, fast, best) =
        (len(None).await, len(Some(Level::Fast)).await, len(Some(Level::Best)).await);
    assert!(none == 20_000 && fast < none && best <= fast, "{none} {fast} {best}");
    let busy = CompressionLayer::new().skip_while(|| true);
    let got = ask(busy, request, response(&[HTML], page(100))).await;
    assert!(!got.headers().contains_key("content-encoding") && got.headers().contains_key("vary"));
    let only = CompressionLayer::new().codings([Coding::Identity, Coding::Gzip]);
    let got = ask(
        only,
        &[("accept-encoding", "br, gzip;q=0.1, identity;q=0.01")],
        response(&[HTML], page(100)),
    )
    .await;
    assert_eq!(got.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn padding_changes_the_length_at_random_and_not_the_content() {
    let layer = CompressionLayer::new().random_padding(200);
    let request = &[("accept-encoding", "zstd, br, gzip;q=0.5")];
    let plain =
        ask(CompressionLayer::new(), &[("accept-encoding", "gzip")], response(&[HTML], page(100)));
    let plain = plain.await.into_body().collect().await.unwrap().to_bytes().len();
    let mut lens = std::collections::HashSet::new();
    for i in 0..64 {
        // At once, and in pieces.
        let (sender, channel) = Body::channel(None);
        let body = if i % 2 == 0 { Body::from(page(100)) } else { channel };
        sender.send(page(100).into()).unwrap();
        sender.finish(None);
        let got = ask(layer.clone(), request, response(&[HTML], body)).await;
        assert_eq!(got.headers()["content-encoding"], "gzip");
        let bytes = got.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(decode("gzip", &bytes), page(100).as_bytes());
        let header = flate2::read::GzDecoder::new(&bytes[..]).header().unwrap().clone();
        let padding = header.comment().unwrap().len();
        assert!((1..=200).contains(&padding));
        if i % 2 == 0 {
            assert_eq!(bytes.len(), plain + padding + 1);
        }
        lens.insert(padding);
    }
    assert!(lens.len() > 8, "{lens:?}");
    let only = ask(layer, &[("accept-encoding", "br, zstd")], response(&[HTML], page(100))).await;
    assert!(!only.headers().contains_key("content-encoding"));
}
