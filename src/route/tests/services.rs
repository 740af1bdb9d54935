//! What a router does for the services behind it: bodies, errors and readiness.

use http_body_util::Full;

use super::*;

#[tokio::test]
async fn body_keeps_its_kind_in_both_directions() {
    let echo = service_fn(async |request: Request<Body>| {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let router = Router::new().nest("/echo", Router::new().fallback(echo));
    let request = || Request::post("/echo/x");
    let bytes = request().body(Body::from("bytes")).unwrap();
    let response = router.clone().oneshot(bytes).await.unwrap();
    assert_eq!(response.body().as_bytes().unwrap(), "bytes");
    let file = Arc::new(tempfile::tempfile().unwrap());
    let file = crate::body::FileSlice::new(file, 0, 0);
    let file = request().body(Body::file(file)).unwrap();
    assert!(router.clone().oneshot(file).await.unwrap().body().as_file().is_some());
    let foreign = request().body(Full::new(bytes::Bytes::from_static(b"foreign"))).unwrap();
    let response = router.oneshot(foreign).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "foreign");
}

#[tokio::test]
async fn axum_router_fits_behind_a_router() {
    use axum::{Router as Axum, extract::Path, routing};
    let app = Axum::new()
        .route("/hello/{name}", routing::get(|Path(n): Path<String>| async move { n }))
        .route("/echo", routing::post(|body: String| async move { body }));
    let router = Router::new().nest("/app", app.clone()).fallback(app);
    assert_eq!(get(&router, "/app/hello/ada", "").await, "ada");
    assert_eq!(get(&router, "/hello/b%20c", "").await, "b c");
    assert_eq!(get(&router, "/app/nothing", "").await, "!404");
    let post = Request::post("/app/echo").body(Body::from("twice")).unwrap();
    assert_eq!(send(&router, post).await, (200, "twice".to_owned()));
}

#[tokio::test]
async fn error_of_a_service_is_passed_on_whatever_its_type() {
    let failing = service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(std::io::Error::other("broken"))
    });
    let router = Router::new().fallback(failing);
    let error = router.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
}

#[tokio::test]
async fn readiness_of_a_service_is_awaited_inside_the_future() {
    use tower::limit::ConcurrencyLimit;
    let slow = service_fn(|_: Request<Body>| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let router = Router::new().fallback(ConcurrencyLimit::new(slow, 1));
    let ask = || router.clone().oneshot(Request::get("/").body(Body::empty()).unwrap());
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
}
