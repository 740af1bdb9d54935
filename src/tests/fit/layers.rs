//! Tests of this crate's layers over axum and tower-http, inside axum, and between layers of tower-http.

use std::{net::IpAddr, time::Duration};

use axum::{Router, routing::post};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue,
    header::{ACCEPT_ENCODING, AUTHORIZATION, SERVER},
};
use http_body_util::{BodyExt, Full};
use tower::{
    Layer, ServiceBuilder, ServiceExt, limit::ConcurrencyLimit, service_fn, util::MapRequestLayer,
};
use tower_http::{
    compression::CompressionLayer,
    cors::CorsLayer,
    decompression::RequestDecompressionLayer,
    limit::RequestBodyLimitLayer,
    request_id::{MakeRequestUuid, SetRequestIdLayer},
    services::ServeDir,
    set_header::{SetRequestHeaderLayer, SetResponseHeaderLayer},
    trace::TraceLayer,
};

use crate::{
    Body, BoxError, HttpService, Request,
    body::HttpBody,
    cache::CacheLayer,
    layer::{
        AccessLayer, BandwidthLayer, BasicAuthLayer, ClientField, ClientRateLimitLayer,
        ConcurrencyLimitLayer, DisconnectLayer, EarlyDataLayer, EditFieldsLayer, ErrorPagesLayer,
        ForwardAuthLayer, HttpsLayer, InFlightLayer, MaintenanceLayer, Next, RedirectLayer,
        RequestBufferLayer, RequestDeadlineLayer, RescueExt, RescueLayer, ResponseBufferLayer,
        RewritePathLayer, TrustedProxyLayer, from_fn, https::HSTS_MAX_AGE,
    },
    peer::{Peer, Tls},
    tests::support::{exchange, start, statuses, within},
    upstream::{ConnectLayer, ForwardLayer, HedgeLayer, MirrorLayer, RetryLayer},
};

#[cfg(feature = "hyper")]
use crate::layer::HyperUpgradeLayer;
#[cfg(feature = "compression")]
use crate::layer::{
    CompressionLayer as OurCompressionLayer, RequestDecompressionLayer as OurDecompressionLayer,
};

const MINUTE: Duration = Duration::from_secs(60);

/// An axum application that echoes the request body.
fn echo() -> Router {
    Router::new().route("/", post(async |body: String| body))
}

/// Returns the peer of a connection with TLS.
fn secure() -> Peer {
    Peer::memory().secured(Tls::new("TLSv1.3"))
}

