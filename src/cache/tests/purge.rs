//! Invalidation over HTTP.

use super::*;

const TOKEN: &str = "0123456789abcdef";

async fn purge(cache: &CacheHandle, method: &str, query: &str, fields: &[&str]) -> u16 {
    let mut request = Request::builder().method(method).uri(format!("/purge{query}"));
    for value in fields {
        request = request.header("authorization", *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = cache.purge_service(TOKEN).oneshot(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers());
    assert_eq!(headers.contains_key("www-authenticate"), status == 401);
    assert_eq!(headers.contains_key("allow"), status == 405);
    status
}

#[tokio::test]
async fn purge_service_invalidates_what_the_query_names() {
    let origin = Origin::new(|request, n| {
        let group = if request.uri().path() == "/g" { "a b" } else { "" };
        let fields = [("cache-control", "max-age=60"), ("etag", "\"e\"")];
        let mut response = response(&fields, n.to_string());
        if !group.is_empty() {
            response.headers_mut().insert("cache-groups", format!("\"{group}\"").parse().unwrap());
        }
        Ok(response)
    });
    let layer = CacheLayer::new();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let authorized = format!("bearer {TOKEN}");
    let authorized = [&*authorized];
    for (query, paths) in [
        ("?url=http://site.example/g", &["/g"][..]),
        ("?url=http%3A%2F%2FSITE.example/%2567", &["/g"]),
        ("?prefix=http://site.example/p&wait", &["/p1", "/p2"]),
        ("?prefix=HTTP://SITE.example.:80/%2570", &["/p1", "/p2"]),
        ("?prefix=http://site.example/x?a", &["/x?a=b"]),
        ("?prefix=http://site.example", &["/g", "/p1", "/p2", "/x?a=b"]),
        ("?soft&group=a%20b", &["/g"]),
        ("?all", &["/g", "/p1", "/p2", "/x?a=b"]),
        ("?url=http://site.example/x%3Fa%3Db", &["/x?a=b"]),
    ] {
        for path in ["/g", "/p1", "/p2", "/x?a=b"] {
            fetch(&site, path).await;
        }
        assert_eq!(purge(&cache, "POST", query, &authorized).await, 204, "{query}");
        for path in ["/g", "/p1", "/p2", "/x?a=b"] {
            let before = origin.count();
            fetch(&site, path).await;
            assert_eq!(origin.count() > before, paths.contains(&path), "{query}: {path}");
        }
    }
}

#[tokio::test]
async fn purge_service_refuses_other_requests() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let layer = CacheLayer::new();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    fetch(&site, "/").await;
    let right = format!("Bearer {TOKEN}");
    let (short, long) = (right[..right.len() - 1].to_owned(), format!("{right}0"));
    let other = format!("Basic {TOKEN}");
    for fields in
        [&[][..], &[&*short], &[&*long], &[&*other], &[&*right, &*right], &["Bearer "], &[TOKEN]]
    {
        assert_eq!(purge(&cache, "POST", "?all", fields).await, 401, "{fields:?}");
    }
    for method in ["GET", "PURGE", "DELETE"] {
        assert_eq!(purge(&cache, method, "?all", &[&right]).await, 405);
    }
    for query in [
        "",
        "?",
        "?al",
        "?all=1",
        "?url",
        "?url=",
        "?group=",
        "?prefix=",
        "?prefix=/p",
        "?prefix=http://site.example/p%23",
        "?prefix=://site.example/",
        "?prefix=site.example/",
        "?prefix=//site.example/",
        "?url=/path",
        "?url=http:///",
        "?all&all",
        "?all&group=a",
        "?group=a+b",
        "?group=%f",
        "?group=%ff",
        "?all&x",
        "?soft",
    ] {
        assert_eq!(purge(&cache, "POST", query, &[&right]).await, 400, "{query}");
    }
    fetch(&site, "/").await;
    assert_eq!(origin.count(), 1);
}
