//! The layer over a scripted origin, with paused time.

mod bounds;
mod flights;
mod model;
mod purge;
mod search;
mod stale;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::*;
use crate::body::Sender;

const SEC: Duration = Duration::from_secs(1);

type Answer = dyn Fn(&Request, usize) -> Result<Response, BoxError> + Send + Sync;

/// What an origin answers, and the requests that it got.
#[derive(Clone)]
struct Origin {
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<(Method, HeaderMap)>>>,
    /// The time until the head of a response.
    delay: Duration,
}

impl Origin {
    /// Answers by the request and its number, which begins with 1.
    fn new(
        answer: impl Fn(&Request, usize) -> Result<Response, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self { answer: Arc::new(answer), seen: Arc::default(), delay: Duration::ZERO }
    }

    /// Answers with these fields and the number of the request.
    fn with_fields(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(move |_, n| Ok(response(fields, n.to_string())))
    }

    fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The fields of the request with this number.
    fn seen(&self, n: usize) -> HeaderMap {
        self.seen.lock().unwrap()[n - 1].1.clone()
    }
}

impl Service<Request> for Origin {
    type Response = Response;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut seen = self.seen.lock().unwrap();
        seen.push((request.method().clone(), request.headers().clone()));
        let n = seen.len();
        drop(seen);
        let this = self.clone();
        Box::pin(async move {
            if !this.delay.is_zero() {
                tokio::time::sleep(this.delay).await;
            }
            (this.answer)(&request, n)
        })
    }
}

fn response(fields: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    for (name, value) in fields {
        if *name == "status" {
            *response.status_mut() = value.parse().unwrap();
        } else {
            let name: http::HeaderName = name.parse().unwrap();
            response.headers_mut().append(name, value.parse().unwrap());
        }
    }
    response
}

/// A body that the test writes, one for each request.
fn channels(fields: &'static [(&'static str, &'static str)]) -> (Origin, Arc<Mutex<Vec<Sender>>>) {
    let senders: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let kept = senders.clone();
    let origin = Origin::new(move |_, _| {
        let (sender, body) = Body::channel(None);
        kept.lock().unwrap().push(sender);
        Ok(response(fields, body))
    });
    (origin, senders)
}

