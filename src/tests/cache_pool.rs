//! A cache in front of a worker pool.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};

use super::support::{exchange, start, statuses, within};
use crate::{
    Body, BoxError, Request, Response,
    cache::{CacheLayer, Key, Purge},
    layer::RescueLayer,
    worker,
};

/// The number of the latest page.
static PAGES: AtomicUsize = AtomicUsize::new(0);

fn get(path: &str) -> Request {
    Request::get(format!("http://site.example{path}")).body(Body::empty()).unwrap()
}

async fn until(is_true: impl Fn() -> bool) {
    within(async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn stale_page_is_used_while_requests_wait_for_a_worker() {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let pool = worker::threads(1, move || {
        let held = held.clone();
        worker::blocking(move |request: http::Request<Bytes>| {
            if request.uri().path() == "/page" {
                let page = PAGES.fetch_add(1, Relaxed) + 1;
                let response = Response::builder().header("cache-control", "max-age=1000");
                return response.body(Body::from(page.to_string())).unwrap();
            }
            held.lock().unwrap().recv().unwrap();
            Response::new(Body::empty())
        })
    });
    let pool = pool.start().unwrap();
    let queue = pool.clone();
    let layer = CacheLayer::builder()
        .stale_while(move || queue.stats().oldest_wait > Duration::ZERO)
        .build();
    let (cache, site) = (layer.handle(), layer.layer(pool.clone()));
    let page = async || {
        let response = within(site.clone().oneshot(get("/page"))).await.unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
    };
    let expire =
        || cache.delete(&Key::new("http", "site.example", "/page", None).unwrap(), Purge::Soft);
    assert_eq!(page().await, "1");
    expire();
    assert_eq!(page().await, "2", "no request waits");
    expire();
    let running = tokio::spawn(site.clone().oneshot(get("/a")));
    until(|| pool.stats().busy == 1).await;
    let waiting = tokio::spawn(site.clone().oneshot(get("/b")));
    until(|| pool.stats().queued == 1).await;
    assert_eq!(page().await, "2", "although the only worker is busy");
    assert_eq!(cache.stats().stale_hits, 1);
    until(|| pool.stats().queued == 2).await;
    (0..2).for_each(|_| release.send(()).unwrap());
    running.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    until(|| PAGES.load(Relaxed) == 3 && cache.stats().fetches == 0).await;
    assert_eq!(page().await, "3", "it was refreshed");
}

#[tokio::test]
async fn browser_gets_links_of_a_stale_page_as_early_hints() {
    let page = service_fn(|_: Request| async {
        let page = Response::builder().header("cache-control", "max-age=1000");
        let page = page.header("link", "</a.css>; rel=preload; as=style");
        Ok::<_, BoxError>(page.body(Body::from("page"))?)
    });
    for is_on in [true, false] {
        let layer = CacheLayer::builder().early_hints(is_on).build();
        let cache = layer.handle();
        let front = start(RescueLayer::new().layer(layer.layer(page))).await;
        let request = "GET / HTTP/1.1\r\nHost: site.example\r\nSec-Fetch-Mode: navigate\r\n\
                       Connection: close\r\n\r\n";
        let answer = exchange(front.addr, request).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
        cache.delete(&Key::new("http", "site.example", "/", None).unwrap(), Purge::Soft);
        let answer = exchange(front.addr, request).await;
        if is_on {
            assert_eq!(statuses(&answer), [103, 200], "{answer}");
            let (hints, _) = answer.split_once("\r\n\r\n").unwrap();
            let hints = hints.to_ascii_lowercase();
            assert!(hints.contains("link: </a.css>; rel=preload; as=style"), "{answer}");
        } else {
            assert_eq!(statuses(&answer), [200], "{answer}");
        }
        assert!(answer.ends_with("page"), "{answer}");
        front.stop().await;
    }
}
