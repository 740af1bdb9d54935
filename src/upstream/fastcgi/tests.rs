//! One application on loopback, scripted.

use std::fs;

use http::HeaderValue;
use http_body_util::BodyExt;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};
use tower::{ServiceBuilder, ServiceExt};

use super::*;
use crate::{
    error::Kind,
    policy::pick::RoundRobin,
    proto::fcgi::tests::app::{Seen, end, read_request, stdout},
    upstream::{Balance, PoolConfig, RetryLayer},
};

const OK: &str = "Status: 200\n\nhello";

/// A folder with two scripts and a picture.
fn site() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("blog")).unwrap();
    fs::create_dir(dir.path().join("folder.php")).unwrap();
    for name in ["index.php", "blog/post.php", "x.jpg"] {
        fs::write(dir.path().join(name), "<?php").unwrap();
    }
    dir
}

fn scripts(dir: &tempfile::TempDir) -> Scripts {
    Scripts::new(dir.path().to_str().unwrap())
}

async fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    (listener, address)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "example.com").body(Body::empty()).unwrap()
}

/// Answers a request.
async fn answer(app: &mut TcpStream, records: &[Vec<u8>]) -> Seen {
    let seen = read_request(app).await;
    app.write_all(&records.concat()).await.unwrap();
    seen
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn request_reaches_its_script_with_its_variables() {
    let (dir, (listener, address)) = (site(), listen().await);
    let php = FastCgi::builder(address, scripts(&dir)).build();
    let mut request = get("/blog/post.php/2024?a=b");
    let fields = request.headers_mut();
    fields.insert("connection", HeaderValue::from_static("x-secret"));
    fields.insert("x-secret", HeaderValue::from_static("1"));
    fields.insert("proxy", HeaderValue::from_static("evil"));
    fields.insert("expect", HeaderValue::from_static("100-continue"));
    let app = async {
        let mut app = listener.accept().await.unwrap().0;
        answer(&mut app, &[stdout(OK), end(0)]).await
    };
    let (response, seen) = tokio::join!(php.oneshot(request), app);
    assert_eq!(text(response.unwrap()).await, "hello");
    let file = dir.path().join("blog/post.php").display().to_string();
    assert_eq!(seen.params["SCRIPT_FILENAME"], file);
    assert_eq!(seen.params["PATH_INFO"], "/2024");
    assert_eq!(seen.params["QUERY_STRING"], "a=b");
    let of_fields: Vec<_> = seen.params.keys().filter(|name| name.starts_with("HTTP_")).collect();
    assert_eq!(of_fields, ["HTTP_HOST"], "neither of one hop, nor Proxy");
}

#[tokio::test]
async fn script_that_is_no_file_is_404_and_reaches_no_application() {
    let dir = site();
    let php = FastCgi::new("127.0.0.1:1", scripts(&dir)).unwrap();
    for path in [
        "/missing.php",
        "/x.jpg/y.php",
        "/index.php.bak/z.php",
        "/folder.php",
        "/folder.php/a",
        "/x.jpg",
        "/blog/",
        "/nowhere",
    ] {
        let response = php.clone().oneshot(get(path)).await.unwrap();
        assert_eq!(response.status(), 404, "{path}");
    }
    let error = php.clone().oneshot(get("/index.php")).await.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Unreachable);
    for path in ["/%2e%2e/etc.php", "/a%2fb.php", "/index.php%00.jpg"] {
        let error = php.clone().oneshot(get(path)).await.unwrap_err();
        assert_eq!(error.kind(), AttemptErrorKind::Request, "{path}");
        assert!(Error::find(&error).unwrap().is_client());
    }
}

#[tokio::test]
async fn front_controller_handles_paths_without_a_script() {
    let (dir, (listener, address)) = (site(), listen().await);
    let php = FastCgi::builder(address, scripts(&dir).front_controller("/index.php")).build();
    for (path, script, status) in [
        ("/users/7?a", "/index.php", 200),
        ("/blog/", "/index.php", 200),
        ("/", "/index.php", 200),
        ("/missing.php", "", 404),
    ] {
        let app = async {
            if status == 200 {
                let mut app = listener.accept().await.unwrap().0;
                let seen = answer(&mut app, &[stdout(OK), end(0)]).await;
                assert_eq!(
                    (&*seen.params["SCRIPT_NAME"], &*seen.params["REQUEST_URI"]),
                    (script, path)
                );
            }
        };
        let (response, ()) = tokio::join!(php.clone().oneshot(get(path)), app);
        assert_eq!(response.unwrap().status(), status);
    }
}