fn get(path: &str, fields: &[(&str, &str)]) -> Request {
    let mut request =
        Request::get(format!("http://site.example{path}")).body(Body::empty()).unwrap();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

type Site = BoxCloneSyncService<Request, Response, BoxError>;

fn site(layer: &CacheLayer, origin: &Origin) -> Site {
    BoxCloneSyncService::new(layer.layer(origin.clone()))
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Sends a GET request and returns the body.
async fn fetch(site: &Site, path: &str) -> String {
    text(site.clone().oneshot(get(path, &[])).await.unwrap()).await
}

async fn status_of(site: &Site, request: Request) -> StatusCode {
    site.clone().oneshot(request).await.unwrap().status()
}

/// Lets the tasks in the background run.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

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
async fn head_and_conditions_and_ranges_are_answered_from_the_whole() {
    let fields = &[("cache-control", "max-age=60"), ("etag", "\"1\""), ("content-type", "a/b")];
    let origin = Origin::new(|_, _| Ok(response(fields, "0123456789")));
    let site = site(&CacheLayer::new(), &origin);
    fetch(&site, "/").await;
    let head = Request::head("http://site.example/").body(Body::empty()).unwrap();
    let head = site.clone().oneshot(head).await.unwrap();
    assert_eq!(
        (head.headers()["content-length"].as_bytes(), head.body().len()),
        (&b"10"[..], Some(0))
    );
    let ask = |fields: &'static [(&str, &str)]| site.clone().oneshot(get("/", fields));
    let same = ask(&[("if-none-match", "\"1\"")]).await.unwrap();
    assert_eq!(
        (same.status(), same.headers().contains_key("content-type")),
        (StatusCode::NOT_MODIFIED, false)
    );
    let part = ask(&[("range", "bytes=2-4")]).await.unwrap();
    assert_eq!(
        (part.status(), &part.headers()["content-range"]),
        (StatusCode::PARTIAL_CONTENT, &"bytes 2-4/10".parse().unwrap())
    );
    assert_eq!(text(part).await, "234");
    let beyond = ask(&[("range", "bytes=10-")]).await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        text(ask(&[("range", "bytes=0-1"), ("if-range", "\"2\"")]).await.unwrap()).await,
        "0123456789"
    );
    assert_eq!(origin.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn range_of_what_is_not_stored_is_forwarded_or_cut_from_a_whole_fetch() {
    let fields = &[("cache-control", "max-age=60")];
    let origin = Origin::new(|r, _| {
        let is_part = r.headers().contains_key("range");
        Ok(if is_part {
            response(&[("status", "206")], "origin")
        } else {
            response(fields, "0123456789")
        })
    });
    let range = || get("/", &[("range", "bytes=2-4")]);
    let plain = site(&CacheLayer::new(), &origin);
    assert_eq!(text(plain.clone().oneshot(range()).await.unwrap()).await, "origin");
    assert_eq!(fetch(&plain, "/").await, "0123456789");
    let filling = site(&CacheLayer::builder().fill_ranges(true).build(), &origin);
    for _ in 0..2 {
        let part = filling.clone().oneshot(range()).await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(text(part).await, "234");
    }
    assert_eq!(origin.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn range_of_a_fetched_response_leaves_out_the_fields_of_the_whole() {
    let origin = Origin::new(|_, n| {
        let tag = format!("\"{n}\"");
        let fields = [("cache-control", "no-cache"), ("etag", &*tag), ("content-length", "10")];
        Ok(response(&fields, "0123456789"))
    });
    let ask =
        |site: &Site, range: &'static str| site.clone().oneshot(get("/", &[("range", range)]));
    let replaced = site(&CacheLayer::new(), &origin);
    fetch(&replaced, "/").await;
    let filling = site(&CacheLayer::builder().fill_ranges(true).build(), &origin);
    for site in [replaced, filling] {
        for (range, status, want) in [("bytes=2-4", 206, "234"), ("bytes=10-", 416, "")] {
            let part = ask(&site, range).await.unwrap();
            assert_eq!(part.status(), status);
            assert!(!part.headers().contains_key("content-length"), "it is that of the whole");
            // A 416 is not what the URI names: no cache after this one may store it as that.
            let describes_whole = ["etag", "cache-control"].map(|f| part.headers().contains_key(f));
            assert_eq!(describes_whole, [status == 206; 2]);
            assert_eq!(text(part).await, want);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn condition_of_a_client_is_evaluated_here_and_the_whole_is_stored() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60"), ("etag", "\"1\"")]);
    let site = site(&CacheLayer::new(), &origin);
    let conditional = get("/", &[("if-none-match", "\"1\"")]);
    assert_eq!(status_of(&site, conditional).await, StatusCode::NOT_MODIFIED);
    assert!(!origin.seen(1).contains_key("if-none-match"));
    settle().await;
    assert_eq!(fetch(&site, "/").await, "1");
}

#[tokio::test(start_paused = true)]
async fn condition_on_a_private_response_reaches_the_origin_or_is_evaluated_here() {
    let origin = Origin::new(|r, _| {
        let fields = [("cache-control", "private"), ("etag", "\"1\""), ("x", "y")];
        let is_conditional = r.headers().contains_key("if-none-match");
        Ok(if is_conditional {
            response(&[("status", "304")], "")
        } else {
            response(&fields, "page")
        })
    });
    let site = site(&CacheLayer::new(), &origin);
    let conditional = || get("/", &[("if-none-match", "\"1\"")]);
    let first = site.clone().oneshot(conditional()).await.unwrap();
    assert_eq!(
        (first.status(), &first.headers()["x"]),
        (StatusCode::NOT_MODIFIED, &"y".parse().unwrap())
    );
    assert_eq!(
        (text(first).await, origin.seen(1).contains_key("if-none-match")),
        (String::new(), false)
    );
    assert_eq!(status_of(&site, conditional()).await, StatusCode::NOT_MODIFIED);
    assert!(origin.seen(2).contains_key("if-none-match"));
    assert_eq!(fetch(&site, "/").await, "page");
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
async fn variants_are_stored_side_by_side_with_encodings_in_normal_form() {
    let origin =
        Origin::with_fields(&[("cache-control", "max-age=60"), ("vary", "Accept-Encoding, x")]);
    let site = site(&CacheLayer::new(), &origin);
    let ask = |encodings: &'static str, x: &'static str| {
        let site = site.clone();
        async move {
            text(site.oneshot(get("/", &[("accept-encoding", encodings), ("x", x)])).await.unwrap())
                .await
        }
    };
    assert_eq!(ask("gzip, deflate, br", "1").await, "1");
    assert_eq!(origin.seen(1)["accept-encoding"], "br, gzip");
    assert_eq!(ask("br,gzip", "1").await, "1");
    assert_eq!(ask("gzip", "1").await, "2");
    assert_eq!(ask("gzip", "2").await, "3");
    assert_eq!(ask("br;q=1.0, gzip", "1").await, "1");
    assert_eq!(origin.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn unsafe_request_invalidates_its_target_and_references_if_it_succeeds() {
    let origin = Origin::new(|r, n| {
        Ok(match r.method() {
            &Method::GET => response(&[("cache-control", "max-age=60")], n.to_string()),
            _ if r.uri().path() == "/fails" => {
                response(&[("status", "500"), ("location", "/a")], "")
            }
            _ => response(
                &[("location", "/a"), ("content-location", "b"), ("location", "http://other/c")],
                "",
            ),
        })
    });
    let site = site(&CacheLayer::new(), &origin);
    let all = async |site: &Site| {
        let mut all = Vec::new();
        for path in ["/t", "/a", "/b", "/c"] {
            all.push(fetch(site, path).await);
        }
        all.join(" ")
    };
    let post = |path: &str| {
        Request::post(format!("http://site.example{path}")).body(Body::from("x")).unwrap()
    };
    assert_eq!(all(&site).await, "1 2 3 4");
    assert_eq!(status_of(&site, post("/fails")).await, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(all(&site).await, "1 2 3 4");
    assert_eq!(status_of(&site, post("/t")).await, StatusCode::OK);
    assert_eq!(all(&site).await, "7 8 9 4");
}

#[tokio::test(start_paused = true)]
async fn handle_invalidates_by_key_prefix_and_group() {
    let origin = Origin::new(|r, n| {
        let group = if r.uri().path().starts_with("/g") { "\"news\", \"x\"" } else { "\"x\"" };
        Ok(response(
            &[("cache-control", "max-age=60"), ("cache-groups", group), ("etag", "\"e\"")],
            n.to_string(),
        ))
    });
    let layer = CacheLayer::new();
    let (cache, site) = (layer.handle(), site(&layer, &origin));
    let all = async || {
        format!(
            "{} {} {}",
            fetch(&site, "/g1").await,
            fetch(&site, "/g2").await,
            fetch(&site, "/h").await
        )
    };
    assert_eq!(all().await, "1 2 3");
    cache.delete(&Key::new("http", "SITE.example", "/g%31", None).unwrap(), Purge::Hard);
    assert_eq!(all().await, "4 2 3");
    let swept = async || {
        cache.swept().await;
        cache.stats().invalidated
    };
    cache.delete_prefix("http://site.example/g", Purge::Hard);
    assert_eq!(swept().await, 2);
    assert_eq!(all().await, "5 6 3");
    cache.invalidate("news", Purge::Soft);
    assert_eq!(all().await, "7 8 3");
    assert_eq!(origin.seen(7)["if-none-match"], "\"e\"", "soft: it is validated");
    // The responses that were validated are newer than the mark.
    assert_eq!((all().await, swept().await <= 4), ("7 8 3".to_owned(), true));
    let before = cache.stats().invalidated;
    cache.invalidate("news", Purge::Soft);
    assert_eq!(swept().await - before, 2);
    cache.invalidate("nothing", Purge::Hard);
    assert_eq!(swept().await - before, 2);
    cache.delete_all(Purge::Hard);
    assert_eq!((swept().await - before, cache.stats().keys), (5, 0));
    assert_eq!(all().await, "9 10 11");
}

#[tokio::test(start_paused = true)]
async fn group_of_an_unsafe_response_is_invalidated_in_its_own_site_only() {
    let origin = Origin::new(|r, n| {
        Ok(match r.method() {
            &Method::GET => response(
                &[("cache-control", "max-age=60"), ("cache-groups", "\"g\"")],
                n.to_string(),
            ),
            _ => response(&[("cache-group-invalidation", "\"g\"")], ""),
        })
    });
    let site = site(&CacheLayer::new(), &origin);
    let ask = |host: &'static str, method: &'static str| {
        let site = site.clone();
        let request = Request::builder().method(method).uri(format!("http://{host}/{method}"));
        async move { text(site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await }
    };
    assert_eq!((ask("a", "GET").await, ask("ab", "GET").await), ("1".into(), "2".into()));
    ask("a", "POST").await;
    assert_eq!((ask("a", "GET").await, ask("ab", "GET").await), ("4".into(), "2".into()));
}

#[tokio::test(start_paused = true)]
async fn cookie_is_kept_out_unless_it_is_to_be_shared() {
    let origin = Origin::new(|r, n| {
        let control = if r.uri().path() == "/public" { "public, max-age=60" } else { "max-age=60" };
        Ok(response(&[("cache-control", control), ("set-cookie", "a=b")], n.to_string()))
    });
    let ask = async |site: &Site, path: &str| {
        let response = site.clone().oneshot(get(path, &[])).await.unwrap();
        let has_cookie = response.headers().contains_key("set-cookie");
        (text(response).await, has_cookie)
    };
    let default = site(&CacheLayer::new(), &origin);
    assert_eq!(ask(&default, "/").await, ("1".into(), true));
    assert_eq!(ask(&default, "/").await, ("2".into(), true));
    assert_eq!(ask(&default, "/public").await, ("3".into(), true));
    assert_eq!(ask(&default, "/public").await, ("3".into(), false));
    let storing = site(&CacheLayer::builder().set_cookie(SetCookie::Store).build(), &origin);
    assert_eq!(ask(&storing, "/").await, ("4".into(), true));
    assert_eq!(ask(&storing, "/").await, ("4".into(), true));
}

#[tokio::test(start_paused = true)]
async fn request_directives_are_obeyed_by_choice() {
    let origin = Origin::with_fields(&[("cache-control", "max-age=60")]);
    let no_cache = || get("/", &[("cache-control", "no-cache")]);
    let default = site(&CacheLayer::new(), &origin);
    for _ in 0..2 {
        assert_eq!(text(default.clone().oneshot(no_cache()).await.unwrap()).await, "1");
    }
    let only = |path| get(path, &[("cache-control", "only-if-cached")]);
    assert_eq!(status_of(&default, only("/")).await, StatusCode::OK);
    assert_eq!(status_of(&default, only("/other")).await, StatusCode::GATEWAY_TIMEOUT);
    let obeying = site(&CacheLayer::builder().obey_requests(true).build(), &origin);
    for n in ["2", "3"] {
        assert_eq!(text(obeying.clone().oneshot(no_cache()).await.unwrap()).await, n);
    }
    assert_eq!(fetch(&obeying, "/").await, "3");
}

#[tokio::test(start_paused = true)]
async fn head_updates_what_is_stored_or_makes_it_stale() {
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
