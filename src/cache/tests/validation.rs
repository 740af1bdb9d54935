//! The response to the client whose request validates a stored response.

use super::*;

#[tokio::test(start_paused = true)]
async fn set_cookie_of_a_304_reaches_the_validating_client_only() {
    for how in [SetCookie::KeepOut, SetCookie::Remove, SetCookie::Store] {
        let origin = Origin::new(|_, n| {
            let mut fields =
                vec![("cache-control", "max-age=10, private=\"x-user\""), ("etag", "\"1\"")];
            if n > 1 {
                fields.extend([("status", "304"), ("set-cookie", "a=1"), ("x-user", "b")]);
            }
            Ok(response(&fields, if n == 1 { "content" } else { "" }))
        });
        let site = site(&CacheLayer::builder().set_cookie(how).build(), &origin);
        fetch(&site, "/").await;
        tokio::time::advance(10 * SEC).await;
        let fields = async || {
            let response = site.clone().oneshot(get("/", &[])).await.unwrap();
            ["set-cookie", "x-user"].map(|name| response.headers().get_all(name).iter().count())
        };
        assert_eq!(fields().await, [1, 1], "{how:?}");
        let is_stored = usize::from(how == SetCookie::Store);
        assert_eq!((fields().await, origin.count()), ([is_stored, 0], 2), "{how:?}");
    }
}

type Fields = &'static [(&'static str, &'static str)];

const PUBLIC: &[(&str, &str)] = &[("cache-control", "max-age=60")];

/// Returns an origin that answers GET with a response that is fresh for a second, and later ones with 503, and HEAD with
/// these fields.
fn origin_with_head(head: Fields) -> Origin {
    Origin::new(move |request, n| {
        let first = [("cache-control", "max-age=1, stale-if-error=60"), ("etag", "\"1\"")];
        Ok(match request.method() {
            &Method::HEAD => response(head, Body::empty()),
            _ if n == 1 => response(&first, "1"),
            _ => response(&[("status", "503")], Body::empty()),
        })
    })
}

/// Returns the status and the content of the response to GET, and how many requests the origin has received, after a HEAD
/// request with these fields for the stale response.
async fn get_after_head(
    layer: &CacheLayer,
    origin: &Origin,
    fields: Fields,
) -> (u16, String, usize) {
    let site = site(layer, origin);
    assert_eq!(fetch(&site, "/").await, "1");
    tokio::time::advance(SEC).await;
    let mut head = get("/", fields);
    *head.method_mut() = Method::HEAD;
    assert_eq!(status_of(&site, head).await, StatusCode::OK);
    let response = site.clone().oneshot(get("/", &[])).await.unwrap();
    (response.status().as_u16(), text(response).await, origin.count())
}

