//! Targets, redirects and cookies, in the cases of nginx's `proxy_pass`, `proxy_redirect` and
//! `proxy_cookie_path`.

use super::*;

fn paths(public: &str, server: &str) -> Rewrite {
    Rewrite::new().path(public, server).unwrap().server("app.internal:3000").server("app2")
}

#[test]
fn target_below_the_public_prefix_is_mapped_below_the_server_prefix() {
    for (public, server, from, to) in [
        ("/app", "/", "/app", Some("/")),
        ("/app", "/", "/app/", Some("/")),
        ("/app/", "/", "/app/x/y?q=/app", Some("/x/y?q=/app")),
        ("/app", "/base/", "/app/x", Some("/base/x")),
        ("/app", "/base", "/app", Some("/base")),
        ("/", "/base", "/x", Some("/base/x")),
        ("/", "/base", "/", Some("/base/")),
        ("/", "/", "/x?y", Some("/x?y")),
        ("/app", "/", "/apple", None),
        ("/app", "/", "/%61pp/x", None),
        ("/app", "/", "/", None),
        ("/app", "/", "http://example.com/app/x", Some("http://example.com/x")),
    ] {
        let target = paths(public, server).request_target(&from.parse().unwrap());
        let to = to.map(|to| to.parse().unwrap());
        assert_eq!(target, Ok(to), "{public} {server} {from}");
    }
    let same: Uri = "/any/path?q".parse().unwrap();
    assert_eq!(Rewrite::new().request_target(&same), Ok(Some(same)));
}

#[test]
fn target_with_dot_segment_is_refused_if_paths_are_mapped() {
    for path in
        ["/app/../x", "/app/./x", "/app/..", "/app/%2e%2E/x", "/app/%252e./x", "/app/..;a/x"]
    {
        let target: Uri = path.parse().unwrap();
        let refused = paths("/app", "/base").request_target(&target);
        assert_eq!(refused, Err(BadTarget::DotSegment), "{path}");
        assert_eq!(Rewrite::new().request_target(&target), Ok(Some(target)), "{path}");
    }
    for path in ["/app/...", "/app/.x", "/app/x..", "/app/%ff", "/app/100%"] {
        assert!(paths("/app", "/").request_target(&path.parse().unwrap()).unwrap().is_some());
    }
}

#[test]
fn prefix_that_is_not_a_path_is_refused() {
    for bad in ["", "app", "/a?b", "/a#b", "/a/../b", "/..", "/a b"] {
        assert_eq!(Rewrite::new().path(bad, "/").unwrap_err(), InvalidPrefix(bad.into()));
        assert!(Rewrite::new().path("/", bad).is_err(), "{bad}");
    }
}

#[test]
fn redirect_by_https_names_a_server_of_https_alone() {
    let rewrite =
        Rewrite::new().server("https://secure:8443").server("https://tls").server("h2://plain");
    for (value, expected) in [
        ("https://secure:8443/x", "/x"),
        ("HTTPS://TLS:443/x?y", "/x?y"),
        ("https://tls", "/"),
        ("//tls/x", "/x"),
        ("http://plain:80/x", "/x"),
        ("http://tls/x", "http://tls/x"),
        ("https://plain/x", "https://plain/x"),
        ("https://tls:80/x", "https://tls:80/x"),
        ("https://www.example.com/x", "https://www.example.com/x"),
        ("ftp://tls/x", "ftp://tls/x"),
    ] {
        assert_eq!(location(&rewrite, value), expected, "{value}");
    }
}

#[test]
fn refresh_to_the_server_becomes_one_below_the_public_prefix() {
    let rewrite = paths("/app", "/base");
    for (value, expected) in [
        ("5; url=http://app2/base/x", "5; url=/app/x"),
        ("0;URL='/base/x?y'", "0;URL='/app/x?y'"),
        ("1, Url = \"http://app2/base\"", "1, Url = \"/app\""),
        ("5", "5"),
        ("5; url=", "5; url="),
        ("5; uri=/base/x", "5; uri=/base/x"),
        ("5; url=x", "5; url=x"),
        ("5; url=https://example.com/base", "5; url=https://example.com/base"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(REFRESH, value.parse().unwrap());
        rewrite.response(&mut headers, None);
        assert_eq!(headers[REFRESH], expected, "{value}");
    }
}

fn location(rewrite: &Rewrite, value: &str) -> String {
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, value.parse().unwrap());
    headers.insert(CONTENT_LOCATION, value.parse().unwrap());
    rewrite.response(&mut headers, Some(&HeaderValue::from_static("www.example.com")));
    assert_eq!(headers[LOCATION], headers[CONTENT_LOCATION]);
    headers[LOCATION].to_str().unwrap().to_owned()
}

