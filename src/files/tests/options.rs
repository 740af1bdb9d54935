//! Which file is served for a path: codings, extensions, fallbacks, listings, links.

use std::os::unix::fs::symlink;

use super::*;
use crate::files::{Symlinks, is_hashed};

fn set_times(site: &Site, path: &str, seconds: u64) {
    let file = fs::File::options().write(true).open(site.root().join(path)).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

#[tokio::test]
async fn most_preferred_coding_is_sent_and_named() {
    let site = Site::new();
    for (name, content) in [
        ("app.js", "plain"),
        ("app.js.gz", "as gzip"),
        ("app.js.br", "as brotli"),
        ("old.js", "new"),
        ("old.js.gz", "old"),
    ] {
        site.write(name, content);
        set_times(&site, name, 1_000_000);
    }
    set_times(&site, "old.js.gz", 1_000_000 - 61);
    let dir = site.builder().precompressed().build();
    let accept = header::ACCEPT_ENCODING;
    let mut tags = Vec::new();
    for (value, coding, text) in [
        ("gzip, br", Some("br"), "as brotli"),
        ("gzip, zstd", Some("gzip"), "as gzip"),
        ("deflate", None, "plain"),
    ] {
        let response = get_with(&dir, "/app.js", &[(accept.clone(), value)]).await;
        let headers = response.headers();
        assert_eq!(headers.get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap()), coding);
        assert_eq!(headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(headers[header::VARY], "accept-encoding");
        tags.push(headers[header::ETAG].clone());
        assert_eq!(content(response).await, text);
        // Each variant has its own tag, by which it is revalidated.
        let fields = [
            (accept.clone(), value),
            (header::IF_NONE_MATCH, tags[tags.len() - 1].to_str().unwrap()),
        ];
        let response = get_with(&dir, "/app.js", &fields).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.headers()[header::VARY], "accept-encoding");
        let fields = [(accept.clone(), value), (header::RANGE, "bytes=0-1")];
        assert_eq!(content(get_with(&dir, "/app.js", &fields).await).await, text[..2]);
    }
    assert!(tags[0] != tags[1] && tags[1] != tags[2]);
    let refused = get_with(&dir, "/app.js", &[(accept.clone(), "zstd, identity;q=0")]).await;
    assert_eq!(refused.status(), StatusCode::NOT_ACCEPTABLE);
    assert_eq!(refused.headers()[header::VARY], "accept-encoding");
    let stale = get_with(&dir, "/old.js", &[(accept.clone(), "gzip")]).await;
    assert!(!stale.headers().contains_key(header::CONTENT_ENCODING));
    assert_eq!(content(stale).await, "new");
    // Without the option no variant is served.
    let plain = get_with(&site.dir(), "/app.js", &[(accept, "gzip")]).await;
    assert!(!plain.headers().contains_key(header::VARY));
    assert_eq!(content(plain).await, "plain");
}

