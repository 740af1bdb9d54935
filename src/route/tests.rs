use std::convert::Infallible;

use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::OriginalUri;

mod random;
mod services;

/// A service that responds with its name, the URI it sees, the original one, and the parameters.
fn named(name: &'static str) -> impl HttpService<Future: Send> + Clone + Send + Sync + 'static {
    service_fn(move |request: Request<Body>| async move {
        let mut text = format!("{name} {}", request.uri());
        if let Some(OriginalUri(original)) = request.extensions().get() {
            text += &format!(" was {original}");
        }
        let params = request.extensions().get::<PathParams>();
        for (name, value) in params.iter().flat_map(|params| params.iter()) {
            text += &format!(" {name}={value}");
        }
        Ok::<_, Infallible>(Response::new(Body::from(text)))
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
        request.headers_mut().insert(http::header::HOST, host.parse().unwrap());
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
async fn route_matches_the_whole_path() {
    let router =
        Router::new().route("/a", named("a")).route("/b/", named("b")).route("/", named("root"));
    let cases = [
        ("/a", "a /a"),
        ("/a?x=/y", "a /a?x=/y"),
        ("/%61", "a /%61"),
        ("/b/", "b /b/"),
        ("/", "root /"),
        ("http://h", "root http://h/"),
        ("/a/", "!404"),
        ("/a/b", "!404"),
        ("/b", "!404"),
        ("//a", "!404"),
        ("//", "!404"),
        ("/A", "!404"),
        ("/aa", "!404"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn parameters_are_in_the_extensions_in_normal_form() {
    let router = Router::new()
        .route("/users/{id}", named("user"))
        .route("/users/{user}/posts/{post}", named("post"))
        .route("/files/{*path}", named("file"))
        .route("/{{id}}", named("braces"));
    let cases = [
        ("/users/7", "user /users/7 id=7"),
        (
            "/users/J%C3%BCrgen%20%2f%5c%25",
            "user /users/J%C3%BCrgen%20%2f%5c%25 id=Jürgen %2F%5C%25",
        ),
        ("/users/7/posts/x", "post /users/7/posts/x user=7 post=x"),
        ("/files/a", "file /files/a path=a"),
        ("/files/a//b/?q", "file /files/a//b/?q path=a//b/"),
        ("/files//", "file /files// path=/"),
        ("/%7bid%7d", "braces /%7bid%7d"),
        ("/users/", "!404"),
        ("/users//posts/x", "!404"),
        ("/users/7/", "!404"),
        ("/files/", "!404"),
        ("/files", "!404"),
        ("/x", "!404"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn longest_prefix_of_whole_segments_wins() {
    let router = Router::new()
        .prefix("/api", named("api"))
        .prefix("/api/v1/", named("v1"))
        .prefix("/docs", named("docs"));
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
async fn literal_precedes_parameter_precedes_rest_precedes_prefix() {
    let router = Router::new()
        .prefix("/", named("root"))
        .route("/{page}", named("page"))
        .route("/about", named("about"))
        .prefix("/static", named("static"))
        .route("/static", named("exact"))
        .route("/static/{*path}", named("rest"))
        .route("/a/{x}/c", named("x"))
        .prefix("/a/b/d", named("d"))
        .nest("/{x}/b", named("nest"));
    let cases = [
        ("/", "root /"),
        ("/x/y", "root /x/y"),
        ("/x", "page /x page=x"),
        ("/about", "about /about"),
        ("/about/", "root /about/"),
        ("/static", "exact /static"),
        ("/static/", "static /static/"),
        ("/static/x", "rest /static/x path=x"),
        ("/a/b/c", "x /a/b/c x=b"),
        ("/a/b/d/e", "d /a/b/d/e"),
        ("/a/b/e", "nest /e was /a/b/e x=a"),
        ("/a/c/d", "root /a/c/d"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn normal_form_is_compared_and_the_raw_path_passed_on() {
    let router = Router::new().prefix("/api", named("api")).nest("/a b/%C3%BC", named("nest"));
    let cases = [
        ("/%61pi/x%20y", "api /%61pi/x%20y"),
        ("/api%2Fx", "!404"),
        ("/a%20b/%C3%BC/%41?q", "nest /%41?q was /a%20b/%C3%BC/%41?q"),
        ("/a%20b/%c3%bc", "nest / was /a%20b/%c3%bc"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn path_that_climbs_out_of_its_prefix_is_refused() {
    let router = Router::new()
        .prefix("/public", named("public"))
        .nest("/static", named("static"))
        .prefix("/admin", named("admin"))
        .route("/files/{*path}", named("files"))
        .fallback(named("fallback"));
    for path in [
        "/public/..%2fadmin/secret",
        "/public/..%2Fadmin/secret",
        "/public/%2e%2e%2fadmin/secret",
        "/public/%2e%2e/admin/secret",
        "/public/../admin/secret",
        "/static/..%2f..%2fetc/passwd",
        "/static/%2e/x",
        "/files/..%2f..%2fetc/passwd",
        "/public/a%00b",
        "/public/%c0%ae%c0%ae/admin",
        "/%2e%2e",
    ] {
        assert_eq!(get(&router, path, "").await, "!400", "{path}");
    }
}

#[tokio::test]
async fn nested_service_sees_the_path_below_its_prefix() {
    let router = Router::new().nest("/static", named("static")).nest("/", named("root"));
    let cases = [
        ("/static/a/b.css?v=1", "static /a/b.css?v=1 was /static/a/b.css?v=1"),
        ("/static/", "static / was /static/"),
        ("/static", "static / was /static"),
        ("/static?v=1", "static /?v=1 was /static?v=1"),
        ("/static//x", "static //x was /static//x"),
        ("http://h:81/static/x", "static http://h:81/x was http://h:81/static/x"),
        ("/statics", "root /statics"),
        ("/other?x", "root /other?x"),
        ("http://h?x", "root http://h/?x"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn nested_routers_strip_cumulatively_and_keep_the_first_uri() {
    let inner = Router::new()
        .nest("/b/{y}", Router::new().route("/c", named("deep")).route("/{x}", named("again")))
        .fallback(named("shallow"));
    let router =
        Router::new().host("h", Router::new().nest("/host", inner.clone())).nest("/a/{x}", inner);
    let cases = [
        ("/a/1/b/2/c", "deep /c was /a/1/b/2/c x=1 y=2"),
        ("/a/1/b/2/3?q", "again /3?q was /a/1/b/2/3?q x=1 y=2 x=3"),
        ("/a/1/x", "shallow /x was /a/1/x x=1"),
        ("/a/1/b/2/3/4", "!404"),
        ("/b/2/c", "!404"),
        ("http://h/host/b/2/c", "deep http://h/c was http://h/host/b/2/c y=2"),
        ("http://h/a/1/x", "!404"),
    ];
    check(&router, &cases).await;
}

#[tokio::test]
async fn innermost_parameter_hides_an_outer_one_of_the_same_name() {
    let answer = service_fn(async |request: Request<Body>| {
        let params = request.extensions().get::<PathParams>().unwrap();
        assert_eq!((params.get("x"), params.get("z")), (Some("2"), None));
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let router = Router::new().nest("/{x}", Router::new().route("/{x}", answer));
    assert_eq!(get(&router, "/1/2", "").await, "");
}

#[tokio::test]
async fn hosts_are_matched_without_port_and_case() {
    let router = Router::new()
        .host("*.example.com", named("below"))
        .host("*.deep.example.com", named("deep"))
        .host("Example.COM", named("exact"))
        .host("www.example.com", named("www"))
        .host("[::1]", named("v6"))
        .prefix("/", named("default"));
    for (host, want) in [
        ("example.com", "exact"),
        ("EXAMPLE.com:8080", "exact"),
        ("example.com.", "exact"),
        ("www.example.com", "www"),
        ("a.example.com:1", "below"),
        ("a.b.Example.com", "below"),
        ("a.deep.example.com", "deep"),
        ("a.b.deep.example.com", "deep"),
        ("deep.example.com", "below"),
        (".example.com", "default"),
        ("notexample.com", "default"),
        ("example.com.evil.org", "default"),
        ("[::1]:8080", "v6"),
        ("[::1", "default"),
        ("", "default"),
        ("\u{e9}.example.com", "default"),
        (&format!("{}example.com", "a.".repeat(10_000)), "below"),
    ] {
        assert_eq!(get(&router, "/p", host).await, format!("{want} /p"), "{host}");
    }
}

#[tokio::test]
async fn host_of_the_uri_overrides_the_host_field() {
    let router = Router::new().host("a", named("a")).host("b", named("b"));
    assert_eq!(get(&router, "http://a:1/", "b").await, "a http://a:1/");
    assert_eq!(get(&router, "http://c/", "b").await, "!404");
}

#[tokio::test]
async fn request_without_a_path_goes_to_the_fallback() {
    let options = || Request::options("*").body(Body::empty()).unwrap();
    let router = Router::new().nest("/", named("root")).route("/{*rest}", named("rest"));
    assert_eq!(send(&router, options()).await.0, 404);
    let router = router.fallback(named("fallback"));
    assert_eq!(send(&router, options()).await, (200, "fallback *".to_owned()));
    let connect = Request::connect("h:443").body(Body::empty()).unwrap();
    assert_eq!(send(&router, connect).await, (200, "fallback h:443".to_owned()));
}

#[tokio::test]
async fn adding_to_a_clone_leaves_the_original_unchanged() {
    let first = Router::new().route("/x", named("1")).fallback(named("1"));
    let second = first.clone().route("/y", named("2")).host("h", named("2"));
    assert_eq!(get(&first, "/y", "h").await, "1 /y");
    assert_eq!(get(&second, "/y", "").await, "2 /y");
    assert_eq!(get(&second, "/x", "h").await, "2 /x");
    assert_eq!(get(&second.fallback(named("3")), "/z", "").await, "3 /z");
}

#[test]
fn conflict_panics_with_both_patterns() {
    fn add(first: fn(Router) -> Router, second: fn(Router) -> Router) -> String {
        let second = || drop(second(first(Router::new())));
        let panic = std::panic::catch_unwind(second).unwrap_err();
        *panic.downcast::<String>().unwrap()
    }
    let text = add(|r| r.route("/a/{x}", named("")), |r| r.route("/a/{y}", named("")));
    assert_eq!(text, "path pattern `/a/{y}` conflicts with `/a/{x}`, which is registered already");
    let text = add(|r| r.nest("/a b", named("")), |r| r.prefix("/a%20b/", named("")));
    assert!(text.contains("`/a%20b/` conflicts with `/a b`"), "{text}");
    let text = add(|r| r.route("/{*a}", named("")), |r| r.route("/{*b}", named("")));
    assert!(text.contains("`/{*b}` conflicts with `/{*a}`"), "{text}");
    let text = add(|r| r.host("a.b", named("")), |r| r.host("A.b.", named("")));
    assert_eq!(text, "invalid host pattern `A.b.`: the host is registered already");
    let text = add(|r| r, |r| r.route("/a/{x}.css", named("")));
    assert!(text.starts_with("invalid path pattern `/a/{x}.css`: a parameter must be"), "{text}");
    let text = add(|r| r, |r| r.nest("a", named("")));
    assert_eq!(text, "invalid path prefix `a`: a pattern must start with a `/`");
    let text = add(|r| r, |r| r.prefix("/a/..", named("")));
    assert_eq!(text, "invalid path prefix `/a/..`: a dot segment in the path");
    let text = add(|r| r, |r| r.host("a:80", named("")));
    assert!(text.starts_with("invalid host pattern `a:80`: a port is no part"), "{text}");
}

#[test]
fn debug_lists_patterns_and_hosts() {
    let router = Router::new().nest("/api", named("")).host("*.a", named("")).host("b", named(""));
    let want = r#"Router { hosts: ["*.a", "b"], paths: [(Nest { segments: 1 }, "/api")], fallback: false }"#;
    assert_eq!(format!("{router:?}"), want);
}
