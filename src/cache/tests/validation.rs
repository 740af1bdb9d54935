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
