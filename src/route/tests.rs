use std::convert::Infallible;

use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::*;

/// A service that answers with its name, the URI it saw, and the original one.
fn named(
    name: &'static str,
) -> impl Service<
    Request<Body>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
> + Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |request: Request<Body>| async move {
        let original = request.extensions().get::<OriginalUri>();
        let original = original.map_or(String::new(), |o| format!(" was {}", o.0));
        Ok(Response::new(Body::from(format!("{name} {}{original}", request.uri()))))
    })
}

async fn send(router: &Router, request: Request<Body>) -> (u16, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The body of a GET for `uri` with this `Host`, if it has one, or `!status`.
async fn get(router: &Router, uri: &str, host: &str) -> String {
    let mut request = Request::get(uri).body(Body::empty()).unwrap();
    if !host.is_empty() {
        request.headers_mut().insert(header::HOST, host.parse().unwrap());
    }
    match send(router, request).await {
        (200, body) => body,
        (status, _) => format!("!{status}"),
    }
}

async fn check(router: &Router, cases: &[(&str, &str)]) {
    for (uri, want) in cases {
        assert_eq!(get(router, uri, "").await, *want, "{uri}");
    }
}

#[tokio::test]
async fn the_longest_prefix_of_whole_segments_wins() {
    let router = Router::new()
        .route("/api", named("api"))
        .route("/api/v1/", named("v1"))
        .route("docs", named("docs"));
    let cases = [
        ("/api", "api /api"),
        ("/api/", "api /api/"),
        ("/api/x?y=/z", "api /api/x?y=/z"),
        ("/api/v1", "v1 /api/v1"),
        ("/api/v1/x", "v1 /api/v1/x"),
        ("/api/v10", "api /api/v10"),
        ("/docs/a", "docs /docs/a"),
        ("/apix", "!404"),
        ("/API", "!404"),
        ("/x/api", "!404"),
        ("//api", "!404"),
        ("/", "!404"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn the_normal_form_is_compared_and_the_raw_one_passed_on() {
    let router = Router::new().route("/api", named("api")).mount("/a b/ü", named("mount"));
    let cases = [
        ("/%61pi/x%20y", "api /%61pi/x%20y"),
        ("/api%2Fx", "!404"),
        ("/a%20b/%C3%BC/%41?q", "mount /%41?q was /a%20b/%C3%BC/%41?q"),
        ("/a%20b/%c3%bc", "mount / was /a%20b/%c3%bc"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn a_path_that_climbs_out_of_its_prefix_reaches_nobody() {
    let router = Router::new()
        .route("/public", named("public"))
        .mount("/static", named("static"))
        .route("/admin", named("admin"))
        .fallback(named("fallback"));
    for path in [
        "/public/..%2fadmin/secret",
        "/public/..%2Fadmin/secret",
        "/public/%2e%2e%2fadmin/secret",
        "/public/%2e%2e/admin/secret",
        "/public/../admin/secret",
        "/static/..%2f..%2fetc/passwd",
        "/static/%2e/x",
        "/public/a%00b",
        "/public/%c0%ae%c0%ae/admin",
        "/%2e%2e",
    ] {
        assert_eq!(get(&router, path, "").await, "!400", "{path}");
    }
}

#[tokio::test]
async fn a_mounted_service_sees_the_path_below_its_prefix() {
    let router = Router::new().mount("/static", named("static")).mount("/", named("root"));
    let cases = [
        ("/static/a/b.css?v=1", "static /a/b.css?v=1 was /static/a/b.css?v=1"),
        ("/static/", "static / was /static/"),
        ("/static", "static / was /static"),
        ("/static?v=1", "static /?v=1 was /static?v=1"),
        ("/static//x", "static //x was /static//x"),
        ("http://h:81/static/x", "static http://h:81/x was http://h:81/static/x"),
        ("/other?x", "root /other?x was /other?x"),
        ("http://h?x", "root http://h/?x was http://h/?x"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn routers_nest_and_the_first_uri_is_kept() {
    let inner = Router::new().mount("/b", named("deep")).fallback(named("shallow"));
    let router = Router::new().mount("/a", inner);
    let cases =
        [("/a/b/c", "deep /c was /a/b/c"), ("/a/x", "shallow /x was /a/x"), ("/b/c", "!404")];
    check(&router, &cases).await;
}

#[tokio::test]
async fn hosts_are_matched_without_port_and_case() {
    let router = Router::new()
        .host("*.example.com", named("below"))
        .host("*.deep.example.com", named("deep"))
        .host("Example.COM:80", named("exact"))
        .host("www.example.com", named("www"))
        .host("[::1]", named("v6"))
        .route("/", named("default"));
    for (host, want) in [
        ("example.com", "exact"),
        ("EXAMPLE.com:8080", "exact"),
        ("example.com.", "exact"),
        ("www.example.com", "www"),
        ("a.example.com:1", "below"),
        ("a.b.Example.com", "below"),
        ("a.deep.example.com", "deep"),
        ("deep.example.com", "below"),
        (".example.com", "default"),
        ("notexample.com", "default"),
        ("example.com.evil.org", "default"),
        ("[::1]:8080", "v6"),
        ("[::1", "default"),
        ("", "default"),
        ("\u{e9}.example.com", "default"),
    ] {
        assert_eq!(get(&router, "/p", host).await, format!("{want} /p"), "{host}");
    }
}

#[tokio::test]
async fn the_host_of_the_uri_stands_above_the_host_field() {
    let router = Router::new().host("a", named("a")).host("b", named("b"));
    assert_eq!(get(&router, "http://a:1/", "b").await, "a http://a:1/");
    assert_eq!(get(&router, "http://c/", "b").await, "!404");
}

#[tokio::test]
async fn a_request_without_a_path_goes_to_the_fallback() {
    let options = || Request::options("*").body(Body::empty()).unwrap();
    let router = Router::new().mount("/", named("root"));
    assert_eq!(send(&router, options()).await.0, 404);
    let router = router.fallback(named("fallback"));
    assert_eq!(send(&router, options()).await, (200, "fallback *".to_owned()));
    let connect = Request::connect("h:443").body(Body::empty()).unwrap();
    assert_eq!(send(&router, connect).await, (200, "fallback h:443".to_owned()));
}

#[tokio::test]
async fn what_is_given_again_replaces_the_first_and_clones_go_their_own_way() {
    let first = Router::new().route("/x", named("1")).host("h", named("1"));
    let second = first.clone().mount("/x/", named("2")).host("H:1", named("2"));
    assert_eq!(get(&first, "/x", "").await, "1 /x");
    assert_eq!(get(&first, "/x", "h").await, "1 /x");
    assert_eq!(get(&second, "/x", "").await, "2 / was /x");
    assert_eq!(get(&second, "/x", "h").await, "2 /x");
}

#[tokio::test]
async fn an_axum_router_fits_unchanged() {
    use axum::{Router as Axum, extract::Path, routing};
    let app = Axum::new()
        .route("/hello/{name}", routing::get(|Path(n): Path<String>| async move { n }))
        .route("/echo", routing::post(|body: String| async move { body }));
    let router = Router::new().mount("/app", app.clone()).fallback(app);
    assert_eq!(get(&router, "/app/hello/ada", "").await, "ada");
    assert_eq!(get(&router, "/hello/b%20c", "").await, "b c");
    assert_eq!(get(&router, "/app/nothing", "").await, "!404");
    let post = Request::post("/app/echo").body(Body::from("twice")).unwrap();
    assert_eq!(send(&router, post).await, (200, "twice".to_owned()));
}

#[tokio::test]
async fn a_service_s_error_is_passed_on_whatever_its_type() {
    let failing = service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(std::io::Error::other("broken"))
    });
    let router = Router::new().fallback(failing);
    let error = router.oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
}

#[tokio::test]
async fn a_busy_service_is_waited_for_inside_the_future() {
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

#[test]
fn debug_names_the_routes() {
    let router = Router::new().route("/api", named("")).host("*.a", named(""));
    let text = format!("{router:?}");
    assert!(text.contains("/api") && text.contains(".a"), "{text}");
}
