use std::{convert::Infallible, io};

use http_body_util::{BodyExt, Empty, Full};
use tower::{ServiceBuilder, ServiceExt, limit::ConcurrencyLimit, service_fn, util::MapErrLayer};

use super::{super::assert_ready::AssertReady, *};
use crate::layer::rescue;

/// Waits for readiness and calls, as a server does.
async fn call<S: HttpService<Error = BoxError>>(service: &mut S) -> u16 {
    let request = Request::new(Body::empty());
    service.ready().await.unwrap().call(request).await.unwrap().status().as_u16()
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn add_header(mut request: Request, next: Next) -> Result<Response, BoxError> {
    request.headers_mut().insert("x-request", "in".parse()?);
    let mut response = next.run(request).await?;
    response.headers_mut().insert("x-response", "out".parse()?);
    Ok(response)
}

#[tokio::test]
async fn function_changes_request_and_response_and_bodies_keep_their_kind() {
    let service = from_fn(add_header).layer(AssertReady::new(async |request: Request| {
        assert_eq!(request.headers()["x-request"], "in");
        Ok::<_, Infallible>(Response::new(request.into_body()))
    }));
    let response = service.oneshot(Request::new(Body::from("bytes"))).await.unwrap();
    assert_eq!(response.headers()["x-response"], "out");
    assert_eq!(response.body().as_bytes().unwrap(), "bytes");
}

#[tokio::test]
async fn function_answers_without_the_service_and_with_any_body_and_error() {
    let unreachable = AssertReady::new(async |_: Request| -> Result<Response, BoxError> {
        panic!("the service is not called")
    });
    let answer = from_fn(|request: Request, _: Next| async move {
        match request.uri().path() {
            "/" => Ok(Response::new(Full::from("own"))),
            path => Err(io::Error::other(path.to_owned())),
        }
    });
    let service = answer.layer(unreachable);
    let foreign = http::Request::new(Empty::<bytes::Bytes>::new());
    assert_eq!(text(service.clone().oneshot(foreign).await.unwrap()).await, "own");
    let request = http::Request::get("/failed").body(Body::empty()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap_err().to_string(), "/failed");
}

#[tokio::test]
async fn error_of_the_service_reaches_the_function() {
    let failing =
        AssertReady::new(async |_: Request| Err::<Response, _>(io::Error::other("broken")));
    let service = from_fn(async |request: Request, next: Next| {
        let error = next.run(request).await.unwrap_err();
        Ok::<_, Infallible>(Response::new(error.to_string()))
    });
    let response = service.layer(failing).oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(text(response).await, "broken");
}

#[tokio::test]
async fn clone_of_next_waits_for_its_own_readiness() {
    let twice = from_fn(async |request: Request, next: Next| {
        let first = next.clone().run(Request::new(Body::empty())).await?;
        assert_eq!(first.status(), 200);
        next.run(request).await
    });
    // `AssertReady` panics if an instance is called that was not polled ready.
    let service = twice.layer(AssertReady::new(async |_: Request| {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    for _ in 0..2 {
        assert_eq!(
            service.clone().oneshot(Request::new(Body::empty())).await.unwrap().status(),
            200
        );
    }
}

#[tokio::test]
async fn permit_of_readiness_is_used_and_released() {
    let inner = service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty())));
    let mut service = from_fn(add_header).layer(ConcurrencyLimit::new(inner, 1));
    for _ in 0..3 {
        assert_eq!(call(&mut service).await, 200);
    }
    let refuse =
        from_fn(async |_: Request, _: Next| Ok::<_, Infallible>(Response::new(Body::empty())));
    let mut service = refuse.layer(ConcurrencyLimit::new(inner, 1));
    for _ in 0..3 {
        assert_eq!(call(&mut service).await, 200);
    }
}

#[tokio::test]
async fn layer_fits_over_and_under_axum() {
    use axum::{Router, routing::post};
    let app = Router::new().route("/", post(async |body: String| body));
    let request = || http::Request::post("/").body(Body::from("over")).unwrap();
    let over = ServiceBuilder::new().layer(from_fn(add_header)).service(app.clone());
    let response = over.oneshot(request()).await.unwrap();
    assert_eq!(response.headers()["x-response"], "out");
    assert_eq!(text(response).await, "over");

    let rescued = from_fn(async |request: Request, next: Next| {
        let result = add_header(request, next).await;
        Ok::<_, Infallible>(
            result.unwrap_or_else(|error| rescue::response(&error, rescue::Format::Text)),
        )
    });
    let infallible = MapErrLayer::new(|error: BoxError| -> Infallible { panic!("{error}") });
    let under = app.layer((infallible, rescued));
    let response = under.oneshot(request().map(axum::body::Body::new)).await.unwrap();
    assert_eq!(response.headers()["x-response"], "out");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "over");
}