#[tokio::test(start_paused = true)]
async fn head_response_that_must_not_be_stored_removes_the_stored_one() {
    let cookie = &[("cache-control", "max-age=60"), ("set-cookie", "a=1"), ("x-user", "b")];
    let private_etag = &[("cache-control", "private"), ("etag", "\"2\"")];
    for head in [
        &[("cache-control", "private, max-age=60")][..],
        &[("cache-control", "no-store, max-age=60")],
        private_etag,
        cookie,
        &[("set-cookie", "a=1")],
    ] {
        let got = get_after_head(&CacheLayer::new(), &origin_with_head(head), &[]).await;
        assert_eq!(got, (503, String::new(), 3), "{head:?}");
    }
    for (how, is_removed) in
        [(SetCookie::KeepOut, true), (SetCookie::Remove, false), (SetCookie::Store, false)]
    {
        let layer = CacheLayer::builder().set_cookie(how).build();
        let (status, _, count) = get_after_head(&layer, &origin_with_head(cookie), &[]).await;
        let want = if is_removed { (503, 3) } else { (200, 2) };
        assert_eq!((status, count), want, "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_response_of_other_content_or_another_vary_makes_the_stored_one_stale() {
    for head in [
        &[("cache-control", "max-age=60"), ("etag", "\"2\"")][..],
        &[("cache-control", "max-age=60"), ("vary", "x")],
        &[("cache-control", "max-age=60"), ("vary", "*")],
    ] {
        let got = get_after_head(&CacheLayer::new(), &origin_with_head(head), &[]).await;
        assert_eq!(got, (200, "1".into(), 3), "{head:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_request_with_authorization_or_no_store_leaves_the_stored_response_unchanged() {
    let private = &[("cache-control", "private, max-age=60")];
    for (fields, head, count) in [
        (&[][..], PUBLIC, 2),
        (&[("authorization", "Basic eDp5")], PUBLIC, 3),
        (&[("cache-control", "no-store")], PUBLIC, 3),
        (&[("cache-control", "no-store")], private, 3),
    ] {
        let got = get_after_head(&CacheLayer::new(), &origin_with_head(head), fields).await;
        assert_eq!(got, (200, "1".into(), count), "{head:?} {fields:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn response_that_a_head_response_forbids_to_store_is_not_served_while_it_is_revalidated() {
    let origin = Origin::new(|request, n| {
        let is_head = request.method() == Method::HEAD;
        let control = if is_head { "private" } else { "max-age=60, stale-while-revalidate=60" };
        Ok(response(&[("cache-control", control)], if is_head { 0 } else { n }.to_string()))
    });
    let site = site(&CacheLayer::builder().obey_requests(true).build(), &origin);
    assert_eq!(fetch(&site, "/").await, "1");
    let mut head = get("/", &[("cache-control", "no-cache")]);
    *head.method_mut() = Method::HEAD;
    assert_eq!(status_of(&site, head).await, StatusCode::OK);
    assert_eq!(fetch(&site, "/").await, "3");
}

#[tokio::test(start_paused = true)]
async fn head_response_of_status_200_does_not_refresh_a_stored_404() {
    let origin = Origin::new(|_, n| {
        let status = if n == 1 { "404" } else { "200" };
        Ok(response(&[("status", status), ("cache-control", "max-age=1")], Body::empty()))
    });
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(status_of(&site, get("/", &[])).await, StatusCode::NOT_FOUND);
    tokio::time::advance(SEC).await;
    let mut head = get("/", &[]);
    *head.method_mut() = Method::HEAD;
    assert_eq!(status_of(&site, head).await, StatusCode::OK);
    assert_eq!(status_of(&site, get("/", &[])).await, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn head_response_does_not_undo_a_soft_purge_since_its_request() {
    let origin = || {
        Origin::new(|request, n| {
            let is_head = request.method() == Method::HEAD;
            let control = if is_head { "max-age=60" } else { "max-age=10" };
            Ok(response(&[("cache-control", control), ("etag", "\"1\"")], n.to_string()))
        })
        .delayed(SEC)
    };
    let key = Key::new("http", "site.example", "/", None).unwrap();
    for scope in ["none", "key", "prefix", "all"] {
        let (layer, origin) = (CacheLayer::new(), origin());
        let site = site(&layer, &origin);
        assert_eq!(fetch(&site, "/").await, "1");
        tokio::time::advance(10 * SEC).await;
        let mut head = get("/", &[]);
        *head.method_mut() = Method::HEAD;
        let head = tokio::spawn(site.clone().oneshot(head));
        settle().await;
        let cache = layer.handle();
        match scope {
            "key" => cache.delete(&key, Purge::Soft),
            "prefix" => cache.delete_prefix("http://site.example/", Purge::Soft),
            "all" => cache.delete_all(Purge::Soft),
            _ => {}
        }
        cache.swept().await;
        assert_eq!((head.await.unwrap().unwrap().status(), origin.count()), (StatusCode::OK, 2));
        let content = if scope == "none" { "1" } else { "3" };
        assert_eq!(fetch(&site, "/").await, content, "{scope}");
    }
}
