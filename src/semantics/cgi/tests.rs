use std::collections::BTreeMap;

use http::Request;

use super::*;
use crate::peer::{ProxyAddresses, Tls};

fn scripts() -> Scripts {
    Scripts::new("/srv/www/")
}

fn names(scripts: &Scripts, path: &str) -> Vec<(String, String)> {
    let candidates = scripts.candidates(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    candidates.map(|s| (s.name().to_owned(), s.path_info().to_owned())).collect()
}

/// The variables of a request to its first script.
fn variables(
    scripts: &Scripts,
    head: &Request<()>,
    peer: &Peer,
    length: u64,
) -> BTreeMap<String, String> {
    let script = scripts.candidates(head.uri().path()).unwrap().next().unwrap();
    let mut map = BTreeMap::new();
    let push = |name: &str, value: &[u8]| {
        let value = String::from_utf8_lossy(value).into_owned();
        assert_eq!(map.insert(name.to_owned(), value), None, "{name} comes twice");
    };
    scripts.variables(&script, head, length, peer, push).unwrap();
    map
}

fn head(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn tcp() -> Peer {
    Peer::tcp("192.0.2.1:5000".parse().unwrap(), "192.0.2.9:8080".parse().unwrap())
}

#[test]
fn path_is_split_after_the_first_segment_with_the_suffix() {
    for (path, name, path_info) in [
        ("/a.php", "/a.php", ""),
        ("/a.php/", "/a.php", "/"),
        ("/a.php/b/c", "/a.php", "/b/c"),
        ("/a.php/b.php", "/a.php", "/b.php"),
        ("/uploads/x.jpg/y.php", "/uploads/x.jpg/y.php", ""),
        ("/a.phpx/b.php", "/a.phpx/b.php", ""),
        ("/a%2ephp/b", "/a.php", "/b"),
        ("/caf%C3%A9.php/a%20b/100%25", "/café.php", "/a b/100%"),
        ("/a.php//b", "/a.php", "//b"),
    ] {
        assert_eq!(names(&scripts(), path), [(name.to_owned(), path_info.to_owned())], "{path}");
    }
}

#[test]
fn path_without_script_has_no_candidate_but_an_index() {
    for path in ["/", "/a/"] {
        assert_eq!(names(&scripts(), path), [(format!("{path}index.php"), String::new())]);
    }
    for path in ["/a", "/a.php5", "/a.PHP", "/.php", "/a.phps/b", "/a.php.txt", "*"]
        .into_iter()
        .chain(["//a.php", "/a//b.php/c", "//", "//a/"])
    {
        assert_eq!(names(&scripts(), path), [], "{path}");
    }
}

#[test]
fn front_controller_is_for_paths_without_script_alone() {
    let scripts = scripts().front_controller("index.php");
    let front = ("/index.php".to_owned(), String::new());
    assert_eq!(names(&scripts, "/users/7"), std::slice::from_ref(&front));
    let index = ("/a/index.php".to_owned(), String::new());
    assert_eq!(names(&scripts, "/a/"), [index, front]);
    assert_eq!(names(&scripts, "/missing.php"), [("/missing.php".to_owned(), String::new())]);
    assert_eq!(names(&scripts, "*"), []);
}

#[test]
fn suffix_and_index_are_configurable() {
    let scripts = scripts().suffix(".cgi").index("start.cgi");
    assert_eq!(names(&scripts, "/a.php/b.cgi/c")[0].0, "/a.php/b.cgi");
    assert_eq!(names(&scripts, "/")[0].0, "/start.cgi");
}

#[test]
fn path_with_two_meanings_is_refused() {
    for (path, why) in [
        ("/../a.php", BadTarget::DotSegment),
        ("/a.php/%2e%2e/b", BadTarget::DotSegment),
        ("/a.php%00.jpg", BadTarget::Control),
        ("/a%2Fb.php", BadTarget::EscapedSlash),
        ("/a.php/b%2fc", BadTarget::EscapedSlash),
        ("/a.php/b%5Cc", BadTarget::EscapedSlash),
        ("/a%.php", BadTarget::Escape),
        ("/a\\b.php", BadTarget::Backslash),
        ("/%ff.php", BadTarget::Utf8),
    ] {
        assert_eq!(scripts().candidates(path).err(), Some(why), "{path}");
    }
}

#[test]
fn request_becomes_the_variables_that_php_needs() {
    let fields = [("host", "example.com:8080"), ("accept", "*/*"), ("user-agent", "me")];
    let scripts = scripts().variable("APP_ENV", "prod");
    let head = head("/blog/post.php/2024/a%20b?q=%20x", &fields);
    let want = [
        ("APP_ENV", "prod"),
        ("DOCUMENT_ROOT", "/srv/www"),
        ("DOCUMENT_URI", "/blog/post.php/2024/a b"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("HTTP_ACCEPT", "*/*"),
        ("HTTP_HOST", "example.com:8080"),
        ("HTTP_USER_AGENT", "me"),
        ("PATH_INFO", "/2024/a b"),
        ("QUERY_STRING", "q=%20x"),
        ("REDIRECT_STATUS", "200"),
        ("REMOTE_ADDR", "192.0.2.1"),
        ("REMOTE_PORT", "5000"),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_SCHEME", "http"),
        ("REQUEST_URI", "/blog/post.php/2024/a%20b?q=%20x"),
        ("SCRIPT_FILENAME", "/srv/www/blog/post.php"),
        ("SCRIPT_NAME", "/blog/post.php"),
        ("SERVER_ADDR", "192.0.2.9"),
        ("SERVER_NAME", "example.com"),
        ("SERVER_PORT", "8080"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", "vestibule"),
    ];
    let want = want.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(variables(&scripts, &head, &tcp(), 0), BTreeMap::from(want));
}

#[test]
fn body_has_its_length_and_type() {
    let typed = [("content-type", "text/plain"), ("content-length", "7")];
    let map = variables(&scripts(), &head("/a.php", &typed), &tcp(), 7);
    assert_eq!((&*map["CONTENT_TYPE"], &*map["CONTENT_LENGTH"]), ("text/plain", "7"));
    assert!(!map.contains_key("HTTP_CONTENT_TYPE") && !map.contains_key("HTTP_CONTENT_LENGTH"));
    // A body that was chunked and has been buffered.
    let map = variables(&scripts(), &head("/a.php", &[]), &tcp(), 9);
    assert_eq!(map["CONTENT_LENGTH"], "9");
    let map = variables(&scripts(), &head("/a.php", &[("content-length", "0")]), &tcp(), 0);
    assert_eq!(map["CONTENT_LENGTH"], "0");
    let map = variables(&scripts(), &head("/a.php", &[]), &tcp(), 0);
    assert!(!map.contains_key("CONTENT_LENGTH") && !map.contains_key("CONTENT_TYPE"));
}

#[test]
fn proxy_field_never_becomes_http_proxy() {
    let fields = [("Proxy", "http://evil.example"), ("PROXY", "x"), ("proxy-x", "fine")];
    let map = variables(&scripts(), &head("/a.php", &fields), &tcp(), 0);
    assert!(!map.contains_key("HTTP_PROXY"), "httpoxy");
    assert_eq!(map["HTTP_PROXY_X"], "fine");
}

#[test]
fn g2_field_spelled_with_underscore_or_dot_becomes_no_variable() {
    let fields = [
        ("remote-user", "proxy"),
        ("Remote_User", "evil"),
        ("Remote.User", "evil"),
        ("x_forwarded_for", "evil"),
        ("x~real+ip", "evil"),
    ];
    let map = variables(&scripts(), &head("/a.php", &fields), &tcp(), 0);
    let of_fields: Vec<_> = map.iter().filter(|(name, _)| name.starts_with("HTTP_")).collect();
    assert_eq!(of_fields, [(&"HTTP_REMOTE_USER".to_owned(), &"proxy".to_owned())]);
    assert!(!map.values().any(|value| value == "evil"));
}

#[test]
fn fields_of_one_name_are_joined() {
    let fields = [
        ("accept", "a/b"),
        ("cookie", "a=b"),
        ("accept", "c/d"),
        ("cookie", "c=d"),
        ("accept", ""),
    ];
    let map = variables(&scripts(), &head("/a.php", &fields), &tcp(), 0);
    assert_eq!((&*map["HTTP_ACCEPT"], &*map["HTTP_COOKIE"]), ("a/b, c/d, ", "a=b; c=d"));
}

#[test]
fn variables_describe_the_proxied_client_and_its_scheme() {
    let proxied = ProxyAddresses {
        client: "[2001:db8::1]:1".parse().unwrap(),
        destination: "[2001:db8::2]:443".parse().unwrap(),
    };
    let peer = tcp().proxied(proxied).secured(Tls::new("TLSv1.3"));
    let map = variables(&scripts(), &head("/a.php", &[("host", "[2001:db8::2]")]), &peer, 0);
    let get = |name: &str| &*map[name];
    assert_eq!((get("REMOTE_ADDR"), get("REMOTE_PORT")), ("2001:db8::1", "1"));
    assert_eq!((get("SERVER_ADDR"), get("SERVER_PORT")), ("2001:db8::2", "443"));
    assert_eq!((get("HTTPS"), get("REQUEST_SCHEME")), ("on", "https"));
    assert_eq!(get("SERVER_NAME"), "[2001:db8::2]");
    let map = variables(&scripts(), &head("/a.php", &[]), &Peer::unix(), 0);
    let get = |name: &str| &*map[name];
    assert_eq!(
        (get("REMOTE_ADDR"), get("SERVER_NAME"), get("SERVER_PORT")),
        ("unix:", "localhost", "80")
    );
    assert!(!map.contains_key("HTTPS") && !map.contains_key("REMOTE_PORT"));
    for peer in [tcp(), Peer::unix()] {
        let peer = peer.forwarded_for("2001:db8::7".parse().unwrap(), None);
        let map = variables(&scripts(), &head("/a.php", &[]), &peer, 0);
        assert_eq!((&*map["REMOTE_ADDR"], map.contains_key("REMOTE_PORT")), ("2001:db8::7", false));
    }
    let mapped = Peer::tcp("[::ffff:192.0.2.1]:9".parse().unwrap(), "[::1]:80".parse().unwrap());
    let map = variables(&scripts(), &head("/a.php", &[]), &mapped, 0);
    assert_eq!((&*map["REMOTE_ADDR"], &*map["SERVER_NAME"]), ("192.0.2.1", "::1"));
}

#[test]
fn host_of_the_target_replaces_a_missing_host_field() {
    let map = variables(&scripts(), &head("http://u@a.example:81/a.php?b", &[]), &tcp(), 0);
    assert_eq!((&*map["HTTP_HOST"], &*map["SERVER_NAME"]), ("a.example:81", "a.example"));
    assert_eq!(map["REQUEST_URI"], "/a.php?b");
}

#[test]
fn nested_script_has_the_prefix_of_its_router() {
    for (whole, below, prefix) in [
        ("/app/a.php/b?c", "/a.php/b?c", "/app"),
        ("/my%20app/x/a.php", "/a.php", "/my app/x"),
        ("/app", "/", "/app"),
        ("/app/", "/", "/app"),
        ("/other", "/a.php", ""),
    ] {
        let mut head = head(below, &[]);
        head.extensions_mut().insert(OriginalUri(whole.parse().unwrap()));
        let map = variables(&scripts(), &head, &tcp(), 0);
        let script = if below == "/" { "/index.php" } else { "/a.php" };
        assert_eq!(map["SCRIPT_NAME"], format!("{prefix}{script}"), "{whole}");
        assert_eq!(map["SCRIPT_FILENAME"], format!("/srv/www{script}"));
        assert_eq!(map["REQUEST_URI"], whole);
    }
}

#[test]
fn rewritten_path_is_not_a_prefix() {
    let mut head = head("/", &[]);
    head.extensions_mut().insert(OriginalUri("/home".parse().unwrap()));
    head.extensions_mut().insert(RewrittenPath);
    let map = variables(&scripts(), &head, &tcp(), 0);
    assert_eq!((&*map["SCRIPT_NAME"], &*map["REQUEST_URI"]), ("/index.php", "/home"));
}
