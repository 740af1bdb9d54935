//! The cache: how long entries are fresh, and files that change.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tower::Service;

use super::*;

/// Returns the response if it is a cache hit; `None` if it needs a lookup on another thread.
///
/// That lookup may be complete before the first poll, so the future reports whether it was a hit.
fn send_now(dir: &Dir, target: &str) -> Option<Response<Body>> {
    let mut future = dir.clone().call(request(Method::GET, target));
    let hit = future.is_hit();
    match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) if hit => Some(answer.unwrap()),
        Poll::Ready(_) | Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn hit_is_served_without_lookup_for_one_second() {
    let site = Site::new();
    site.write("large.bin", vec![7; 100_000]);
    let served = site.builder().watch(false).inline_lookups(false).build();
    for target in ["/hello.txt", "/large.bin", "/none", "/docs", "/docs/"] {
        let first = get(&served, target).await;
        let second = send_now(&served.clone(), target).expect(target);
        assert_eq!(first.headers(), second.headers(), "{target}");
        assert_eq!(content(first).await, content(second).await, "{target}");
    }
    site.write("hello.txt", "changed");
    fs::remove_file(site.root().join("large.bin")).unwrap();
    site.write("none", "there");
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(content(send_now(&served, "/hello.txt").unwrap()).await, "0123456789");
    assert_eq!(send_now(&served, "/large.bin").unwrap().status(), StatusCode::OK);

    tokio::time::advance(Duration::from_millis(1)).await;
    let lookup = async |target: &str| {
        let future = served.clone().call(request(Method::GET, target));
        assert!(!future.is_hit(), "{target}");
        future.await.unwrap()
    };
    assert_eq!(content(lookup("/hello.txt").await).await, "changed");
    assert_eq!(lookup("/large.bin").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(content(lookup("/none").await).await, "there");
}

#[tokio::test(start_paused = true)]
async fn one_request_revalidates_while_others_get_stale_entry() {
    let site = Site::new();
    let served = site.builder().watch(false).inline_lookups(false).build();
    get(&served, "/hello.txt").await;
    site.write("hello.txt", "changed");
    tokio::time::advance(Duration::from_secs(1)).await;
    let first = served.clone().call(request(Method::GET, "/hello.txt"));
    assert!(!first.is_hit());
    for _ in 0..3 {
        // The lookup may be complete already.
        let known = content(send_now(&served, "/hello.txt").expect("one lookup only")).await;
        assert!(known == "0123456789" || known == "changed", "{known:?}");
    }
    assert_eq!(content(first.await.unwrap()).await, "changed");
    assert_eq!(content(send_now(&served, "/hello.txt").unwrap()).await, "changed");
}

#[tokio::test]
async fn dir_without_revalidation_interval_sees_every_change_at_once() {
    let site = Site::new();
    let served = site.builder().revalidate(Duration::ZERO).build();
    let read = async || content(get(&served, "/hello.txt").await).await;
    assert_eq!(read().await, "0123456789");

    site.write("new", "replaced");
    fs::rename(site.root().join("new"), site.root().join("hello.txt")).unwrap();
    assert_eq!(read().await, "replaced");

    let file = fs::File::options().write(true).open(site.root().join("hello.txt")).unwrap();
    file.set_len(3).unwrap();
    assert_eq!(read().await, "rep");

    site.write("hello.txt", "x".repeat(100_000));
    assert_eq!(read().await.len(), 100_000);
    fs::remove_file(site.root().join("hello.txt")).unwrap();
    assert_eq!(get(&served, "/hello.txt").await.status(), StatusCode::NOT_FOUND);
    fs::create_dir(site.root().join("hello.txt")).unwrap();
    assert_eq!(get(&served, "/hello.txt").await.status(), StatusCode::PERMANENT_REDIRECT);
}

#[tokio::test]
async fn new_file_of_same_size_and_time_has_another_etag() {
    let site = Site::new();
    let served = site.builder().revalidate(Duration::ZERO).build();
    let before = get(&served, "/hello.txt").await;
    let time = fs::metadata(site.root().join("hello.txt")).unwrap().modified().unwrap();
    site.write("new", "9876543210");
    fs::File::options()
        .write(true)
        .open(site.root().join("new"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::rename(site.root().join("new"), site.root().join("hello.txt")).unwrap();
    let after = get(&served, "/hello.txt").await;
    assert_eq!(field(&before, &header::LAST_MODIFIED), field(&after, &header::LAST_MODIFIED));
    assert_ne!(field(&before, &header::ETAG), field(&after, &header::ETAG));
}

#[tokio::test]
async fn large_file_that_shrinks_under_response_ends_it_with_error() {
    let site = Site::new();
    site.write("large.bin", vec![7; 200_000]);
    let response = get(&site.dir(), "/large.bin").await;
    let file = fs::File::options().write(true).open(site.root().join("large.bin")).unwrap();
    file.set_len(100_000).unwrap();
    assert!(response.into_body().collect().await.is_err(), "the body is not padded");
}

#[tokio::test(start_paused = true)]
async fn spellings_of_one_path_share_their_entry() {
    let site = Site::new();
    let served = site.builder().inline_lookups(false).build();
    get(&served, "/hello.txt").await;
    assert!(send_now(&served, "/%68ello.txt?query").is_some());
    let uncached = site.builder().inline_lookups(false).cache_entries(0).build();
    get(&uncached, "/hello.txt").await;
    assert!(send_now(&uncached, "/hello.txt").is_none());
}

#[tokio::test(start_paused = true)]
async fn file_from_the_future_is_not_validated_by_its_date() {
    let site = Site::new();
    let file = fs::File::options().write(true).open(site.root().join("hello.txt")).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(3600)).unwrap();
    let dir = site.dir();
    let first = get(&dir, "/hello.txt").await;
    let (last_modified, tag) =
        (&first.headers()[header::LAST_MODIFIED], &first.headers()[header::ETAG]);
    let last_modified = last_modified.to_str().unwrap();
    let before = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (field, value, status) in [
        (header::IF_UNMODIFIED_SINCE, last_modified, 200),
        (header::IF_UNMODIFIED_SINCE, before, 200),
        (header::IF_MODIFIED_SINCE, last_modified, 200),
        (header::IF_NONE_MATCH, tag.to_str().unwrap(), 304),
    ] {
        let response = get_with(&dir, "/hello.txt", &[(field.clone(), value)]).await;
        assert_eq!(response.status().as_u16(), status, "{field} {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn resident_file_is_looked_up_without_blocking_thread() {
    let site = Site::new();
    site.write("large.bin", vec![7; 100_000]);
    let served = site.builder().revalidate(Duration::ZERO).build();
    get(&served, "/hello.txt").await;
    if send_now(&served, "/hello.txt").is_none() {
        return; // no local disk, or an old kernel
    }
    for text in ["a", "", "another text"] {
        site.write("hello.txt", text);
        let answer = send_now(&served, "/hello.txt").unwrap();
        assert_eq!(content(answer).await, text);
    }
    site.write("new", "renamed");
    fs::rename(site.root().join("new"), site.root().join("hello.txt")).unwrap();
    assert_eq!(content(send_now(&served, "/hello.txt").unwrap()).await, "renamed");
    fs::remove_file(site.root().join("hello.txt")).unwrap();
    assert_eq!(get(&served, "/hello.txt").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&served, "/docs").await.status(), StatusCode::PERMANENT_REDIRECT);
    assert!(send_now(&served, "/docs/").is_some());
    assert!(
        send_now(&served, "/large.bin").is_none(),
        "large files are opened on a thread that may block"
    );
}