#[test]
fn redirect_to_the_server_becomes_one_below_the_public_prefix() {
    let rewrite = paths("/app", "/base");
    for (value, expected) in [
        ("http://app.internal:3000/base/x?y#z", "/app/x?y#z"),
        ("HTTP://APP.internal:3000/base", "/app"),
        ("http://app2/base/x", "/app/x"),
        ("http://app2:80/base/x", "/app/x"),
        ("http://www.example.com/base/", "/app/"),
        ("//app2/base/x", "/app/x"),
        ("/base/x", "/app/x"),
        ("/base?x", "/app?x"),
        // What is not below the server's prefix keeps its path.
        ("/other", "/other"),
        ("/basement", "/basement"),
        ("http://app2/other", "/other"),
        ("http://app2", "/"),
        // Other servers, another scheme, and what is relative to the request.
        ("http://app2:81/base/x", "http://app2:81/base/x"),
        ("http://elsewhere/base/x", "http://elsewhere/base/x"),
        ("http://app2.evil/base/x", "http://app2.evil/base/x"),
        ("http://app2@evil/base/x", "http://app2@evil/base/x"),
        ("https://www.example.com/base/x", "https://www.example.com/base/x"),
        ("x/y", "x/y"),
        ("?page=2", "?page=2"),
        ("mailto:a@app2", "mailto:a@app2"),
    ] {
        assert_eq!(location(&rewrite, value), expected, "{value}");
    }
    let root = paths("/", "/base");
    assert_eq!(location(&root, "/base"), "/");
    assert_eq!(location(&root, "/base/x"), "/x");
    assert_eq!(location(&Rewrite::new().server("app2"), "http://app2/x"), "/x");
}

#[test]
fn redirect_never_begins_with_two_slashes() {
    // Without the prefix, these paths would begin with the name of a host.
    for value in
        ["/base//evil.example/x", "http://app2/base//evil.example/x", "http://app2//evil/x"]
    {
        let changed = location(&paths("/", "/base"), value);
        assert!(!changed.starts_with("//"), "{value} became {changed}");
    }
}

#[test]
fn path_that_browsers_take_for_a_host_is_kept() {
    let rewrite = paths("/", "/base");
    for path in ["//evil/x", "/\\evil/x", "/\t/evil/x", "/\t\\evil/x"] {
        let value = format!("/base{path}");
        assert_eq!(location(&rewrite, &value), value);
        let value = format!("http://app2{path}");
        assert_eq!(location(&rewrite, &value), value);
        let (mut headers, refresh) = (HeaderMap::new(), format!("0; url=/base{path}"));
        headers.insert(REFRESH, refresh.parse().unwrap());
        rewrite.response(&mut headers, None);
        assert_eq!(headers[REFRESH], refresh);
    }
    assert_eq!(location(&rewrite, "/base/x//evil"), "/x//evil");
}

fn cookie(rewrite: &Rewrite, value: &[u8]) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    headers.insert(SET_COOKIE, HeaderValue::from_bytes(value).unwrap());
    rewrite.response(&mut headers, None);
    headers[SET_COOKIE].as_bytes().to_vec()
}

#[test]
fn cookie_of_the_root_is_sent_with_requests_for_the_prefix() {
    let rewrite = paths("/app", "/");
    assert_eq!(cookie(&rewrite, b"a=b; Path=/"), b"a=b; Path=/app");
    assert_eq!(cookie(&rewrite, b"a=b; Path=/x/"), b"a=b; Path=/app/x/");
    assert_eq!(cookie(&paths("/", "/"), b"a=b; Path=/"), b"a=b; Path=/");
    assert_eq!(cookie(&paths("/app", "/base"), b"a=b; Path=/base/"), b"a=b; Path=/app/");
}

#[test]
fn cookie_with_the_host_prefix_keeps_its_path() {
    let rewrite = paths("/app", "/");
    for kept in ["__Host-id=1; Secure; Path=/", "__host-id=1; Path=/"] {
        assert_eq!(cookie(&rewrite, kept.as_bytes()), kept.as_bytes());
    }
    assert_eq!(cookie(&rewrite, b"__Secure-id=1; Path=/x"), b"__Secure-id=1; Path=/app/x");
}

#[test]
fn cookie_with_bytes_that_are_not_utf_8_is_rewritten() {
    let rewrite = paths("/app", "/base");
    assert_eq!(cookie(&rewrite, b"a=\xe9; X=\xe9; Path=/base"), b"a=\xe9; X=\xe9; Path=/app");
}

#[test]
fn cookies_keep_their_order_and_have_the_public_path_and_domain() {
    let rewrite = paths("/app", "/base")
        .cookie_domain("app.internal", Some("example.com"))
        .cookie_domain(".app2", None);
    let cases = [
        ("a=b; Path=/base/x; HttpOnly", "a=b; Path=/app/x; HttpOnly"),
        ("a=b;path=/base", "a=b; path=/app"),
        ("a=b; Path=/other; Secure", "a=b; Path=/other; Secure"),
        ("a=b; Path=", "a=b; Path="),
        ("a=b; Domain=.App.Internal; Path=/base", "a=b; Domain=example.com; Path=/app"),
        ("a=b; Domain=app2; Max-Age=1", "a=b; Max-Age=1"),
        ("a=b; Domain=elsewhere", "a=b; Domain=elsewhere"),
        ("a=b=c; Path=/base", "a=b=c; Path=/app"),
        ("path=/base", "path=/base"),
        ("a=b", "a=b"),
    ];
    let mut headers = HeaderMap::new();
    for (cookie, _) in cases {
        headers.append(SET_COOKIE, cookie.parse().unwrap());
    }
    rewrite.response(&mut headers, None);
    let changed: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
    assert_eq!(changed, cases.map(|(_, expected)| expected));
}
