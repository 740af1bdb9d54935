//! Options of connections at their extremes.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    conn::{Http1Config, Http2Config},
    net::Gate,
    peer::MinRate,
    proto::{h1::Limits, h2::FrameLimits},
};

const ZERO: Duration = Duration::ZERO;
const MAX: Duration = Duration::MAX;

/// Returns one configuration for each option, at its maximum or at zero, with the name of the option.
fn configs(is_max: bool) -> Vec<(&'static str, Config)> {
    let time = if is_max { MAX } else { ZERO };
    let bytes = if is_max { usize::MAX } else { 0 };
    let long = if is_max { u64::MAX } else { 0 };
    let n = if is_max { u32::MAX } else { 0 };
    let config = Config::new;
    let limited = |limits: Limits| Config::new().limits(limits);
    let http1 = |http1: Http1Config| Config::new().http1(http1);
    let http2 = |http2: Http2Config| Config::new().http2(http2);
    let frames = FrameLimits {
        pings: n,
        settings: n,
        resets: n,
        empty_data: n,
        continuations: n,
        priorities: n,
        window_updates: n,
        unknown: n,
    };
    vec![
        ("ready_timeout", config().ready_timeout(time)),
        ("answer_timeout", config().answer_timeout(time)),
        ("write_timeout", config().write_timeout(time)),
        ("grace of write_rate", config().write_rate(MinRate::new(1, time))),
        ("gate", config().gate(Gate::always_open().total(bytes))),
        ("head_bytes", limited(Limits::new().max_head_bytes(bytes))),
        ("start_line_bytes", limited(Limits::new().max_start_line_bytes(bytes))),
        ("method_bytes", limited(Limits::new().max_method_bytes(bytes))),
        ("fields", limited(Limits::new().max_fields(bytes))),
        ("name_bytes", limited(Limits::new().max_name_bytes(bytes))),
        ("chunk_extension_bytes", limited(Limits::new().max_chunk_extension_bytes(bytes))),
        ("trailer_bytes", limited(Limits::new().max_trailer_bytes(bytes))),
        ("interim_responses", limited(Limits::new().max_interim_responses(bytes))),
        ("head_timeout", limited(Limits::new().head_timeout(time))),
        ("idle_timeout", limited(Limits::new().idle_timeout(time))),
        ("body_timeout", limited(Limits::new().body_timeout(time))),
        ("grace of body_rate", limited(Limits::new().body_rate(MinRate::new(1, time)))),
        ("body_total_timeout", limited(Limits::new().body_total_timeout(time))),
        ("discard_bytes", http1(Http1Config::new().discard_bytes(long))),
        ("linger", http1(Http1Config::new().linger(time))),
        ("linger_bytes", http1(Http1Config::new().linger_bytes(long))),
        ("read_ahead", http1(Http1Config::new().read_ahead(bytes))),
        ("half_close", http1(Http1Config::new().half_close(time))),
        ("max_streams", http2(Http2Config::new().max_streams(n))),
        ("stream_window", http2(Http2Config::new().stream_window(n))),
        ("connection_window", http2(Http2Config::new().connection_window(n))),
        ("send_buffer", http2(Http2Config::new().send_buffer(bytes))),
        ("frames", http2(Http2Config::new().frames(frames))),
        ("linger over HTTP/2", http2(Http2Config::new().linger(time))),
        ("linger_bytes over HTTP/2", http2(Http2Config::new().linger_bytes(long))),
    ]
}

/// Responds with the request's body, in two pieces and with trailers.
fn echo() -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    tower::service_fn(async |request: Request| {
        let body = request.into_body().collect().await?.to_bytes();
        let (tx, streamed) = Body::channel(None);
        let middle = body.len() / 2;
        tx.send(body.slice(..middle)).unwrap();
        tx.send(body.slice(middle..)).unwrap();
        tx.finish(Some(http::HeaderMap::from_iter([(
            http::HeaderName::from_static("x-sum"),
            http::HeaderValue::from_static("7"),
        )])));
        Ok::<_, crate::BoxError>(Response::new(streamed))
    })
}

/// Has a request served over HTTP/1.1. Returns whether its body came back, after the end of the connection.
async fn is_served_http1(config: Config) -> bool {
    let mut served = serve(echo(), config);
    let head =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let _ = served.client.write_all(head.as_bytes()).await;
    tokio::task::yield_now().await; // so that the body comes by itself
    let _ = served.client.write_all(b"4;a=b\r\nbody\r\n0\r\nx-a: 1\r\n\r\n").await;
    let mut answer = String::new();
    let _ = within(served.client.read_to_string(&mut answer)).await;
    drop(served.client);
    let _ = within(served.task).await.expect("it does not panic");
    answer.starts_with("HTTP/1.1 200 ") && answer.contains("bo") && answer.contains("dy")
}

/// The same over HTTP/2.
async fn is_served_http2(config: Config) -> bool {
    let served = serve(echo(), config);
    let is_served = within(async {
        let (client, connection) = h2::client::handshake(served.client).await.ok()?;
        let connection = tokio::spawn(connection);
        let mut client = client.ready().await.ok()?;
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut stream) = client.send_request(request, false).ok()?;
        stream.send_data("body".into(), true).ok()?;
        let answer = match response.await {
            Ok(response) => read(response).await.ok(),
            Err(_) => None,
        };
        drop((client, stream));
        connection.await.unwrap().ok()?;
        Some(answer? == "body")
    });
    let is_served = is_served.await.unwrap_or(false);
    let _ = within(served.task).await.expect("it does not panic");
    is_served
}

#[tokio::test(start_paused = true)]
async fn connection_whose_option_is_at_its_maximum_serves_requests() {
    for (option, config) in configs(true) {
        assert!(is_served_http1(config.clone()).await, "{option}");
        assert!(is_served_http2(config).await, "{option}, HTTP/2");
    }
}

/// Options that leave no room, or no time, for a request if they are zero.
const REFUSES: [&str; 11] = [
    "head_bytes",
    "start_line_bytes",
    "method_bytes",
    "fields",
    "name_bytes",
    "chunk_extension_bytes",
    "trailer_bytes",
    "body_timeout",
    "grace of body_rate",
    "body_total_timeout",
    "frames",
];

#[tokio::test(start_paused = true)]
async fn connection_whose_option_is_zero_serves_or_refuses_requests() {
    for (option, config) in configs(false) {
        let is_served = [is_served_http1(config.clone()).await, is_served_http2(config).await];
        assert!(REFUSES.contains(&option) || is_served == [true; 2], "{option}: {is_served:?}");
    }
}
