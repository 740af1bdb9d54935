//! What a response that is not stored changes in the store.

use super::*;

type Fields = &'static [(&'static str, &'static str)];

/// Stores a response that expires, sends a request with `request`, which is answered with `second`, and then one while the
/// origin is down. Returns whether the stored response is still used.
async fn is_kept_after(request: Fields, second: Fields) -> bool {
    let origin = Origin::new(move |_, n| match n {
        1 => Ok(response(&[("cache-control", "max-age=10, stale-if-error=999")], "stored")),
        2 => Ok(response(second, "second")),
        _ => Err("down".into()),
    });
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(fetch(&site, "/").await, "stored");
    tokio::time::advance(10 * SEC).await;
    site.clone().oneshot(get("/", request)).await.unwrap();
    match site.clone().oneshot(get("/", &[])).await {
        Ok(response) => text(response).await == "stored",
        Err(_) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn refused_response_removes_the_stored_one_only_if_its_status_concerns_the_resource() {
    for status in ["200", "204", "301", "302", "404", "410"] {
        let second: &[_] = Box::leak(Box::new([("status", status), ("cache-control", "no-store")]));
        assert!(!is_kept_after(&[], second).await, "{status}");
    }
    for status in ["400", "401", "403", "405", "408", "421", "425", "429", "431", "501", "505"] {
        let second: &[_] = Box::leak(Box::new([("status", status), ("cache-control", "no-store")]));
        assert!(is_kept_after(&[], second).await, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_because_of_the_request_does_not_remove_the_stored_response() {
    for request in [&[("cache-control", "no-store")][..], &[("authorization", "Basic eDp5")]] {
        for second in [&[][..], &[("status", "404")], &[("cache-control", "private")]] {
            assert!(is_kept_after(request, second).await, "{request:?} {second:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn response_of_an_overloaded_origin_does_not_end_the_sharing_of_fetches() {
    for status in ["408", "425", "429"] {
        let origin = Origin::new(move |_, n| {
            let fields = if n == 1 { ("status", status) } else { ("cache-control", "max-age=60") };
            Ok(response(&[fields], n.to_string()))
        })
        .delayed(SEC);
        let site = site(&CacheLayer::new(), &origin);
        fetch(&site, "/").await;
        let all: Vec<_> =
            (0..3).map(|_| tokio::spawn(site.clone().oneshot(get("/", &[])))).collect();
        for response in all {
            assert_eq!(text(response.await.unwrap().unwrap()).await, "2", "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn error_for_a_client_of_grpc_is_not_stored_as_the_page() {
    use crate::semantics::problem::{self, Format};

    let origin = Origin::new(|request, _| {
        // Its status is 200 in this format.
        Ok(match request.headers().contains_key("content-encoding") {
            true => problem::response(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, Format::Grpc),
            false => response(&[], "page"),
        })
    });
    let site = site(&CacheLayer::builder().default_lifetime(20 * SEC).build(), &origin);
    let malicious = get("/", &[("content-type", "application/grpc"), ("content-encoding", "x")]);
    assert_eq!(text(site.clone().oneshot(malicious).await.unwrap()).await, "");
    assert_eq!(fetch(&site, "/").await, "page");
}
