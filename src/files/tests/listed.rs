//! Listings of directories with hostile names.

use std::{
    io,
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::files::{Backend, Item, Lookup, Symlinks};

/// Names that must not break a listing.
const HOSTILE: [&[u8]; 24] = [
    b"\xff\xfe.txt",
    b"caf\xe9",
    b"new\nline",
    b"\r\nset-cookie: a=b",
    b"bell\x07",
    b"\x7f",
    b"c1 \xc2\x9b31m",
    b"back\\slash",
    b"..\\up",
    b"%2e%2e",
    b"%2e%2e%2fsecret.txt",
    b"%00",
    b"%",
    b"a%2fb",
    b"?query",
    b"#fragment",
    b"javascript:alert(1)",
    b"<script>alert(1)<",
    b"\" onmouseover=\"alert(1)",
    b"'single'",
    b"&lt;b&gt;",
    b" space ",
    b"trailing.",
    "\u{202e}txt.exe".as_bytes(),
];

/// Returns the links of a page, and the names in the JSON listing.
async fn listed(dir: &Dir, target: &str) -> (Vec<String>, Vec<String>) {
    let page = get(dir, target).await;
    assert_eq!(page.status(), StatusCode::OK, "{target}");
    let page = String::from_utf8(content(page).await.to_vec()).unwrap();
    assert!(!page.contains("<script") && !page.contains("\" on"), "{page}");
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()), "{page}");
    let links = page.split("href=\"./").skip(1).map(|rest| rest.split('"').next().unwrap().into());
    let json = get_with(dir, target, &[(header::ACCEPT, "application/json")]).await;
    let json = String::from_utf8(content(json).await.to_vec()).unwrap();
    let names = json.split("{\"name\":\"").skip(1).map(|rest| {
        let name = rest.split("\",\"type\":\"").next().unwrap();
        name.replace("\\\"", "\"").replace("\\\\", "\\")
    });
    (links.collect(), names.collect())
}

#[tokio::test]
async fn every_listed_entry_can_be_requested() {
    let site = Site::new();
    let directory = site.root().join("list");
    fs::create_dir(&directory).unwrap();
    for name in HOSTILE {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(directory.join(name), name.as_bytes()).unwrap();
    }
    for dir in [site.builder().listing().build(), site.builder().listing().hidden().build()] {
        let (links, names) = listed(&dir, "/list/").await;
        assert_eq!(links.len(), names.len());
        assert!(names.len() > 10, "{names:?}");
        for (link, name) in links.iter().zip(&names) {
            let response = get(&dir, &format!("/list/{link}")).await;
            assert_eq!(response.status(), StatusCode::OK, "{link}");
            assert_eq!(content(response).await, *name, "{link}");
        }
    }
}

#[tokio::test]
async fn listing_is_of_the_requested_directory_wherever_its_index_is() {
    let site = Site::new();
    for name in ["a/web/inner.txt", "a/outer.txt", "web/inner.txt"] {
        fs::create_dir_all(site.root().join(name).parent().unwrap()).unwrap();
        site.write(name, "x");
    }
    let dir = site.builder().listing().index("web/index.html").build();
    assert_eq!(listed(&dir, "/a/").await.1, ["web", "outer.txt"]);
    assert_eq!(listed(&dir, "/a/web/").await.1, ["inner.txt"]);
    assert!(listed(&dir, "/").await.1.contains(&"hello.txt".to_owned()));
    for none in ["/none/", "/hello.txt/", "/a/outer.txt/"] {
        assert_eq!(get(&dir, none).await.status(), StatusCode::NOT_FOUND, "{none}");
    }
}

#[tokio::test]
async fn link_is_listed_as_its_target_if_that_is_served() {
    let site = Site::new();
    let at = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
    fs::File::open(site.root().join("hello.txt")).unwrap().set_modified(at).unwrap();
    for directory in [site.root(), site.root().join("empty")] {
        let up = if directory.ends_with("empty") { "../" } else { "" };
        for (link, to) in [
            ("to-file", "hello.txt"),
            ("to-directory", "docs"),
            ("to-nothing", "none.txt"),
            ("to-itself", "to-itself"),
            ("to-outside", "../secret.txt"),
        ] {
            std::os::unix::fs::symlink(format!("{up}{to}"), directory.join(link)).unwrap();
        }
        std::os::unix::fs::symlink("/dev/null", directory.join("to-device")).unwrap();
    }
    fs::remove_file(site.root().join("index.html")).unwrap();
    for (rule, want) in [
        (Symlinks::Never, &[][..]),
        (Symlinks::Inside, &["to-directory", "to-file"]),
        (Symlinks::Any, &["to-directory", "to-file", "to-outside"]),
    ] {
        let dir = site.builder().listing().symlinks(rule).build();
        for target in ["/", "/empty/"] {
            let (links, names) = listed(&dir, target).await;
            let names: Vec<_> = names.iter().filter(|name| name.starts_with("to-")).collect();
            assert_eq!(names, want, "{rule:?} {target}");
            for link in links {
                let status = get(&dir, &format!("{target}{link}")).await.status();
                assert_eq!(status, StatusCode::OK, "{rule:?} {target}{link}");
            }
        }
        let accept = [(header::ACCEPT, "application/json")];
        let json = get_with(&dir, "/empty/", &accept).await;
        let json = String::from_utf8(content(json).await.to_vec()).unwrap();
        let file = r#"{"name":"to-file","type":"file","size":10,"modified":"Sun, 06 Nov 1994"#;
        let directory = r#"{"name":"to-directory","type":"folder","#;
        for item in [file, directory] {
            assert_eq!(json.contains(item), rule != Symlinks::Never, "{json}");
        }
    }
}

