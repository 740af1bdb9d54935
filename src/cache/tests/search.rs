//! `No-Vary-Search`.

use super::*;

#[tokio::test(start_paused = true)]
async fn response_is_used_for_equivalent_queries() {
    let origin = Origin::new(|request, n| {
        let rule = match request.uri().path() {
            "/a" => r#"key-order, params=("utm")"#,
            _ => "",
        };
        let mut response = response(&[("cache-control", "max-age=60")], n.to_string());
        if !rule.is_empty() && request.uri().query() != Some("own=1") {
            response.headers_mut().insert("no-vary-search", rule.parse().unwrap());
        }
        Ok(response)
    });
    let layer = CacheLayer::builder().no_vary_search(true).build();
    let site = site(&layer, &origin);
    for (path, number) in [
        ("/a?x=1&y=2", "1"),
        ("/a?x=1&y=2", "1"),
        ("/a?y=2&utm=b&x=1", "1"),
        ("/a?y=2&x=2", "2"),
        // This response has no `No-Vary-Search`, so it is for this query only.
        ("/a?own=1", "3"),
        ("/a?utm=1&own=1", "4"),
        ("/a?own=1", "3"),
        ("/a?own=1&utm=2", "4"),
        ("/b?x=1&utm=1", "5"),
        ("/b?x=1", "6"),
    ] {
        assert_eq!(fetch(&site, path).await, number, "{path}");
    }
    // An equivalent query invalidates it.
    layer
        .handle()
        .delete(&Key::new("http", "site.example", "/a", Some("y=2&x=1")).unwrap(), Purge::Hard);
    assert_eq!(fetch(&site, "/a?x=1&y=2").await, "7");
    tokio::time::advance(60 * SEC).await;
    assert_eq!(fetch(&site, "/a?y=2&x=1&utm=c").await, "8", "a stale response is not used");
    assert_eq!(fetch(&site, "/a?x=1&y=2&utm=d").await, "8");
}

#[tokio::test(start_paused = true)]
async fn no_vary_search_is_obeyed_if_enabled() {
    let origin =
        Origin::with_fields(&[("cache-control", "max-age=60"), ("no-vary-search", "params")]);
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!((fetch(&site, "/?a").await, fetch(&site, "/?b").await), ("1".into(), "2".into()));
}
