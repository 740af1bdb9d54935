//! Changes that the kernel reports: entries are fresh for an hour here.

use std::os::unix::fs::symlink;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Requests `target` until the response is right, which takes some hundredths of a second.
async fn becomes(dir: &Dir, target: &str, right: impl Fn(StatusCode, &[u8]) -> bool) {
    let polling = async {
        loop {
            let response = get(dir, target).await;
            let status = response.status();
            // A file that shrinks while it is sent is an error; the next response is complete.
            if let Ok(body) = response.into_body().collect().await
                && right(status, &body.to_bytes())
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(60), polling).await;
    assert!(within.is_ok(), "no change of {target} was seen");
}

#[tokio::test]
async fn watched_change_is_seen_before_revalidation() {
    let site = Site::new();
    let served = site.builder().revalidate(HOUR).precompressed().html_extension().build();
    let path = |name: &str| site.root().join(name);
    let is = |text: &'static str| move |_, body: &[u8]| body == text.as_bytes();
    let missing = |status, _: &[u8]| status == StatusCode::NOT_FOUND;

    becomes(&served, "/hello.txt", is("0123456789")).await;
    site.write("hello.txt", "written");
    becomes(&served, "/hello.txt", is("written")).await;
    site.write("new", "renamed");
    fs::rename(path("new"), path("hello.txt")).unwrap();
    becomes(&served, "/hello.txt", is("renamed")).await;
    let file = fs::File::options().write(true).open(path("hello.txt")).unwrap();
    file.set_len(2).unwrap();
    becomes(&served, "/hello.txt", is("re")).await;
    site.write("hello.txt", "x".repeat(100_000));
    becomes(&served, "/hello.txt", |_, body| body.len() == 100_000).await;
    file.set_len(60_000).unwrap();
    becomes(&served, "/hello.txt", |_, body| body.len() == 60_000).await;
    fs::remove_file(path("hello.txt")).unwrap();
    becomes(&served, "/hello.txt", missing).await;

    becomes(&served, "/docs/deep/a.txt", missing).await;
    fs::create_dir(path("docs/deep")).unwrap();
    becomes(&served, "/docs/deep", |status, _| status == StatusCode::PERMANENT_REDIRECT).await;
    site.write("docs/deep/a.txt", "deep");
    becomes(&served, "/docs/deep/a.txt", is("deep")).await;
    becomes(&served, "/about", missing).await;
    site.write("about.html", "about");
    becomes(&served, "/about", is("about")).await;

    let served = &served;
    let gzip = async || {
        let fields = [(header::ACCEPT_ENCODING, "gzip")];
        let response = get_with(served, "/docs/", &fields).await;
        field(&response, &header::CONTENT_ENCODING).to_owned()
    };
    assert_eq!(gzip().await, "(none)");
    site.write("docs/index.html.gz", "gzipped");
    becomes(served, "/docs/", is("docs")).await;
    while gzip().await != "gzip" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn replaced_directory_is_watched() {
    let site = Site::new();
    for release in ["one", "two", "three"] {
        fs::create_dir_all(site.root().join(release).join("js")).unwrap();
        site.write(&format!("{release}/js/app.js"), release);
    }
    let current = site.root().join("current");
    symlink("one", &current).unwrap();
    let served = site.builder().revalidate(HOUR).listing().build();
    becomes(&served, "/current/js/app.js", |_, body| body == b"one").await;
    for release in ["two", "three"] {
        symlink(release, site.root().join("next")).unwrap();
        fs::rename(site.root().join("next"), &current).unwrap();
        let now = |_, body: &[u8]| body == release.as_bytes();
        becomes(&served, "/current/js/app.js", now).await;
    }
    site.write("three/js/app.js", "four");
    becomes(&served, "/current/js/app.js", |_, body| body == b"four").await;

    fs::rename(site.root().join("one"), site.root().join("old")).unwrap();
    fs::rename(site.root().join("two"), site.root().join("one")).unwrap();
    becomes(&served, "/one/js/app.js", |_, body| body == b"two").await;
    let lists = |name: &'static str| {
        move |_, body: &[u8]| memchr::memmem::find(body, name.as_bytes()).is_some()
    };
    becomes(&served, "/one/js/", lists("app.js")).await;
    site.write("one/js/more.js", "");
    becomes(&served, "/one/js/", lists("more.js")).await;
}

#[tokio::test]
async fn fallback_page_is_watched_too() {
    let site = Site::new();
    let served = site.builder().revalidate(HOUR).not_found_page("docs/404.html").build();
    becomes(&served, "/none", |_, body| body == b"404 Not Found\n").await;
    site.write("docs/404.html", "first");
    becomes(&served, "/none", |_, body| body == b"first").await;
    site.write("docs/404.html", "second");
    becomes(&served, "/none", |_, body| body == b"second").await;
}

#[tokio::test]
async fn dir_without_watch_has_none() {
    let site = Site::new();
    for served in [
        site.builder().watch(false).build(),
        site.builder().revalidate(Duration::ZERO).build(),
        site.builder().cache_entries(0).build(),
    ] {
        get(&served, "/hello.txt").await;
        assert!(!served.is_watched());
    }
    let served = site.dir();
    assert!(!served.is_watched(), "there was no lookup yet");
    get(&served, "/hello.txt").await;
    assert!(served.is_watched());
}

#[tokio::test]
async fn deleted_root_is_opened_again_when_it_exists_again() {
    for (watch, inline) in [(true, true), (true, false), (false, true), (false, false)] {
        let site = Site::new();
        let revalidate = if watch { HOUR } else { Duration::from_nanos(1) };
        let builder = site.builder().revalidate(revalidate).watch(watch).inline_lookups(inline);
        let served = builder.build();
        assert_eq!(content(get(&served, "/hello.txt").await).await, "0123456789");
        for round in ["first", "second"] {
            fs::remove_dir_all(site.root()).unwrap();
            let gone = |status, _: &[u8]| status == StatusCode::NOT_FOUND;
            becomes(&served, "/hello.txt", gone).await;
            fs::create_dir(site.root()).unwrap();
            site.write("new.txt", round);
            assert_eq!(content(get(&served, "/new.txt").await).await, round);
            site.write("hello.txt", round);
            becomes(&served, "/hello.txt", |_, body| body == round.as_bytes()).await;
        }
        // The directory that is open is kept while it exists.
        let elsewhere = site.outside.path().join("elsewhere");
        fs::rename(site.root(), &elsewhere).unwrap();
        fs::create_dir(site.root()).unwrap();
        site.write("other.txt", "other");
        assert_eq!(get(&served, "/other.txt").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(content(get(&served, "/new.txt").await).await, "second");
    }
}
