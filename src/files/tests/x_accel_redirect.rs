//! An application that names a file.

use std::{env, process::Command, time::SystemTime};

use tower::{Layer, service_fn};

use super::*;
use crate::{conn::testing::Lines, files::XAccelRedirectLayer, semantics::date::HttpDate};

type Fields = Vec<(&'static str, String)>;

/// Returns the client's response if the application's response is "not this" with these fields.
async fn answer(
    layer: &XAccelRedirectLayer,
    app_fields: Fields,
    request: Request<Body>,
) -> Response<Body> {
    let app = service_fn(move |_: Request<Body>| {
        let mut response = Response::builder().header("x-own", "kept");
        for (name, value) in &app_fields {
            response = response.header(*name, value);
        }
        let response = response.body(Body::from("not this")).unwrap();
        async { Ok::<_, crate::BoxError>(response) }
    });
    layer.layer(app).oneshot(request).await.unwrap()
}

fn get_request(target: &str, fields: &[(header::HeaderName, &str)]) -> Request<Body> {
    let mut request = request(Method::GET, target);
    for (name, value) in fields {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn file_is_sent_with_headers_of_the_application() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir()).prefix("/protected");
    let app_fields = || {
        vec![
            ("x-accel-redirect", "/protected/hello.txt".to_owned()),
            ("content-type", "text/x-greeting".to_owned()),
            ("content-disposition", "attachment".to_owned()),
            ("etag", "\"of the page\"".to_owned()),
            ("content-length", "8".to_owned()),
            ("set-cookie", "a=1".to_owned()),
            ("set-cookie", "b=2".to_owned()),
        ]
    };
    let response = answer(&layer, app_fields(), get_request("/download?id=7", &[])).await;
    let headers = response.headers();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(headers[header::CONTENT_TYPE], "text/x-greeting");
    assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment");
    assert_eq!(
        (&headers["x-own"], headers.get_all("set-cookie").iter().count()),
        (&HeaderValue::from_static("kept"), 2)
    );
    assert!(!headers.contains_key("x-accel-redirect") && !headers.contains_key("content-length"));
    let tag = headers[header::ETAG].clone();
    assert_ne!(tag, "\"of the page\"");
    assert_eq!(content(response).await, "0123456789");

    let part =
        answer(&layer, app_fields(), get_request("/", &[(header::RANGE, "bytes=2-4")])).await;
    assert_eq!(
        (part.status(), &part.headers()[header::CONTENT_RANGE]),
        (StatusCode::PARTIAL_CONTENT, &HeaderValue::from_static("bytes 2-4/10"))
    );
    assert_eq!(content(part).await, "234");
    let same = answer(
        &layer,
        app_fields(),
        get_request("/", &[(header::IF_NONE_MATCH, tag.to_str().unwrap())]),
    )
    .await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    let mut head = get_request("/", &[]);
    *head.method_mut() = Method::HEAD;
    let head = answer(&layer, app_fields(), head).await;
    assert_eq!(
        (&head.headers()[header::CONTENT_LENGTH], head.body().len()),
        (&HeaderValue::from_static("10"), Some(0))
    );
    // A form whose response is a file: the method applies to the application only.
    let mut post = get_request("/", &[]);
    *post.method_mut() = Method::POST;
    assert_eq!(content(answer(&layer, app_fields(), post).await).await, "0123456789");
}

#[tokio::test]
async fn empty_content_type_of_the_application_stands_for_the_file_s_own() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.builder().revalidate(Duration::ZERO).build());
    let app_fields =
        || vec![("x-accel-redirect", "/hello.txt".to_owned()), ("content-type", String::new())];
    let response = answer(&layer, app_fields(), get_request("/", &[])).await;
    let kinds: Vec<_> = response.headers().get_all(header::CONTENT_TYPE).iter().collect();
    assert_eq!(kinds, ["text/plain; charset=utf-8"]);
    site.write("hello.txt", "7".repeat(1000));
    let ranges = [(header::RANGE, "bytes=0-1,900-901")];
    let parts = answer(&layer, app_fields(), get_request("/", &ranges)).await;
    let parts = String::from_utf8(content(parts).await.to_vec()).unwrap();
    assert_eq!(parts.matches("content-type: text/plain; charset=utf-8\r\n").count(), 2, "{parts}");
}

