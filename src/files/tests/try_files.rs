//! `TryFiles`: a file if it exists, and another service otherwise.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tower::Service;

use super::*;
use crate::{BoxError, files::TryFiles, semantics::target::OriginalUri};

/// A service that returns the request as text and counts requests. It is ready from the second poll on.
#[derive(Debug, Clone, Default)]
struct App {
    calls: Arc<AtomicUsize>,
    polled: bool,
}

impl Service<Request<Body>> for App {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if std::mem::replace(&mut self.polled, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.polled), "it was not ready");
        self.calls.fetch_add(1, Ordering::SeqCst);
        let line = format!("{} {} ", request.method(), request.uri());
        Box::pin(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok(Response::new(Body::from([line.as_bytes(), &body].concat())))
        })
    }
}

async fn answer<S>(or: &TryFiles<S>, request: Request<Body>) -> (u16, Bytes)
where
    TryFiles<S>: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone,
{
    let response = or.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), content(response).await)
}

#[tokio::test]
async fn try_files_serves_files_and_passes_all_else_to_service() {
    let site = Site::new();
    let app = App::default();
    let or = site.builder().or(app.clone());
    // The second time they are cached.
    for _ in 0..2 {
        for (target, status, text) in [
            ("/hello.txt", 200, "0123456789"),
            ("/", 200, "<h1>home</h1>"),
            ("/docs", 308, "308 Permanent Redirect\n"),
            ("/docs/../x", 400, "400 Bad Request\n"),
            ("/docs/..%2fx", 400, "400 Bad Request\n"),
        ] {
            let (got, content) = answer(&or, request(Method::GET, target)).await;
            assert_eq!((got, &content[..]), (status, text.as_bytes()), "{target}");
        }
    }
    assert_eq!(app.calls.load(Ordering::SeqCst), 0);
    for _ in 0..2 {
        for target in ["/orders/7?x=1", "/empty/", "/empty", "/.env", "/a//b", "/hello.txt/"] {
            let got = answer(&or, request(Method::GET, target)).await;
            assert_eq!(got, (200, format!("GET {target} ").into()));
        }
    }
    let mut post = request(Method::POST, "/hello.txt");
    *post.body_mut() = Body::from("form");
    assert_eq!(answer(&or, post).await, (200, "POST /hello.txt form".into()));
    let star = request(Method::OPTIONS, "*");
    assert_eq!(answer(&or, star).await, (200, "OPTIONS * ".into()));
    assert_eq!(app.calls.load(Ordering::SeqCst), 14);
}

#[tokio::test]
async fn excluded_names_are_passed_to_service_in_every_spelling() {
    let site = Site::new();
    fs::create_dir(site.root().join("dir.php")).unwrap();
    for name in ["x.php", "X.PHP", "x.php~", "x.php.txt", "dir.php/a.txt", "docs/index.php"] {
        site.write(name, "source");
    }
    let builder = site.builder().exclude_suffix(".php").exclude_suffix("~").exclude_suffix("");
    let or = builder.index("index.php").listing().or(App::default());
    for _ in 0..2 {
        for target in ["/x.php", "/X.PHP", "/x%2ephp", "/x.ph%70?a", "/x.php~", "/docs/index.php"] {
            let got = answer(&or, request(Method::GET, target)).await;
            assert_eq!(got, (200, format!("GET {target} ").into()));
        }
        for target in ["/x.php.txt", "/dir.php/a.txt"] {
            let got = answer(&or, request(Method::GET, target)).await;
            assert_eq!(got, (200, "source".into()), "{target}");
        }
        let (status, _) = answer(&or, request(Method::GET, "/dir.php")).await;
        assert_eq!(status, 308, "a directory is not excluded");
        // Neither as an index nor in a listing.
        let (status, page) = answer(&or, request(Method::GET, "/docs/")).await;
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(status == 200 && page.contains("index.html") && !page.contains(".php"), "{page}");
        let (_, page) = answer(&or, request(Method::GET, "/")).await;
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(page.contains("x.php.txt") && page.contains("dir.php/"), "{page}");
        assert!(
            !page.contains("x.php\"") && !page.contains("X.PHP") && !page.contains('~'),
            "{page}"
        );
    }
}

#[tokio::test]
async fn root_of_a_nested_service_without_index_passes_to_service() {
    let site = Site::new();
    for inline in [true, false] {
        let app = App::default();
        let builder = || site.builder().inline_lookups(inline);
        let (without, with) = (builder().index("none").or(app.clone()), builder().or(app));
        let nested = |uri: &str| {
            let mut request = request(Method::GET, "/");
            request.extensions_mut().insert(OriginalUri(uri.parse().unwrap()));
            request
        };
        // The second time the root is cached.
        for _ in 0..2 {
            for uri in ["/app", "/app/"] {
                assert_eq!(answer(&without, nested(uri)).await, (200, "GET / ".into()));
            }
            assert_eq!(answer(&with, nested("/app")).await.0, 308);
            assert_eq!(answer(&with, nested("/app/")).await, (200, "<h1>home</h1>".into()));
        }
    }
}

#[tokio::test]
async fn fallback_page_precedes_inner_service() {
    let site = Site::new();
    let or = site.builder().fallback_page("index.html").or(App::default());
    for _ in 0..2 {
        let got = answer(&or, request(Method::GET, "/orders/7")).await;
        assert_eq!(got, (200, "<h1>home</h1>".into()));
    }
    assert_eq!(answer(&or, request(Method::PUT, "/x")).await.1, "PUT /x ");
}
