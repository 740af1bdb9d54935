//! One file for every path.

use super::*;
use crate::files;

#[tokio::test]
async fn single_file_answers_every_path() {
    let site = Site::new();
    let served = files::file(site.root().join("hello.txt"));
    for target in ["/", "/hello.txt", "/a/b", "/none", "/docs", "/..%2f", "/.git", "/x?y"] {
        let response = get(&served, target).await;
        assert_eq!(response.status(), StatusCode::OK, "{target}");
        assert_eq!(field(&response, &header::CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(content(response).await, "0123456789", "{target}");
    }
    let range = [(header::RANGE, "bytes=2-3")];
    assert_eq!(content(get_with(&served, "/x", &range).await).await, "23");
    let post = send(&served, request(Method::POST, "/hello.txt")).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    let head = send(&served, request(Method::HEAD, "/y")).await;
    assert_eq!(field(&head, &header::CONTENT_LENGTH), "10");
}

#[tokio::test]
async fn single_file_may_have_any_name_and_may_come_and_go() {
    let site = Site::new();
    for name in
        [".env.local", "100%.txt", "%2F", "with space", "a\\b", "caf\u{e9}", "new\nline", "..."]
    {
        let path = site.root().join(name);
        let served = DirBuilder::file(&path).revalidate(Duration::ZERO).build();
        assert_eq!(get(&served, "/").await.status(), StatusCode::NOT_FOUND, "{name:?}");
        fs::write(&path, name).unwrap();
        assert_eq!(content(get(&served, "/").await).await, name);
        fs::remove_file(&path).unwrap();
        assert_eq!(get(&served, "/").await.status(), StatusCode::NOT_FOUND, "{name:?}");
    }
}

#[tokio::test]
async fn path_that_is_no_file_is_404() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink};
    let site = Site::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(site.root().join(odd), "odd").unwrap();
    symlink("/etc/hostname", site.root().join("out")).unwrap();
    symlink("hello.txt", site.root().join("in")).unwrap();
    for none in ["".into(), "/".into(), "..".into(), site.root(), site.root().join("..")] {
        let response = get(&files::file(&none), "/").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{none:?}");
        assert_eq!(field(&response, &header::LOCATION), "(none)", "{none:?}");
    }
    assert_eq!(get(&files::file(site.root().join(odd)), "/").await.status(), 404);
    assert_eq!(get(&files::file(site.root().join("out")), "/").await.status(), 404);
    assert_eq!(content(get(&files::file(site.root().join("in")), "/").await).await, "0123456789");
}

#[tokio::test]
async fn change_of_single_file_is_noticed() {
    let site = Site::new();
    let path = site.root().join("100%.txt");
    fs::write(&path, "old").unwrap();
    let served = DirBuilder::file(&path).revalidate(Duration::from_secs(3600)).build();
    assert_eq!(content(get(&served, "/").await).await, "old");
    fs::write(&path, "new").unwrap();
    let heard = async {
        while content(get(&served, "/").await).await != "new" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard).await.expect("it is seen in time");
}