#[test]
fn named_file_that_is_missing_is_logged() {
    const TEST: &str = "files::tests::x_accel_redirect::named_file_that_is_missing_is_logged";
    const ROLE: &str = "VESTIBULE_TEST_NAMED_FILE";
    if env::var_os(ROLE).is_some() {
        let lines = Lines::default();
        tracing::subscriber::set_global_default(lines.subscriber()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(name_missing_files(&lines));
    }
    // In a process of its own: here, other tests may make `tracing` skip this line of the log.
    let mut child = Command::new(env::current_exe().unwrap());
    let output = child.args(["--exact", TEST, "--nocapture"]).env(ROLE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

async fn name_missing_files(lines: &Lines) {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir()).prefix("/protected").sendfile(site.root());
    for (n, (name, value)) in [
        ("x-accel-redirect", "/protected/none.txt"),
        ("x-accel-redirect", "/outside-of-the-prefix"),
        ("x-accel-redirect", "/protected/../refused"),
        ("x-sendfile", "/not-below-the-root"),
    ]
    .into_iter()
    .enumerate()
    {
        answer(&layer, vec![(name, value.to_owned())], get_request("/", &[])).await;
        let lines = lines.of("vestibule::files");
        assert_eq!(lines.len(), n + 1, "{lines:?}");
        assert!(lines[n].contains("WARN") && lines[n].contains(value), "{value}: {lines:?}");
    }
}

#[tokio::test]
async fn named_path_that_is_missing_or_outside_is_404() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir()).prefix("/protected").sendfile(site.root());
    let outside = site.outside.path().join("secret.txt");
    for (name, value, status) in [
        ("x-accel-redirect", "/protected/none.txt", 404),
        ("x-accel-redirect", "/hello.txt", 404),
        ("x-accel-redirect", "/protectedhello.txt", 404),
        ("x-accel-redirect", "/protected/.env", 404),
        ("x-accel-redirect", "/protected/../secret.txt", 400),
        ("x-accel-redirect", "/protected/%2e%2e/secret.txt", 400),
        ("x-accel-redirect", "", 404),
        ("x-sendfile", outside.to_str().unwrap(), 404),
        ("x-sendfile", "hello.txt", 404),
        ("x-sendfile", &format!("{}/../secret.txt", site.root().display()), 400),
    ] {
        let app_fields = vec![(name, value.to_owned()), ("cache-control", "max-age=60".to_owned())];
        let response = answer(&layer, app_fields, get_request("/", &[])).await;
        assert_eq!(response.status(), status, "{name}: {value}");
        assert!(!response.headers().contains_key(name));
        assert!(!response.headers().contains_key(header::CACHE_CONTROL));
        assert_ne!(content(response).await, "secret");
    }
    site.write("a b/r\u{e9}sum\u{e9}.txt", "odd");
    for name in ["a b/100%.txt", "a b/r\u{e9}sum\u{e9}.txt"] {
        let path = format!("{}/{name}", site.root().display());
        let response = answer(&layer, vec![("x-sendfile", path)], get_request("/", &[])).await;
        assert_eq!(content(response).await, "odd", "{name}");
    }
    let raw = vec![("x-accel-redirect", "/protected/a%20b/r\u{e9}sum\u{e9}.txt".to_owned())];
    assert_eq!(content(answer(&layer, raw, get_request("/", &[])).await).await, "odd");
}

#[tokio::test]
async fn no_store_of_response_applies_to_its_404_too() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir());
    let later = HttpDate::from(SystemTime::now() + Duration::from_secs(600)).to_value();
    let later = later.to_str().unwrap();
    for (name, value, kept) in [
        ("cache-control", "no-store", "no-store"),
        ("cache-control", "max-age=60 , Private=\"set-cookie\",s-maxage=60", "private"),
        ("cache-control", "no-cache, no-cache,must-revalidate", "no-cache"),
        ("cache-control", "public, max-age=60, x-private", "(none)"),
        ("cache-control", "", "(none)"),
        ("expires", "0", "0"),
        ("expires", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("expires", later, "(none)"),
    ] {
        for (file, want) in [("/none.txt", kept), ("/hello.txt", value)] {
            let app_fields = vec![("x-accel-redirect", file.to_owned()), (name, value.to_owned())];
            let response = answer(&layer, app_fields, get_request("/", &[])).await;
            let name = header::HeaderName::from_static(name);
            assert_eq!(field(&response, &name), want, "{file} {value}");
        }
    }
    let app_fields = ["private, max-age=60", "no-store"].map(|v| ("cache-control", v.to_owned()));
    let mut app_fields = Vec::from(app_fields);
    app_fields.push(("x-accel-redirect", "/none.txt".to_owned()));
    let response = answer(&layer, app_fields, get_request("/", &[])).await;
    let kept: Vec<_> = response.headers().get_all(header::CACHE_CONTROL).iter().collect();
    assert_eq!(kept, ["private", "no-store"]);
}

