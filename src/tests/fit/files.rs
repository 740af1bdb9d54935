//! Tests of files under axum and tower-http, and over them.

use axum::{Router, response::IntoResponse, routing::get};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::CorsLayer,
    decompression::RequestDecompressionLayer,
    limit::RequestBodyLimitLayer,
    request_id::{MakeRequestUuid, SetRequestIdLayer},
    services::ServeDir,
    set_header::SetResponseHeaderLayer,
    trace::TraceLayer,
};

use crate::{
    Body, BoxError, HttpService, Request,
    files::{self, DirBuilder, XAccelRedirectLayer},
    layer::{RescueLayer, RewritePathLayer},
};

/// Creates a directory with `a.txt`, the large `b.txt` and `docs/index.html`.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), "small").unwrap();
    std::fs::write(directory.path().join("b.txt"), "b".repeat(100_000)).unwrap();
    std::fs::create_dir(directory.path().join("docs")).unwrap();
    std::fs::write(directory.path().join("docs/index.html"), "index").unwrap();
    directory
}

/// An application that names a file for `/report`, and greets on other paths.
fn app() -> Router {
    Router::new()
        .route("/report", get(async || ([("x-accel-redirect", "/a.txt")], "not this")))
        .route("/hello", get(async || "hello").post(async |body: String| body))
        .fallback(async || (StatusCode::IM_A_TEAPOT, "none").into_response())
}

