//! Refreshes in the background: which requests start one, and how long it may take.

use super::*;

/// Returns how many requests the origin has received after a request with these fields for a stale response with this
/// `Cache-Control`, and the response to the next one.
async fn after_refresh(control: &'static str, request: &[(&str, &str)]) -> (usize, String) {
    let origin = Origin::new(move |request, n| {
        let is_denied = request.headers().get("authorization").is_some_and(|v| v == "bogus");
        let fields = if is_denied { [("status", "401")] } else { [("cache-control", control)] };
        Ok(response(&fields, n.to_string()))
    });
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(fetch(&site, "/").await, "1");
    tokio::time::advance(10 * SEC).await;
    assert_eq!(text(site.clone().oneshot(get("/", request)).await.unwrap()).await, "1");
    settle().await;
    let count = origin.count();
    (count, fetch(&site, "/").await)
}

#[tokio::test(start_paused = true)]
async fn request_whose_response_could_not_be_stored_starts_no_refresh() {
    let control = "max-age=10, stale-while-revalidate=60";
    assert_eq!(after_refresh(control, &[]).await, (2, "2".into()));
    for request in [
        ("cache-control", "no-store"),
        ("cache-control", "only-if-cached"),
        ("authorization", "valid"),
    ] {
        assert_eq!(after_refresh(control, &[request]).await, (1, "1".into()), "{request:?}");
    }
    for directive in ["public", "s-maxage=10"] {
        let control: &'static str = format!("{control}, {directive}").leak();
        let valid = after_refresh(control, &[("authorization", "valid")]).await;
        assert_eq!(valid, (2, "2".into()), "{control}");
        let bogus = after_refresh(control, &[("authorization", "bogus")]).await;
        assert_eq!(bogus, (2, "1".into()), "it is still stored: {control}");
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_without_a_response_ends_after_a_time() {
    let origin = Origin::new(|_, n| {
        Ok(response(&[("cache-control", "max-age=10, stale-while-revalidate=999")], n.to_string()))
    });
    let layer = CacheLayer::builder().max_refreshes(1).build();
    let layer_handle = layer.handle();
    let site_of = |delay| site(&layer, &origin.clone().delayed(delay));
    let (site, hung) = (site_of(Duration::ZERO), site_of(3600 * SEC));
    for path in ["/a", "/b"] {
        fetch(&site, path).await;
    }
    tokio::time::advance(10 * SEC).await;
    fetch(&hung, "/a").await;
    settle().await;
    assert_eq!((origin.count(), layer_handle.stats().fetches), (3, 1));
    fetch(&site, "/b").await;
    settle().await;
    assert_eq!(origin.count(), 3, "there are too many refreshes");
    tokio::time::advance(REFRESH_TIMEOUT).await;
    settle().await;
    assert_eq!(layer_handle.stats().fetches, 0);
    fetch(&site, "/b").await;
    settle().await;
    assert_eq!(origin.count(), 4);
}