#[tokio::test]
async fn script_outside_of_its_folder_is_not_found() {
    let (dir, outside) = (site(), site());
    let link = |name: &str, to: &std::path::Path| {
        std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
    };
    link("out.php", &outside.path().join("index.php"));
    link("in.php", &dir.path().join("blog/post.php"));
    let (listener, address) = listen().await;
    let php = FastCgi::builder(address, scripts(&dir)).build();
    let response = php.clone().oneshot(get("/out.php")).await.unwrap();
    assert_eq!(response.status(), 404);
    let app = async {
        let mut app = listener.accept().await.unwrap().0;
        answer(&mut app, &[stdout(OK), end(0)]).await
    };
    let (response, _) = tokio::join!(php.oneshot(get("/in.php")), app);
    assert_eq!(response.unwrap().status(), 200);
}

#[tokio::test]
async fn unchecked_script_is_passed_to_the_application() {
    let (listener, address) = listen().await;
    let scripts = Scripts::new("/nowhere/at/all");
    let php = FastCgi::builder(address, scripts).unchecked_scripts().build();
    let app = async {
        let mut app = listener.accept().await.unwrap().0;
        answer(&mut app, &[stdout("Status: 404\n\n"), end(0)]).await
    };
    let (response, seen) = tokio::join!(php.oneshot(get("/a.php")), app);
    assert_eq!(response.unwrap().status(), 404);
    assert_eq!(seen.params["SCRIPT_FILENAME"], "/nowhere/at/all/a.php");
}

#[tokio::test]
async fn connection_is_reused_while_the_application_keeps_it_open() {
    let (dir, (listener, address)) = (site(), listen().await);
    let php = FastCgi::builder(address, scripts(&dir)).pool(PoolConfig::new().keep_idle(1)).build();
    let client = async {
        for _ in 0..2 {
            let response = php.clone().oneshot(get("/index.php")).await.unwrap();
            assert_eq!(text(response).await, "hello");
            assert_eq!(php.idle_connections(), 1);
        }
        php.clone().oneshot(get("/index.php")).await.unwrap_err()
    };
    let app = async {
        let mut app = listener.accept().await.unwrap().0;
        for _ in 0..2 {
            assert!(answer(&mut app, &[stdout(OK), end(0)]).await.keeps_connection);
        }
        read_request(&mut app).await;
    };
    let (mut stale, ()) = tokio::join!(client, app);
    assert_eq!(stale.kind(), AttemptErrorKind::StaleConnection);
    assert_eq!(stale.delivery(), Delivery::MaybeSent);
    assert!(stale.take_request().is_some() && php.idle_connections() == 0);
}

#[tokio::test]
async fn idle_connection_is_closed_unless_keep_idle_is_set() {
    let (dir, (listener, address)) = (site(), listen().await);
    let php = FastCgi::builder(address, scripts(&dir)).build();
    let app = async {
        let mut app = listener.accept().await.unwrap().0;
        answer(&mut app, &[stdout(OK), end(0)]).await;
    };
    let (response, ()) = tokio::join!(php.clone().oneshot(get("/index.php")), app);
    assert_eq!(text(response.unwrap()).await, "hello");
    assert_eq!(php.idle_connections(), 0);
}

#[tokio::test]
async fn application_is_an_endpoint_of_a_balancer_with_retries() {
    let (dir, (listener, address)) = (site(), listen().await);
    let refused = FastCgi::new("127.0.0.1:1", scripts(&dir)).unwrap();
    let works = FastCgi::builder(address, scripts(&dir)).build();
    let endpoints = [refused, works].map(Endpoint::from);
    let balance = Balance::new(endpoints, RoundRobin::new());
    let site = ServiceBuilder::new().layer(RetryLayer::new()).service(balance);
    let app = async {
        for _ in 0..2 {
            let mut app = listener.accept().await.unwrap().0;
            answer(&mut app, &[stdout(OK), end(0)]).await;
        }
    };
    let client = async {
        for _ in 0..2 {
            let response = site.clone().oneshot(get("/index.php")).await.unwrap();
            assert_eq!(response.status(), 200);
        }
    };
    tokio::join!(client, app);
}

#[tokio::test]
async fn chunked_body_is_an_error_that_names_the_missing_layer() {
    let dir = site();
    let php = FastCgi::new("127.0.0.1:1", scripts(&dir)).unwrap();
    let (_sender, body) = Body::channel(None);
    let request = Request::post("/index.php").body(body).unwrap();
    let error = php.oneshot(request).await.unwrap_err();
    let source = Error::find(&error).unwrap();
    assert_eq!((error.kind(), source.kind()), (AttemptErrorKind::Request, Kind::Internal));
    assert!(source.to_string().contains("RequestBufferLayer"), "{source}");
}

#[tokio::test]
async fn overloaded_application_is_busy() {
    let (dir, (listener, address)) = (site(), listen().await);
    let php = FastCgi::builder(address, scripts(&dir)).build();
    let app = async {
        let mut app = listener.accept().await.unwrap().0;
        answer(&mut app, &[end(2)]).await;
    };
    let (error, ()) = tokio::join!(php.oneshot(get("/index.php")), app);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Busy);
    assert!(Error::find(&error).unwrap().is_overloaded());
}