/// Sends `body` to `service` and returns the response's body.
async fn send<S, B>(service: S, body: B) -> String
where
    S: HttpService<B>,
    B: HttpBody,
    S::ResponseBody: HttpBody,
{
    let request = Request::post("/").extension(secure()).body(body).unwrap();
    let Ok(response) = service.oneshot(request).await.map_err(Into::<BoxError>::into) else {
        panic!("the service failed");
    };
    assert_eq!(response.status(), 200);
    let Ok(body) = response.into_body().collect().await.map_err(Into::<BoxError>::into) else {
        panic!("the body failed");
    };
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

/// Sends `text` as a body with the coding gzip, and returns the response's body.
async fn send_gzip<S: HttpService>(service: S, text: &str) -> String {
    // A stored block of deflate: no compressor is needed.
    let (len, bytes) = (u16::try_from(text.len()).unwrap(), text.as_bytes());
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    body.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
    body.extend(bytes);
    body.extend(crc32(bytes).to_le_bytes());
    body.extend(u32::from(len).to_le_bytes());
    let encode = SetRequestHeaderLayer::overriding(
        http::header::CONTENT_ENCODING,
        HeaderValue::from_static("gzip"),
    );
    send(encode.layer(service), Body::from(body)).await
}

/// The checksum of gzip (RFC 1952 section 8).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// Asserts that each layer of another crate fits between two layers of this crate.
macro_rules! between {
    ($ours:expr, $($foreign:expr,)*) => {$(
        let stack = $ours.layer($foreign.layer($ours.layer(echo())));
        assert_eq!(send(stack, Body::from("between")).await, "between");
    )*};
}

/// Asserts that `layer` fits over an axum router, over a tower-http service, over itself, inside an axum router, and between
/// layers of tower-http, with requests with a body of this crate, of axum, and of another crate.
macro_rules! fits {
    ($layer:expr) => {{
        let layer = $layer;
        let app = || layer.layer(echo());
        assert_eq!(send(app(), Body::from("ours")).await, "ours");
        assert_eq!(send(app(), axum::body::Body::from("axum's")).await, "axum's");
        assert_eq!(send(app(), Full::new(Bytes::from("foreign"))).await, "foreign");
        let cors = layer.layer(CorsLayer::permissive().layer(echo()));
        assert_eq!(send(cors, Body::from("cors")).await, "cors");
        let twice = layer.layer(layer.layer(echo()));
        assert_eq!(send(twice, Body::from("twice")).await, "twice");
        let fallible = service_fn(async |request: Request| {
            let body = request.into_body().collect().await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(http::Response::new(Full::new(body.to_bytes())))
        });
        assert_eq!(send(layer.layer(fallible), Body::from("fallible")).await, "fallible");
        let compressed = layer.layer(RequestDecompressionLayer::new().layer(layer.layer(echo())));
        assert_eq!(send_gzip(compressed, "gzip").await, "gzip");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.txt"), "file").unwrap();
        let request = Request::get("/a.txt").extension(secure()).body(Body::empty()).unwrap();
        let response = layer.layer(ServeDir::new(directory.path())).oneshot(request).await;
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "file");
        between!(
            layer,
            CompressionLayer::new(),
            CorsLayer::permissive(),
            SetRequestIdLayer::new(HeaderName::from_static("x-request-id"), MakeRequestUuid),
            SetResponseHeaderLayer::overriding(SERVER, HeaderValue::from_static("a")),
            TraceLayer::new_for_http(),
            RequestBodyLimitLayer::new(1 << 20),
            RequestDecompressionLayer::new(),
        );
        // Panics in a call without readiness, and waits for ever for a permit that a handle keeps.
        let limited = layer.layer(ConcurrencyLimit::new(echo(), 1));
        for _ in 0..3 {
            assert_eq!(within(send(limited.clone(), Body::from("ready"))).await, "ready");
        }
        let nested = Router::new().fallback_service(layer.layer(echo()).infallible());
        assert_eq!(send(nested, Body::from("nested")).await, "nested");
        let foreign = ServiceBuilder::new()
            .layer(TraceLayer::new_for_http())
            .layer(CompressionLayer::new())
            .layer(RequestBodyLimitLayer::new(1 << 20))
            .layer(&layer)
            .layer(CompressionLayer::new())
            .layer(TraceLayer::new_for_http());
        assert_eq!(send(foreign.service(echo()), Body::from("amid")).await, "amid");
        let inside = echo().layer(ServiceBuilder::new().layer(RescueLayer::new()).layer(layer));
        assert_eq!(send(inside, Body::from("inside")).await, "inside");
    }};
}

#[tokio::test]
async fn rescue_layer_fits() {
    fits!(RescueLayer::new());
}

#[tokio::test]
async fn connect_layer_fits() {
    fits!(ConnectLayer::new());
}

