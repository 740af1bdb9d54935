//! Tests of the cache in front of a scripted origin, with paused time.

mod bounds;
mod conditions;
mod flights;
mod followers;
mod hit_for_miss;
mod identities;
mod invalidation;
mod model;
mod options;
mod purge;
mod readiness;
mod refresh;
mod refusal;
mod search;
mod spelling;
mod stale;
mod support;
mod sweep;
mod validation;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use self::support::{Origin, Site, channels, fetch, get, response, settle, site, status_of, text};
use super::*;
use crate::{Body, Request, Response, error::BoxError};

const SEC: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn fresh_response_is_served_with_its_age_and_without_origin() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60"), ("x", "y")]);
    let site = site(&CacheLayer::new(), &origin);
    assert_eq!(fetch(&site, "/").await, "1");
    tokio::time::advance(59 * SEC).await;
    let hit = site.clone().oneshot(get("/", &[])).await.unwrap();
    assert_eq!(
        (&hit.headers()["age"], &hit.headers()["x"]),
        (&"59".parse().unwrap(), &"y".parse().unwrap())
    );
    assert_eq!(hit.body().as_bytes().unwrap(), "1", "in one piece");
    assert_eq!(origin.count(), 1);
    tokio::time::advance(SEC).await;
    assert_eq!(fetch(&site, "/").await, "2");
    assert_eq!(fetch(&site, "/other").await, "3");
    assert_eq!(fetch(&site, "/").await, "2");
}

#[tokio::test(start_paused = true)]
async fn s4_host_and_scheme_and_query_are_part_of_the_key() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let site = site(&CacheLayer::new(), &origin);
    for uri in ["http://a/", "http://b/", "https://a/", "http://a/?q", "http://a:81/"] {
        for _ in 0..2 {
            let request = Request::get(uri).body(Body::empty()).unwrap();
            site.clone().oneshot(request).await.unwrap();
        }
    }
    assert_eq!(origin.count(), 5);
}

#[tokio::test(start_paused = true)]
async fn request_without_host_or_with_content_or_for_the_origin_is_forwarded() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let layer = CacheLayer::builder().bypass_if(|r| r.uri().path() == "/live").build();
    let site = site(&layer, &origin);
    fetch(&site, "/").await;
    let with_content = |body: Body| {
        let (parts, _) = get("/", &[]).into_parts();
        Request::from_parts(parts, body)
    };
    let requests = || {
        [
            Request::get("/").body(Body::empty()).unwrap(),
            get("/", &[("if-match", "\"a\"")]),
            get("/", &[("upgrade", "websocket")]),
            get("/live", &[]),
            get("/a/../b", &[]),
            with_content("content".into()),
            with_content(Body::channel(None).1),
        ]
    };
    let n = requests().len();
    for request in requests().into_iter().chain(requests()) {
        site.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(origin.count(), 1 + 2 * n);
    assert_eq!(layer.handle().stats().bypassed, 2 * n as u64);
}

#[tokio::test(start_paused = true)]
async fn stored_response_that_becomes_private_by_a_304_is_not_shared() {
    let origin = Origin::new(|_, n| {
        Ok(match n {
            1 => response(&[("cache-control", "max-age=10"), ("etag", "\"1\"")], "page"),
            2 => response(&[("status", "304"), ("cache-control", "private")], ""),
            _ => response(&[("cache-control", "private")], n.to_string()),
        })
    })
    .delayed(SEC);
    let site = site(&CacheLayer::new(), &origin);
    fetch(&site, "/").await;
    tokio::time::advance(10 * SEC).await;
    let all: Vec<_> = (0..3).map(|_| tokio::spawn(site.clone().oneshot(get("/", &[])))).collect();
    let mut texts = Vec::new();
    for response in all {
        texts.push(text(response.await.unwrap().unwrap()).await);
    }
    texts.sort();
    assert_eq!(texts, ["3", "4", "page"]);
}

