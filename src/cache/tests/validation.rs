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

#[tokio::test(start_paused = true)]
async fn head_response_that_must_not_be_stored_does_not_refresh_the_stored_one() {
    const PUBLIC: &str = "max-age=60";
    for (control, fields, want) in [
        (PUBLIC, &[][..], "1"),
        ("private, max-age=60", &[], "3"),
        ("no-store, max-age=60", &[], "3"),
        (PUBLIC, &[("authorization", "Basic eDp5")], "3"),
    ] {
        let origin = Origin::new(move |request, n| {
            let control = if request.method() == Method::HEAD { control } else { "max-age=1" };
            let body = if request.method() == Method::HEAD { String::new() } else { n.to_string() };
            Ok(response(&[("cache-control", control), ("etag", "\"1\"")], body))
        });
        let site = site(&CacheLayer::new(), &origin);
        assert_eq!(fetch(&site, "/").await, "1");
        tokio::time::advance(SEC).await;
        let mut head = get("/", fields);
        *head.method_mut() = Method::HEAD;
        assert_eq!(status_of(&site, head).await, StatusCode::OK);
        assert_eq!(fetch(&site, "/").await, want, "{control} {fields:?}");
    }
}
