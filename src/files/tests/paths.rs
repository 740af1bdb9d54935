//! Which paths name a file and which are missing, in every spelling.

use std::os::unix::fs::symlink;

use super::*;

#[tokio::test]
async fn directory_with_slash_is_its_index_file() {
    let site = Site::new();
    let served = site.dir();
    let home = get(&served, "/").await;
    assert_eq!(field(&home, &header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(content(home).await, "<h1>home</h1>");
    assert_eq!(content(get(&served, "/docs/?x=1").await).await, "docs");
    for none in ["/empty/", "/odd/", "/none/"] {
        assert_eq!(get(&served, none).await.status(), StatusCode::NOT_FOUND, "{none}");
    }
    let other = site.builder().index("hello.txt").build();
    assert_eq!(content(get(&other, "/").await).await, "0123456789");
}

#[tokio::test]
async fn directory_without_slash_is_redirected_to_itself_with_slash() {
    let site = Site::new();
    fs::create_dir_all(site.root().join("docs/x:y")).unwrap();
    let served = site.dir();
    for (target, location) in [
        ("/docs", "./docs/"),
        ("/docs?a=1&b=//evil.com", "./docs/?a=1&b=//evil.com"),
        ("/docs?", "./docs/?"),
        ("/%64ocs", "./%64ocs/"),
        ("/a%20b", "./a%20b/"),
        ("/docs/x:y", "./x:y/"),
        ("/odd/index.html", "./index.html/"),
    ] {
        let response = get(&served, target).await;
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT, "{target}");
        assert_eq!(field(&response, &header::LOCATION), location, "{target}");
    }
}

#[tokio::test]
async fn f3_no_redirect_leads_to_another_host() {
    let site = Site::new();
    fs::create_dir_all(site.root().join("evil.com/dir")).unwrap();
    let served = site.dir();
    for target in ["//evil.com/dir", "//evil.com", "///evil.com/dir", "/evil.com//dir", "//"] {
        let response = get(&served, target).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{target}");
        assert_eq!(field(&response, &header::LOCATION), "(none)", "{target}");
    }
    for target in ["/\\evil.com/dir", "/%5cevil.com/dir", "/%2fevil.com/dir", "/%0d%0aLocation:x"] {
        assert_eq!(get(&served, target).await.status(), StatusCode::BAD_REQUEST, "{target}");
    }
}

#[tokio::test]
async fn f1_traversal_in_every_spelling_is_refused() {
    let site = Site::new();
    let served = site.dir();
    for target in [
        "/../secret.txt",
        "/docs/../../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "/%c0%ae%c0%ae/secret.txt",
        "/docs/..%2f..%2fsecret.txt",
        "/%252e%252e/secret.txt",
        "/hello.txt%00.html",
        "/./hello.txt",
        "/private.%5csecret.txt",
        "/docs%2findex.html",
        "/docs%2f",
        "/..;/secret.txt",
        "/%",
        "/%zz",
    ] {
        let response = get(&served, target).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{target}");
    }
    // Special names of other systems are ordinary names here, of missing files.
    for target in [
        "/foo/bar/c:/windows/web/screen/img101.png",
        "/hello.txt::$DATA",
        "/hello.txt.",
        "/hello.txt%20",
        "/hello.txt/",
        "/hello.txt/x",
        "/HELLO.TXT",
        "/docs//index.html",
    ] {
        let response = get(&served, target).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{target}");
        assert_eq!(content(response).await, "404 Not Found\n", "{target}");
    }
}

#[tokio::test]
async fn hidden_names_are_absent_except_the_well_known() {
    let site = Site::new();
    let served = site.dir();
    for target in ["/.env", "/%2eenv", "/.git/config", "/.git/", "/.git", "/docs/.env"] {
        assert_eq!(get(&served, target).await.status(), StatusCode::NOT_FOUND, "{target}");
    }
    assert_eq!(content(get(&served, "/.well-known/security.txt").await).await, "mail");
}

#[tokio::test]
async fn f2_names_are_decoded_once() {
    let site = Site::new();
    site.write("%41.txt", "percent");
    site.write("A.txt", "letter");
    let served = site.dir();
    assert_eq!(content(get(&served, "/a%20b/100%25.txt").await).await, "odd");
    assert_eq!(content(get(&served, "/%41.txt").await).await, "letter");
    assert_eq!(content(get(&served, "/%2541.txt").await).await, "percent");
}

#[tokio::test]
async fn f4_links_out_of_the_root_are_absent_and_links_within_are_followed() {
    let site = Site::new();
    symlink("../secret.txt", site.root().join("out")).unwrap();
    symlink(site.outside.path(), site.root().join("up")).unwrap();
    symlink("hello.txt", site.root().join("in")).unwrap();
    let served = site.dir();
    assert_eq!(get(&served, "/out").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&served, "/up/secret.txt").await.status(), StatusCode::NOT_FOUND);
    // Only `openat2` follows links; without it this one is absent as well.
    assert_ne!(content(get(&served, "/in").await).await, "secret");
}

#[tokio::test]
async fn file_generated_by_the_kernel_is_absent() {
    // Their reported sizes are 0 and 4096, both wrong.
    for (root, target) in [("/proc/sys/kernel", "/ostype"), ("/sys/kernel", "/uevent_seqnum")] {
        if fs::exists(root).unwrap() {
            assert_eq!(get(&dir(root), target).await.status(), StatusCode::NOT_FOUND, "{target}");
        }
    }
    let site = Site::new();
    assert_eq!(content(get(&site.dir(), "/nothing.txt").await).await, "");
}