/// Sends a request and returns status and body of the response.
async fn send<S, B>(service: S, request: Request<B>) -> (u16, String)
where
    S: HttpService<B>,
{
    let (status, headers, body) = respond(service, request).await;
    assert!(!headers.contains_key("x-accel-redirect"));
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn respond<S, B>(service: S, request: Request<B>) -> (u16, http::HeaderMap, Bytes)
where
    S: HttpService<B>,
{
    let Ok(response) = service.oneshot(request).await.map_err(Into::<BoxError>::into) else {
        panic!("the service failed");
    };
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await.map_err(Into::<BoxError>::into) else {
        panic!("the body failed");
    };
    (head.status.as_u16(), head.headers, body.to_bytes())
}

/// Returns a GET request with a `Body` of this crate.
fn ours(path: &str) -> Request {
    Request::get(path).body(Body::empty()).unwrap()
}

/// Returns a GET request with a body of axum.
fn axums(path: &str) -> Request<axum::body::Body> {
    Request::get(path).body(axum::body::Body::empty()).unwrap()
}

/// Returns a request with a body of another crate.
fn foreign(method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn dir_mounts_inside_axum() {
    let directory = directory();
    let files = RescueLayer::new().layer(files::dir(directory.path()));
    let site = app().nest_service("/static", files);
    assert_eq!(send(site.clone(), axums("/static/a.txt")).await, (200, "small".into()));
    assert_eq!(send(site.clone(), axums("/static/b.txt")).await, (200, "b".repeat(100_000)));
    assert_eq!(send(site.clone(), axums("/static/none")).await.0, 404);
    assert_eq!(send(site.clone(), foreign("POST", "/static/a.txt", "form")).await.0, 405);
    assert_eq!(send(site.clone(), ours("/hello")).await, (200, "hello".into()));
    // The redirect is relative, so the prefix that axum has removed is kept.
    let (status, headers, _) = respond(site, axums("/static/docs")).await;
    assert_eq!((status, headers[LOCATION].to_str().unwrap()), (308, "./docs/"));
}

#[tokio::test]
async fn path_that_is_rewritten_to_the_root_is_not_a_directory_without_its_slash() {
    let directory = directory();
    let layer = RewritePathLayer::new().rewrite("/start", "/").unwrap();
    let layer = layer.rewrite("/manual/{*rest}", "/docs/{rest}").unwrap();
    let files = DirBuilder::dir(directory.path()).index("a.txt").build();
    assert_eq!(send(layer.layer(files), ours("/start")).await, (200, "small".into()));
    let site = crate::Router::new().nest("/docs", files::dir(directory.path().join("docs")));
    assert_eq!(send(layer.layer(site), ours("/manual/")).await, (200, "index".into()));
}

#[tokio::test]
async fn nested_dir_redirects_to_its_slash_behind_a_rewrite_that_removes_a_prefix() {
    let directory = directory();
    let layer = RewritePathLayer::new().rewrite("/v1/{*rest}", "/{rest}").unwrap();
    let site = crate::Router::new().nest("/docs", files::dir(directory.path().join("docs")));
    let site = layer.layer(site);
    let (status, headers, _) = respond(site.clone(), ours("/v1/docs")).await;
    assert_eq!((status, headers[LOCATION].to_str().unwrap()), (308, "./docs/"));
    assert_eq!(send(site, ours("/v1/docs/")).await, (200, "index".into()));
}

#[tokio::test]
async fn dir_is_the_fallback_of_axum() {
    let directory = directory();
    let site = Router::new()
        .route("/hello", get(async || "hello"))
        .fallback_service(RescueLayer::new().layer(files::dir(directory.path())));
    assert_eq!(send(site.clone(), axums("/docs/")).await, (200, "index".into()));
    assert_eq!(send(site, axums("/hello")).await, (200, "hello".into()));
}

#[tokio::test]
async fn x_accel_redirect_wraps_axum() {
    let directory = directory();
    let site = XAccelRedirectLayer::new(files::dir(directory.path())).layer(app());
    assert_eq!(send(site.clone(), ours("/report")).await, (200, "small".into()));
    assert_eq!(send(site.clone(), axums("/report")).await, (200, "small".into()));
    assert_eq!(send(site.clone(), foreign("POST", "/hello", "echo")).await, (200, "echo".into()));
    assert_eq!(send(site, ours("/none")).await, (418, "none".into()));
}

#[tokio::test]
async fn x_accel_redirect_is_a_layer_of_axum() {
    let directory = directory();
    let layers = ServiceBuilder::new()
        .layer(RescueLayer::new())
        .layer(XAccelRedirectLayer::new(files::dir(directory.path())));
    let site = app().layer(layers);
    assert_eq!(send(site.clone(), ours("/report")).await, (200, "small".into()));
    assert_eq!(send(site.clone(), axums("/report")).await, (200, "small".into()));
    assert_eq!(send(site, axums("/hello")).await, (200, "hello".into()));
}

#[tokio::test]
async fn try_files_wraps_axum_and_mounts_inside_it() {
    let directory = directory();
    let site = DirBuilder::dir(directory.path()).or(app());
    assert_eq!(send(site.clone(), ours("/a.txt")).await, (200, "small".into()));
    assert_eq!(send(site.clone(), axums("/hello")).await, (200, "hello".into()));
    for _ in 0..2 {
        // By a lookup the first time, then from the cache.
        assert_eq!(send(site.clone(), foreign("GET", "/none", "")).await, (418, "none".into()));
    }
    assert_eq!(send(site.clone(), foreign("POST", "/hello", "echo")).await, (200, "echo".into()));
    let outer = Router::new().nest_service("/site", RescueLayer::new().layer(site));
    assert_eq!(send(outer.clone(), axums("/site/a.txt")).await, (200, "small".into()));
    assert_eq!(send(outer, axums("/site/hello")).await, (200, "hello".into()));
}

/// Wraps a service in layers of tower-http that change the bodies of requests and responses. It is a macro, so that
/// the result accepts requests with any body.
macro_rules! wrapped {
    ($service:expr) => {
        ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(TraceLayer::new_for_http())
            .layer(SetRequestIdLayer::new(HeaderName::from_static("x-request-id"), MakeRequestUuid))
            .layer(SetResponseHeaderLayer::overriding(
                HeaderName::from_static("x-outer"),
                HeaderValue::from_static("set"),
            ))
            .layer(CorsLayer::permissive())
            .layer(CompressionLayer::new())
            .layer(RequestBodyLimitLayer::new(1 << 20))
            .layer(RequestDecompressionLayer::new())
            .service($service)
    };
}

#[tokio::test]
async fn dir_stands_under_layers_of_tower_http() {
    let directory = directory();
    let site = || wrapped!(files::dir(directory.path()));
    assert_eq!(send(site(), ours("/a.txt")).await, (200, "small".into()));
    assert_eq!(send(site(), axums("/b.txt")).await, (200, "b".repeat(100_000)));
    assert_eq!(send(site(), foreign("PUT", "/a.txt", "form")).await.0, 405);

    let mut request = axums("/b.txt");
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let (status, headers, body) = respond(site(), request).await;
    assert_eq!((status, headers[CONTENT_ENCODING].to_str().unwrap()), (200, "gzip"));
    assert_eq!(headers[CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(headers["x-outer"], "set");
    assert!(body.len() < 10_000);

    let mounted = Router::new().nest_service("/static", RescueLayer::new().layer(site()));
    assert_eq!(send(mounted, axums("/static/a.txt")).await, (200, "small".into()));
}

#[tokio::test]
async fn files_stand_over_layers_of_tower_http() {
    let directory = directory();
    let site = || DirBuilder::dir(directory.path()).or(wrapped!(app()));
    assert_eq!(send(site(), ours("/a.txt")).await, (200, "small".into()));
    assert_eq!(send(site(), axums("/hello")).await, (200, "hello".into()));
    assert_eq!(send(wrapped!(site()), foreign("POST", "/hello", "echo")).await.1, "echo");

    let accel = XAccelRedirectLayer::new(files::dir(directory.path()));
    assert_eq!(send(accel.layer(wrapped!(app())), ours("/report")).await, (200, "small".into()));
    assert_eq!(send(wrapped!(accel.layer(app())), ours("/report")).await, (200, "small".into()));

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("c.txt"), "other").unwrap();
    let both = DirBuilder::dir(directory.path()).or(ServeDir::new(other.path()));
    assert_eq!(send(both.clone(), ours("/a.txt")).await, (200, "small".into()));
    assert_eq!(send(both, axums("/c.txt")).await, (200, "other".into()));
}

#[test]
fn services_of_files_are_shared_by_threads() {
    fn check<B, S: HttpService<B, Future: Send + 'static> + Clone + Send + Sync>(_: &S) {}
    let dir = files::dir(".");
    check::<Body, _>(&dir);
    check::<axum::body::Body, _>(&dir);
    check::<(), _>(&dir); // a body is dropped unread, so it need not be one
    let or = DirBuilder::dir(".").or(app());
    check::<Body, _>(&or);
    check::<axum::body::Body, _>(&or);
    let accel = XAccelRedirectLayer::new(dir).layer(app());
    check::<Body, _>(&accel);
    check::<axum::body::Body, _>(&accel);
}