#[tokio::test(start_paused = true)]
async fn variants_are_stored_separately_with_encodings_in_normal_form() {
    let origin =
        Origin::with_fields(&[("cache-control", "max-age=60"), ("vary", "Accept-Encoding, x")]);
    let site = site(&CacheLayer::new(), &origin);
    let send = |encodings: &'static str, x: &'static str| {
        let site = site.clone();
        async move {
            text(site.oneshot(get("/", &[("accept-encoding", encodings), ("x", x)])).await.unwrap())
                .await
        }
    };
    assert_eq!(send("gzip, deflate, br", "1").await, "1");
    assert_eq!(origin.seen(1)["accept-encoding"], "br, gzip");
    assert_eq!(send("br,gzip", "1").await, "1");
    assert_eq!(send("gzip", "1").await, "2");
    assert_eq!(send("gzip", "2").await, "3");
    assert_eq!(send("br;q=1.0, gzip", "1").await, "1");
    assert_eq!(origin.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn set_cookie_is_not_stored_unless_enabled() {
    let origin = Origin::new(|r, n| {
        let control = if r.uri().path() == "/public" { "public, max-age=60" } else { "max-age=60" };
        Ok(response(&[("cache-control", control), ("set-cookie", "a=b")], n.to_string()))
    });
    let send = async |site: &Site, path: &str| {
        let response = site.clone().oneshot(get(path, &[])).await.unwrap();
        let has_cookie = response.headers().contains_key("set-cookie");
        (text(response).await, has_cookie)
    };
    let default = site(&CacheLayer::new(), &origin);
    assert_eq!(send(&default, "/").await, ("1".into(), true));
    assert_eq!(send(&default, "/").await, ("2".into(), true));
    assert_eq!(send(&default, "/public").await, ("3".into(), true));
    assert_eq!(send(&default, "/public").await, ("3".into(), false));
    let storing = site(&CacheLayer::builder().set_cookie(SetCookie::Store).build(), &origin);
    assert_eq!(send(&storing, "/").await, ("4".into(), true));
    assert_eq!(send(&storing, "/").await, ("4".into(), true));
}

#[tokio::test(start_paused = true)]
async fn request_directives_are_obeyed_if_enabled() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let no_cache = || get("/", &[("cache-control", "no-cache")]);
    let default = site(&CacheLayer::new(), &origin);
    for _ in 0..2 {
        assert_eq!(text(default.clone().oneshot(no_cache()).await.unwrap()).await, "1");
    }
    let only = |path| get(path, &[("cache-control", "only-if-cached")]);
    assert_eq!(status_of(&default, only("/")).await, StatusCode::OK);
    let named = site(&CacheLayer::builder().cache_status("front").build(), &origin);
    let not_cached = named.oneshot(only("/other")).await.unwrap();
    assert_eq!(not_cached.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(!not_cached.headers().contains_key("cache-status"), "it is based on no response");
    let obeying = site(&CacheLayer::builder().obey_requests(true).build(), &origin);
    for n in ["2", "3"] {
        assert_eq!(text(obeying.clone().oneshot(no_cache()).await.unwrap()).await, n);
    }
    assert_eq!(fetch(&obeying, "/").await, "3");
}

#[tokio::test(start_paused = true)]
async fn head_response_updates_stored_response_or_makes_it_stale() {
    let origin = Origin::new(|r, n| {
        let etag = if r.uri().path() == "/same" || n == 1 { "\"1\"" } else { "\"2\"" };
        let n = n.to_string();
        Ok(response(&[("cache-control", "max-age=10"), ("etag", etag), ("x", &n)], n.clone()))
    });
    for (path, want, count) in [("/same", ("1", "2"), 2), ("/other", ("4", "4"), 4)] {
        let site = site(&CacheLayer::new(), &origin);
        origin.seen.lock().unwrap().truncate(0);
        fetch(&site, path).await;
        tokio::time::advance(10 * SEC).await;
        let head = Request::head(format!("http://site.example{path}")).body(Body::empty()).unwrap();
        site.clone().oneshot(head).await.unwrap();
        if path == "/other" {
            fetch(&site, "/elsewhere").await;
        }
        let response = site.clone().oneshot(get(path, &[])).await.unwrap();
        let x = response.headers()["x"].to_str().unwrap().to_owned();
        assert_eq!((&*text(response).await, &*x), want);
        assert_eq!(origin.count(), count);
    }
}
