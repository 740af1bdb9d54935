use std::io::Write;

use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Sends a body, and returns what the service reads of it.
async fn send(
    layer: RequestDecompressionLayer,
    coding: &str,
    body: Body,
) -> Result<Result<Bytes, BoxError>, StatusCode> {
    let service = layer.layer(service_fn(async |request: Request| {
        assert!(!request.headers().contains_key(CONTENT_ENCODING));
        assert!(!request.headers().contains_key("content-digest"));
        let read = request.into_body().collect().await.map(|body| body.to_bytes());
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(Arc::new(std::sync::Mutex::new(Some(read))));
        Ok::<_, BoxError>(response)
    }));
    let mut request = http::Request::post("/").header("content-length", "1");
    if !coding.is_empty() {
        request =
            request.header("content-encoding", coding).header("content-digest", "sha-256=:YQ==:");
    }
    let response = service.oneshot(request.body(body).unwrap()).await.unwrap();
    type Slot = Arc<std::sync::Mutex<Option<Result<Bytes, BoxError>>>>;
    match response.extensions().get::<Slot>() {
        Some(read) => Ok(read.lock().unwrap().take().unwrap()),
        None => Err(response.status()),
    }
}

use std::sync::Arc;

fn kind(result: Result<Result<Bytes, BoxError>, StatusCode>) -> Kind {
    Error::find(&*result.unwrap().unwrap_err()).unwrap().kind()
}

#[tokio::test]
async fn body_is_decoded_whole_or_in_pieces() {
    let text = "name=value&".repeat(20_000);
    let encoded = gzip(text.as_bytes());
    for coding in ["gzip", "X-Gzip"] {
        let layer = RequestDecompressionLayer::new().max_ratio(1000);
        assert!(send(layer, coding, encoded.clone().into()).await.unwrap().unwrap() == text);
    }
    let (sender, body) = Body::channel(None);
    for byte in encoded.chunks(1) {
        sender.send(Bytes::copy_from_slice(byte)).unwrap();
    }
    sender.finish(None);
    let layer = RequestDecompressionLayer::new().max_ratio(1000);
    assert!(send(layer, "gzip", body).await.unwrap().unwrap() == text);
    // "hi" as a meta-block, and as a raw block in a single segment.
    let br = b"\x8b\x00\x80hi\x03";
    let zstd = b"\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00hi";
    for (coding, bytes) in [("br", &br[..]), ("zstd", zstd), ("", b"hi")] {
        let body = send(RequestDecompressionLayer::new(), coding, bytes.to_vec().into()).await;
        assert_eq!(body.unwrap().unwrap(), "hi", "{coding}");
    }
    assert_eq!(
        send(RequestDecompressionLayer::new(), "gzip", Body::empty()).await.unwrap().unwrap(),
        ""
    );
}

#[tokio::test]
async fn bomb_is_refused_at_its_bounds() {
    let zeros = |n: usize| gzip(&vec![0; n]);
    let layer = RequestDecompressionLayer::new();
    assert_eq!(kind(send(layer, "gzip", zeros(100 << 20).into()).await), Kind::TooLarge);
    let small = layer.max_decoded(1000);
    assert_eq!(send(small, "gzip", zeros(1000).into()).await.unwrap().unwrap().len(), 1000);
    assert_eq!(kind(send(small, "gzip", zeros(1001).into()).await), Kind::TooLarge);
    // A few bytes may have any ratio.
    assert!(send(layer, "gzip", zeros(65_536).into()).await.unwrap().is_ok());
    assert_eq!(kind(send(layer, "gzip", zeros(65_537).into()).await), Kind::TooLarge);
    assert!(send(layer.max_ratio(2000), "gzip", zeros(1 << 20).into()).await.unwrap().is_ok());
}

#[tokio::test]
async fn members_of_a_body_are_decoded_one_after_the_other() {
    let layer = RequestDecompressionLayer::new();
    let long = "long ".repeat(30_000);
    let mut members = [&b"some "[..], b"", b"text ", long.as_bytes()].map(gzip).concat();
    let all = format!("some text {long}");
    let in_pieces = |bytes: &[u8]| {
        let (sender, body) = Body::channel(None);
        for byte in bytes.chunks(1) {
            sender.send(Bytes::copy_from_slice(byte)).unwrap();
        }
        sender.finish(None);
        body
    };
    let ratio = layer.max_ratio(10_000);
    assert!(send(ratio, "gzip", members.clone().into()).await.unwrap().unwrap() == all);
    assert!(send(ratio, "gzip", in_pieces(&members)).await.unwrap().unwrap() == all);
    let zstd = b"\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00hi".repeat(2);
    assert_eq!(send(layer, "zstd", in_pieces(&zstd)).await.unwrap().unwrap(), "hihi");
    // The bounds apply to all members together.
    let body = members.clone().into();
    assert_eq!(kind(send(ratio.max_decoded(150_000), "gzip", body).await), Kind::TooLarge);
    members.truncate(members.len() - 1);
    assert_eq!(kind(send(ratio, "gzip", members.into()).await), Kind::BadRequest);
    let br = b"\x8b\x00\x80hi\x03".repeat(2);
    assert_eq!(kind(send(layer, "br", br.into()).await), Kind::BadRequest);
}

#[tokio::test]
async fn malformed_body_and_unknown_coding_are_refused() {
    let layer = RequestDecompressionLayer::new();
    let whole = gzip(b"some text");
    let mut longer = whole.clone();
    longer.extend(b"more");
    for bytes in [whole[..whole.len() - 1].to_vec(), b"plain text".to_vec(), longer] {
        assert_eq!(kind(send(layer, "gzip", bytes.into()).await), Kind::BadRequest);
    }
    for coding in ["deflate", "gzip, gzip", "compress"] {
        let status = send(layer, coding, "x".into()).await.unwrap_err();
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding}");
    }
}
