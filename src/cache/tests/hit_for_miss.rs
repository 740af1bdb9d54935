//! Tests of requests for a key whose latest response could not be shared.

use super::*;

#[tokio::test(start_paused = true)]
async fn storable_response_is_stored_between_private_ones_of_another_variant() {
    let origin = Origin::new(|request, n| {
        let is_member = request.headers().contains_key("cookie");
        let control = if is_member { "private" } else { "max-age=60" };
        Ok(response(&[("cache-control", control), ("vary", "Cookie")], n.to_string()))
    });
    let site = site(&CacheLayer::new(), &origin);
    for (member, visitor, count) in [("1", "2", 2), ("3", "2", 3), ("4", "2", 4)] {
        let of_member = site.clone().oneshot(get("/", &[("cookie", "member")])).await.unwrap();
        assert_eq!(text(of_member).await, member);
        assert_eq!((&*fetch(&site, "/").await, origin.count()), (visitor, count));
    }
}

#[tokio::test(start_paused = true)]
async fn public_response_to_a_request_with_authorization_is_stored_after_an_anonymous_401() {
    let origin = Origin::new(|request, n| {
        let control = [("cache-control", "public, max-age=60")];
        let is_authorized = request.headers().contains_key("authorization");
        let fields = if is_authorized { &control[..] } else { &[("status", "401")] };
        Ok(response(fields, n.to_string()))
    });
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(fetch(&site, "/").await, "1");
    let authorized = get("/", &[("authorization", "Basic eDp5")]);
    assert_eq!(text(site.clone().oneshot(authorized).await.unwrap()).await, "2");
    assert_eq!(fetch(&site, "/").await, "2");
}