#[tokio::test]
async fn listing_is_json_for_clients_that_prefer_it() {
    let site = Site::new();
    let dir = site.builder().listing().build();
    for (fields, kind) in [
        (&["application/json"][..], "application/json"),
        (&["text/plain", "application/json, */*;q=0.9"], "application/json"),
        (&["application/json, text/html;q=0.5"], "application/json"),
        (&["text/html;q=0, */*"], "application/json"),
        (&["Application/JSON"], "application/json"),
        (&["application/json, text/plain, */*"], "application/json"),
        (&["application/json", "text/html"], "text/html; charset=utf-8"),
        (&["application/json;q=0.1, text/*"], "text/html; charset=utf-8"),
        (&["application/json;q=0, */*"], "text/html; charset=utf-8"),
        (&["application/json-seq"], "text/html; charset=utf-8"),
        (&["*/*"], "text/html; charset=utf-8"),
        (&[], "text/html; charset=utf-8"),
    ] {
        let mut request = request(Method::GET, "/empty/");
        for field in fields {
            request.headers_mut().append(header::ACCEPT, field.parse().unwrap());
        }
        let response = send(&dir, request).await;
        assert_eq!(field(&response, &header::CONTENT_TYPE), kind, "{fields:?}");
        let head = send(&dir, super::request(Method::HEAD, "/empty/")).await;
        assert_eq!(head.body().len(), Some(0));
    }
}

#[tokio::test]
async fn listing_is_served_without_etag() {
    let site = Site::new();
    let dir = site.builder().listing().build();
    for (name, value, status) in [
        (header::IF_MATCH, "\"x\"", StatusCode::PRECONDITION_FAILED),
        (header::IF_MATCH, "*", StatusCode::OK),
        (header::IF_NONE_MATCH, "\"x\"", StatusCode::OK),
        (header::IF_NONE_MATCH, "*", StatusCode::NOT_MODIFIED),
        (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT", StatusCode::OK),
        (header::IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT", StatusCode::OK),
    ] {
        let response = get_with(&dir, "/empty/", &[(name, value)]).await;
        assert_eq!(response.status(), status, "{value}");
        assert_eq!(field(&response, &header::VARY), "accept", "{value}");
    }
}

/// A directory with more items than a listing has, after some hidden ones. It counts the items that were read.
#[derive(Debug)]
struct LargeDirectory {
    hidden: usize,
    visible: usize,
    count: Arc<AtomicUsize>,
}

impl Backend for LargeDirectory {
    fn lookup(&self, path: &str) -> io::Result<Lookup> {
        Ok(if path == "." { Lookup::Directory } else { Lookup::Missing })
    }

    fn list(&self, _: &str, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> io::Result<()> {
        let hidden = (0..self.hidden).map(|i| if i % 2 == 0 { ".x" } else { "\n" }.to_owned());
        for name in hidden.chain((0..self.visible).map(|i| format!("{i:05}"))) {
            self.count.fetch_add(1, Ordering::Relaxed);
            let item = Item { name: name.into(), is_directory: false, size: 0, modified: None };
            if each(item).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn listing_is_cut_at_its_bound_and_says_so() {
    for (hidden, visible, listed, has_more, want_read) in [
        (0, 10_000, 10_000, false, 10_000),
        (0, 10_001, 10_000, true, 10_001),
        (0, 20_000, 10_000, true, 10_001),
        // Hidden names do not count.
        (20_000, 50, 50, false, 20_050),
        (20_000, 10_000, 10_000, false, 30_000),
        (20_000, 20_000, 10_000, true, 30_001),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let dir = DirBuilder::backend(LargeDirectory { hidden, visible, count: count.clone() })
            .listing()
            .build();
        let json = get_with(&dir, "/", &[(header::ACCEPT, "application/json")]).await;
        let json = String::from_utf8(content(json).await.to_vec()).unwrap();
        assert_eq!(json.matches("\"name\":").count(), listed);
        assert!(json.ends_with(&format!("],\"more\":{has_more}}}\n")));
        assert_eq!(count.load(Ordering::Relaxed), want_read);
        let page = String::from_utf8(content(get(&dir, "/").await).await.to_vec()).unwrap();
        assert_eq!(page.matches("<li>").count(), 1 + listed + usize::from(has_more));
    }
}