#[tokio::test]
async fn fallback_page_of_application_stands_for_missing_files() {
    let site = Site::new();
    let dir = site.builder().fallback_page("/index.html").build();
    for target in ["/orders/7", "/none.js", "/orders/7"] {
        let response = get(&dir, target).await;
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        assert!(response.headers().contains_key(header::ETAG));
        assert_eq!(content(response).await, "<h1>home</h1>");
    }
    assert_eq!(content(get(&dir, "/hello.txt").await).await, "0123456789");
    for target in ["/.git/config", "/orders//7"] {
        assert_eq!(content(get(&dir, target).await).await, "<h1>home</h1>", "{target}");
    }
    assert_eq!(get(&dir, "/a/../b").await.status(), StatusCode::BAD_REQUEST);
    let nowhere = site.builder().fallback_page("none.html").build();
    assert_eq!(get(&nowhere, "/x").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn not_found_page_is_sent_with_404() {
    let site = Site::new();
    site.write("404.html", "<h1>nothing here</h1>");
    let dir = site.builder().not_found_page("404.html").build();
    for _ in 0..2 {
        let fields = [(header::RANGE, "bytes=0-1"), (header::IF_NONE_MATCH, "*")];
        let response = get_with(&dir, "/none", &fields).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(!response.headers().contains_key(header::ETAG));
        assert_eq!(content(response).await, "<h1>nothing here</h1>");
    }
    for target in ["/.env", "/a//b", "/docs/.git/"] {
        let response = get(&dir, target).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{target}");
        assert_eq!(content(response).await, "<h1>nothing here</h1>", "{target}");
    }
    let head = send(&dir, request(Method::HEAD, "/none")).await;
    assert_eq!((head.status(), head.body().len()), (StatusCode::NOT_FOUND, Some(0)));
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "21");
}

#[tokio::test]
async fn page_is_found_without_its_extension() {
    let site = Site::new();
    site.write("about.html", "about");
    site.write("docs.html", "not this one");
    let dir = site.builder().html_extension().build();
    assert_eq!(content(get(&dir, "/about").await).await, "about");
    assert_eq!(content(get(&dir, "/about.html").await).await, "about");
    assert_eq!(get(&dir, "/docs").await.status(), StatusCode::PERMANENT_REDIRECT);
    for target in ["/none", "/about/", "/about.html/"] {
        assert_eq!(get(&dir, target).await.status(), StatusCode::NOT_FOUND, "{target}");
    }
    assert_eq!(get(&site.dir(), "/about").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn page_with_directory_name_stands_for_directory() {
    let site = Site::new();
    fs::create_dir(site.root().join("blog")).unwrap();
    site.write("blog.html", "the blog");
    site.write("blog/2026.html", "this year");
    let dir = site.builder().html_extension().build();
    assert_eq!(content(get(&dir, "/blog").await).await, "the blog");
    assert_eq!(content(get(&dir, "/blog/2026").await).await, "this year");
    // The index file of the directory comes first.
    let pages = || site.builder().html_extension();
    for dir in [pages().listing().build(), pages().index("2026.html").build()] {
        assert_eq!(get(&dir, "/blog").await.status(), StatusCode::PERMANENT_REDIRECT);
    }
    assert_eq!(get(&dir, "/empty").await.status(), StatusCode::PERMANENT_REDIRECT);
}

#[tokio::test]
async fn first_of_several_index_names_wins() {
    let site = Site::new();
    site.write("docs/default.htm", "default");
    let dir = site.builder().indexes(["default.htm", "index.html"]).build();
    assert_eq!(content(get(&dir, "/docs/").await).await, "default");
    assert_eq!(content(get(&dir, "/").await).await, "<h1>home</h1>");
    assert_eq!(
        get(&site.builder().indexes([""; 0]).build(), "/").await.status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn content_type_of_extension_can_be_set() {
    let site = Site::new();
    let dir = site
        .builder()
        .content_type(|path| {
            path.ends_with("hello.txt").then(|| HeaderValue::from_static("text/x-greeting"))
        })
        .build();
    let kind = async |target| {
        get(&dir, target).await.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned()
    };
    assert_eq!(kind("/hello.txt").await, "text/x-greeting");
    assert_eq!(kind("/nothing.txt").await, "text/plain; charset=utf-8");
}

#[tokio::test]
async fn listing_is_sorted_and_escaped() {
    let site = Site::new();
    fs::create_dir_all(site.root().join("list/zoo")).unwrap();
    for name in [
        "b.txt",
        "a & b.txt",
        "<img src=x onerror=alert(1)>",
        "javascript:alert(1)",
        "\"q\".txt",
        ".hidden",
    ] {
        site.write(&format!("list/{name}"), "x");
    }
    let dir = site.builder().listing().build();
    let page = get(&dir, "/list/").await;
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(page.headers()[header::CONTENT_SECURITY_POLICY], "default-src 'none'");
    let page = String::from_utf8(content(page).await.to_vec()).unwrap();
    let links: Vec<&str> =
        page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let want = [
        "../",
        "./zoo/",
        "./%22q%22.txt",
        "./%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E",
        "./a%20%26%20b.txt",
        "./b.txt",
        "./javascript%3Aalert%281%29",
    ];
    assert_eq!(links, want);
    assert!(!page.contains("<img") && !page.contains(".hidden"));
    for link in &want[2..] {
        let target = format!("/list/{}", &link[2..]);
        assert_eq!(content(get(&dir, &target).await).await, "x", "{target}");
    }
    let json = get_with(&dir, "/list/", &[(header::ACCEPT, "application/json")]).await;
    assert_eq!(json.headers()[header::VARY], "accept");
    let json = String::from_utf8(content(json).await.to_vec()).unwrap();
    assert!(json.starts_with(r#"{"items":[{"name":"zoo","type":"folder","#), "{json}");
    assert!(json.contains(r#"{"name":"\"q\".txt","type":"file","size":1,"modified":""#), "{json}");
    assert!(json.ends_with("],\"more\":false}\n"));
    // An index file comes first, the root is a directory too, and listings are off by default.
    assert_eq!(content(get(&dir, "/docs/").await).await, "docs");
    fs::remove_file(site.root().join("index.html")).unwrap();
    let root = String::from_utf8(
        content(get(&site.builder().listing().build(), "/").await).await.to_vec(),
    );
    assert!(root.unwrap().contains("./docs/"));
    assert_eq!(get(&site.dir(), "/list/").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&dir, "/hello.txt/").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn hidden_names_are_served_if_they_are_allowed() {
    let site = Site::new();
    let dir = site.builder().hidden().build();
    assert_eq!(content(get(&dir, "/.env").await).await, "secret");
    assert_eq!(content(get(&dir, "/.git/config").await).await, "secret");
    assert_eq!(get(&dir, "/../secret.txt").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn f4_links_are_followed_as_far_as_their_rule_allows() {
    let site = Site::new();
    symlink("hello.txt", site.root().join("inside")).unwrap();
    symlink("../secret.txt", site.root().join("outside")).unwrap();
    symlink("/etc/hostname", site.root().join("absolute")).unwrap();
    symlink("docs", site.root().join("directory")).unwrap();
    let owned_by_us = rustix::process::getuid().is_root();
    for (which, served) in [
        (Symlinks::Inside, ["/inside", "/directory/index.html"].as_slice()),
        (Symlinks::Never, &[]),
        (Symlinks::Any, &["/inside", "/directory/index.html", "/outside", "/absolute"]),
        (
            Symlinks::SameOwner,
            if owned_by_us {
                &["/inside", "/directory/index.html", "/outside", "/absolute"]
            } else {
                &["/inside", "/directory/index.html", "/outside"]
            },
        ),
    ] {
        let dir = site.builder().symlinks(which).build();
        for target in ["/inside", "/directory/index.html", "/outside", "/absolute"] {
            let status = get(&dir, target).await.status().as_u16();
            let want = if served.contains(&target) { 200 } else { 404 };
            assert_eq!(status, want, "{which:?} {target}");
        }
        assert_eq!(get(&dir, "/hello.txt").await.status(), StatusCode::OK);
        assert_eq!(get(&dir, "/docs/index.html").await.status(), StatusCode::OK);
    }
    if owned_by_us {
        // A link of another owner to a file of ours.
        let link = site.root().join("inside");
        std::os::unix::fs::lchown(link, Some(12345), None).unwrap();
        let dir = site.builder().symlinks(Symlinks::SameOwner).build();
        assert_eq!(get(&dir, "/inside").await.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn cache_control_follows_the_name() {
    let site = Site::new();
    site.write("app.3f9a1c77.js", "x");
    let dir = site
        .builder()
        .cache_policy(|path| {
            is_hashed(path).then(|| HeaderValue::from_static("max-age=31536000, immutable"))
        })
        .build();
    let hashed = get(&dir, "/app.3f9a1c77.js").await;
    assert_eq!(hashed.headers()[header::CACHE_CONTROL], "max-age=31536000, immutable");
    assert!(!get(&dir, "/hello.txt").await.headers().contains_key(header::CACHE_CONTROL));
}

#[tokio::test]
async fn options_commute_and_the_last_page_for_missing_files_counts() {
    let site = Site::new();
    symlink("hello.txt", site.root().join("link")).unwrap();
    let max_age = HeaderValue::from_static("max-age=60");
    let one = site.builder().symlinks(Symlinks::Never).cache_control(max_age.clone()).hidden();
    let other = site.builder().hidden().cache_control(max_age).symlinks(Symlinks::Never);
    for dir in [one.build(), other.build()] {
        assert_eq!(get(&dir, "/link").await.status(), StatusCode::NOT_FOUND);
        let hidden = get(&dir, "/.env").await;
        assert_eq!(field(&hidden, &header::CACHE_CONTROL), "max-age=60");
        assert_eq!(content(hidden).await, "secret");
    }
    for (builder, status) in [
        (site.builder().fallback_page("none").not_found_page("hello.txt"), StatusCode::NOT_FOUND),
        (site.builder().not_found_page("none").fallback_page("hello.txt"), StatusCode::OK),
    ] {
        let response = get(&builder.build(), "/missing").await;
        assert_eq!(response.status(), status);
        assert_eq!(content(response).await, "0123456789");
    }
}