#[tokio::test]
async fn bandwidth_layer_fits() {
    fits!(BandwidthLayer::new(1 << 30));
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn compression_layer_fits() {
    fits!(OurCompressionLayer::new());
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn decompression_layer_fits() {
    fits!(OurDecompressionLayer::new());
}

#[tokio::test]
async fn cache_layer_fits() {
    fits!(CacheLayer::new());
}

#[tokio::test]
async fn timeout_layer_fits() {
    fits!(RequestDeadlineLayer::new(MINUTE));
}

#[tokio::test]
async fn request_buffer_layer_fits() {
    fits!(RequestBufferLayer::new());
}

#[tokio::test]
async fn response_buffer_layer_fits() {
    fits!(ResponseBufferLayer::new());
}

#[tokio::test]
async fn concurrency_limit_layer_fits() {
    fits!(ConcurrencyLimitLayer::new(2));
}

#[tokio::test]
async fn in_flight_limit_layer_fits() {
    fits!(InFlightLayer::<IpAddr>::per_ip(2));
}

#[tokio::test]
async fn rate_limit_layer_fits() {
    fits!(ClientRateLimitLayer::<IpAddr>::per_ip(100, MINUTE, 100));
}

#[tokio::test]
async fn disconnect_layer_fits() {
    fits!(DisconnectLayer::finish());
}

#[tokio::test]
async fn trusted_proxy_layer_fits() {
    fits!(TrustedProxyLayer::new(ClientField::XForwardedFor).trust("10.0.0.0/8".parse().unwrap()));
}

#[tokio::test]
async fn https_layer_fits() {
    fits!(HttpsLayer::new().hsts(HSTS_MAX_AGE));
}

#[tokio::test]
async fn hedge_layer_fits() {
    fits!(HedgeLayer::new(MINUTE));
}

#[tokio::test]
async fn retry_layer_fits() {
    fits!(RetryLayer::new());
}

#[tokio::test]
async fn forward_layer_fits() {
    fits!(ForwardLayer::new());
}

#[tokio::test]
async fn middleware_from_fn_fits() {
    fits!(from_fn(|request: Request, next: Next| async move { next.run(request).await }));
}

#[tokio::test]
async fn mirror_layer_fits() {
    fits!(MirrorLayer::new(echo()));
}

#[tokio::test]
async fn access_layer_fits() {
    fits!(AccessLayer::new().allow_others(true));
}

#[tokio::test]
async fn basic_auth_layer_fits() {
    let credentials = HeaderValue::from_static("Basic YTpi");
    let client = SetRequestHeaderLayer::overriding(AUTHORIZATION, credentials);
    let auth = BasicAuthLayer::new("a").user("a", "b");
    fits!(ServiceBuilder::new().layer(client).layer(auth).into_inner());
}

#[tokio::test]
async fn edit_fields_layer_fits() {
    fits!(EditFieldsLayer::new().remove_dangerous().add_security());
}

#[tokio::test]
async fn error_pages_layer_fits() {
    fits!(ErrorPagesLayer::new().pages(400..=599, "page"));
}

#[tokio::test]
async fn forward_auth_layer_fits() {
    let authorizer = service_fn(async |_: Request| {
        Ok::<_, BoxError>(http::Response::new(Full::<Bytes>::default()))
    });
    fits!(ForwardAuthLayer::new(authorizer, "/check"));
}

#[tokio::test]
async fn maintenance_layer_fits() {
    fits!(EarlyDataLayer::new());
    fits!(MaintenanceLayer::new("page"));
}

#[tokio::test]
async fn redirect_and_rewrite_layers_fit() {
    fits!(RedirectLayer::new().redirect(http::StatusCode::FOUND, "/old", "/new").unwrap());
    fits!(RewritePathLayer::new().rewrite("/v1/{*rest}", "/{rest}").unwrap());
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn shared_rate_limit_layer_fits() {
    // Redis is unreachable, so the limit of the front alone applies.
    let builder =
        crate::layer::SharedRateLimitLayer::builder("redis+unix:///nowhere", 1, MINUTE, 100);
    fits!(builder.per_key(|_| Some(String::new())).unwrap());
}

/// Returns an axum router in all layers of this crate, with a layer of tower-http between any two.
fn interleaved<B: HttpBody>() -> impl HttpService<B, Future: Send> + Clone + Send + Sync {
    let id = HeaderName::from_static("x-request-id");
    let mark = |name| {
        let value = HeaderValue::from_static("set");
        SetResponseHeaderLayer::overriding(HeaderName::from_static(name), value)
    };
    ServiceBuilder::new()
        .layer(TrustedProxyLayer::new(ClientField::XForwardedFor).trust_unix())
        .layer(TraceLayer::new_for_http())
        .layer(HttpsLayer::new())
        .layer(RescueLayer::new())
        .layer(CorsLayer::permissive())
        .layer(ClientRateLimitLayer::per_ip(100, MINUTE, 100))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .layer(InFlightLayer::per_ip(9))
        .layer(CompressionLayer::new())
        .layer(ResponseBufferLayer::new())
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .layer(RequestBufferLayer::new())
        .layer(RequestDecompressionLayer::new())
        .layer(DisconnectLayer::detach())
        .layer(mark("x-inner"))
        .layer(MirrorLayer::new(echo()))
        .layer(mark("x-mirrored"))
        .layer(HedgeLayer::new(MINUTE))
        .layer(mark("x-hedged"))
        .layer(ConcurrencyLimitLayer::new(9))
        .layer(mark("x-innermost"))
        .layer(RequestDeadlineLayer::new(MINUTE))
        .service(echo())
}

#[tokio::test]
async fn layers_stand_between_layers_of_tower_http() {
    let text = "a body long enough to be compressed ".repeat(100);
    assert_eq!(send(interleaved(), axum::body::Body::from(text.clone())).await, text);

    let request = Request::post("/").extension(secure());
    let mut request = request.body(axum::body::Body::from(text.clone())).unwrap();
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let Ok(response) = interleaved().oneshot(request).await.map_err(Into::<BoxError>::into) else {
        panic!("the stack failed");
    };
    let headers = response.headers();
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(headers["x-inner"] == "set" && headers["x-innermost"] == "set");
    let Ok(body) = response.into_body().collect().await.map_err(Into::<BoxError>::into) else {
        panic!("the body failed");
    };
    assert!(body.to_bytes().len() < text.len() / 2);
}

#[tokio::test]
async fn interleaved_layers_are_served_and_mount_inside_axum() {
    let request =
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let secured = MapRequestLayer::new(|mut request: Request| {
        request.extensions_mut().insert(secure());
        request
    });
    let server = start(secured.layer(interleaved())).await;
    let answer = exchange(server.addr, request).await;
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.ends_with("hello"), "{answer}");
    server.stop().await;

    let site = Router::new().nest_service("/echo", interleaved().infallible());
    let request = Request::post("/echo").extension(secure());
    let request = request.body(axum::body::Body::from("nested")).unwrap();
    let body = site.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "nested");
}

#[tokio::test]
async fn axum_router_takes_rescued_buffers_as_its_layer() {
    let buffers = ServiceBuilder::new()
        .layer(RescueLayer::new())
        .layer(ResponseBufferLayer::new())
        .layer(RequestBufferLayer::new().max_body(10));
    let app = echo().layer(buffers);
    assert_eq!(send(app.clone(), Body::from("small")).await, "small");
    let request = Request::post("/").body(Body::from("larger than ten bytes")).unwrap();
    assert_eq!(app.oneshot(request).await.unwrap().status(), 413);
}

#[tokio::test]
async fn axum_router_stands_in_for_the_site_of_the_readme() {
    let front = ServiceBuilder::new()
        .layer(RescueLayer::new())
        .layer(ResponseBufferLayer::new())
        .layer(RequestBufferLayer::new())
        .layer(RequestDeadlineLayer::new(MINUTE))
        .service(echo());
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                   Connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let server = start(front).await;
    let answer = exchange(server.addr, request).await;
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    server.stop().await;
}

#[cfg(feature = "hyper")]
#[tokio::test]
async fn hyper_upgrade_fits() {
    fits!(HyperUpgradeLayer::new());
}