#[tokio::test]
async fn named_path_may_be_plain_or_escaped() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir()).prefix("/protected").sendfile(site.root());
    let odd: String = (b' '..=b'~').filter(|b| !b"/?\\".contains(b)).map(char::from).collect();
    for name in [&odd, "100%", "%zz", "a#1.pdf", "a [1] <b> {c} |d| ^e^ `f` \"g\".txt"] {
        site.write(name, name);
        let sendfile = format!("{}/{name}", site.root().display());
        for (field, value) in [
            ("x-accel-redirect", format!("/protected/{name}")),
            ("x-accel-redirect", format!("/protected/{name}?a=b c\"%")),
            (
                "x-accel-redirect",
                format!("/protected/{}", crate::files::escape::escape_path(name.as_bytes())),
            ),
            ("x-sendfile", sendfile),
        ] {
            let response = answer(&layer, vec![(field, value)], get_request("/", &[])).await;
            assert_eq!(content(response).await, *name, "{field}");
        }
    }
}

#[tokio::test]
async fn response_without_the_field_is_passed_on() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir());
    let response =
        answer(&layer, vec![("etag", "\"1\"".to_owned())], get_request("/hello.txt", &[])).await;
    assert_eq!(response.headers()[header::ETAG], "\"1\"");
    assert_eq!(content(response).await, "not this");
    // `X-Sendfile` is ignored unless enabled, and does not reach the client.
    let app_fields = vec![("x-sendfile", "/etc/passwd".to_owned())];
    let response = answer(&layer, app_fields, get_request("/", &[])).await;
    assert!(!response.headers().contains_key("x-sendfile"));
    assert_eq!(content(response).await, "not this");
}

#[tokio::test]
async fn headers_about_the_replaced_body_are_removed() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir());
    let own = [
        ("content-digest", "sha-256=:abc=:"),
        ("repr-digest", "sha-256=:abc=:"),
        ("digest", "sha-256=abc"),
        ("content-md5", "abc"),
        ("location", "/elsewhere"),
        ("www-authenticate", "Basic"),
        ("retry-after", "120"),
        ("x-accel-buffering", "no"),
        ("x-accel-expires", "60"),
        ("x-accel-anything", "x"),
    ];
    for file in ["/hello.txt", "/none.txt"] {
        let mut app_fields = vec![("x-accel-redirect", file.to_owned())];
        app_fields.extend(own.map(|(name, value)| (name, value.to_owned())));
        let response = answer(&layer, app_fields, get_request("/", &[])).await;
        for (name, _) in own {
            assert!(!response.headers().contains_key(name), "{file} {name}");
        }
        assert_eq!(response.headers()["x-own"], "kept");
    }
    // Without a file all fields are the application's, perhaps for an nginx in front.
    let app_fields = own.map(|(name, value)| (name, value.to_owned())).to_vec();
    let response = answer(&layer, app_fields, get_request("/", &[])).await;
    for (name, value) in own {
        assert_eq!(response.headers()[name], value);
    }
}

#[tokio::test]
async fn each_part_has_content_type_of_the_application() {
    let site = Site::new();
    site.write("large.txt", vec![b'x'; 10_000]);
    let layer = XAccelRedirectLayer::new(site.dir());
    for (kind, want) in
        [(Some("text/x-greeting"), "text/x-greeting"), (None, "text/plain; charset=utf-8")]
    {
        // The second time from the cache.
        for _ in 0..2 {
            let mut app_fields = vec![
                ("x-accel-redirect", "/large.txt".to_owned()),
                ("content-disposition", "attachment".to_owned()),
            ];
            app_fields.extend(kind.map(|kind| ("content-type", kind.to_owned())));
            let response = answer(
                &layer,
                app_fields,
                get_request("/", &[(header::RANGE, "bytes=0-0,5000-5001")]),
            )
            .await;
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
            let outer = field(&response, &header::CONTENT_TYPE);
            assert!(outer.starts_with("multipart/byteranges; boundary="), "{outer}");
            assert_eq!(field(&response, &header::CONTENT_DISPOSITION), "attachment");
            let body = String::from_utf8(content(response).await.to_vec()).unwrap();
            assert_eq!(body.matches(&format!("\r\ncontent-type: {want}\r\n")).count(), 2);
            assert_eq!(body.matches("content-type").count(), 2, "{body}");
        }
    }
}

#[tokio::test]
async fn vary_of_application_is_kept_beside_that_of_coding() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.builder().precompressed().build());
    let app_fields = || {
        vec![
            ("x-accel-redirect", "/hello.txt".to_owned()),
            ("cache-control", "public, max-age=60".to_owned()),
            ("vary", "cookie".to_owned()),
            ("vary", "authorization".to_owned()),
            ("trailer", "x-checksum".to_owned()),
        ]
    };
    let vary = |response: &Response<Body>| -> Vec<String> {
        let fields = response.headers().get_all(header::VARY).iter();
        fields.map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let whole = answer(&layer, app_fields(), get_request("/", &[])).await;
    assert_eq!(vary(&whole), ["cookie", "authorization", "accept-encoding"]);
    assert!(!whole.headers().contains_key(header::TRAILER));
    let same =
        answer(&layer, app_fields(), get_request("/", &[(header::IF_NONE_MATCH, "*")])).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(vary(&same), ["cookie", "authorization", "accept-encoding"]);
    let plain = XAccelRedirectLayer::new(site.dir());
    let response = answer(&plain, app_fields(), get_request("/", &[])).await;
    assert_eq!(vary(&response), ["cookie", "authorization"]);
}

#[tokio::test]
async fn preconditions_of_other_methods_are_not_for_the_file() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir());
    for fields in [
        (header::IF_MATCH, "\"of the order\""),
        (header::IF_NONE_MATCH, "*"),
        (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (header::RANGE, "bytes=1-2"),
    ] {
        let mut request = get_request("/", std::slice::from_ref(&fields));
        *request.method_mut() = Method::PUT;
        let app_fields = vec![("x-accel-redirect", "/hello.txt".to_owned())];
        let response = answer(&layer, app_fields, request).await;
        assert_eq!(response.status(), StatusCode::OK, "{fields:?}");
        assert_eq!(content(response).await, "0123456789", "{fields:?}");
    }
}

#[tokio::test]
async fn directory_without_slash_is_404_and_not_redirected() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir()).prefix("/protected");
    for method in [Method::GET, Method::HEAD] {
        let app_fields = vec![("x-accel-redirect", "/protected/docs".to_owned())];
        let mut request = get_request("/download/7", &[]);
        *request.method_mut() = method;
        let response = answer(&layer, app_fields, request).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(field(&response, &header::LOCATION), "(none)");
    }
}

#[tokio::test]
async fn prefix_with_slash_is_same_as_without() {
    let site = Site::new();
    for prefix in ["/protected", "/protected/", "/protected//"] {
        let layer = XAccelRedirectLayer::new(site.dir()).prefix(prefix);
        for (value, status) in [("/protected/hello.txt", 200), ("/protectedhello.txt", 404)] {
            let app_fields = vec![("x-accel-redirect", value.to_owned())];
            assert_eq!(
                answer(&layer, app_fields, get_request("/", &[])).await.status(),
                status,
                "{prefix}"
            );
        }
    }
    let layer = XAccelRedirectLayer::new(site.dir()).prefix("/");
    let app_fields = vec![("x-accel-redirect", "/hello.txt".to_owned())];
    assert_eq!(answer(&layer, app_fields, get_request("/", &[])).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn hostile_targets_name_nothing() {
    let site = Site::new();
    let layer = XAccelRedirectLayer::new(site.dir());
    for (value, status) in [
        ("http://evil.com/hello.txt", 404),
        ("//evil.com/hello.txt", 404),
        ("//hello.txt", 404),
        ("hello.txt", 404),
        ("*", 404),
        ("/\\hello.txt", 400),
        ("/%2e%2e/secret.txt", 400),
        ("/docs/..%2f..%2fsecret.txt", 400),
        ("/docs/ /../../secret.txt", 400),
        ("/%%32e%%32e/secret.txt", 400),
        ("/%2%65%2%65/secret.txt", 400),
        ("/..\\secret.txt", 400),
        ("/a b\\..\\secret.txt", 400),
        ("/\t", 400),
        ("/\u{85}", 400),
        ("/hello.txt%00", 400),
        ("/%2eenv", 404),
        ("/hello.txt?x=/../y", 200),
        ("/hello.txt#x", 404),
    ] {
        let response =
            answer(&layer, vec![("x-accel-redirect", value.to_owned())], get_request("/", &[]))
                .await;
        let got = response.status().as_u16();
        assert!(got == status || (status == 400 && got == 404), "{value}: {got}");
        assert_ne!(content(response).await, "secret", "{value}");
    }
}
