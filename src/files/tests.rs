//! Requests against real temporary directories.

mod backends;
mod cached;
mod encoded;
mod listed;
mod one;
mod options;
mod paths;
mod try_files;
mod watched;
mod x_accel_redirect;

use std::{fs, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::{Dir, DirBuilder, dir, root::backend_file::MAX_IN_MEMORY};
use crate::{Body, Error, error::Kind};

/// `root/` with some files, and `secret.txt` beside it.
struct Site {
    outside: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { outside: tempfile::tempdir().unwrap() };
        fs::write(site.outside.path().join("secret.txt"), "secret").unwrap();
        fs::create_dir(site.root()).unwrap();
        for directory in ["docs", "empty", ".git", ".well-known", "odd/index.html", "a b"] {
            fs::create_dir_all(site.root().join(directory)).unwrap();
        }
        site.write("index.html", "<h1>home</h1>");
        site.write("hello.txt", "0123456789");
        site.write("docs/index.html", "docs");
        site.write(".git/config", "secret");
        site.write(".env", "secret");
        site.write("docs/.env", "secret");
        site.write(".well-known/security.txt", "mail");
        site.write("a b/100%.txt", "odd");
        site.write("nothing.txt", "");
        site
    }

    fn root(&self) -> std::path::PathBuf {
        self.outside.path().join("root")
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.root().join(path), content).unwrap();
    }

    fn dir(&self) -> Dir {
        dir(self.root())
    }

    fn builder(&self) -> DirBuilder {
        DirBuilder::dir(self.root())
    }
}

fn request(method: Method, target: &str) -> Request<Body> {
    Request::builder().method(method).uri(target).body(Body::empty()).unwrap()
}

async fn send(dir: &Dir, request: Request<Body>) -> Response<Body> {
    dir.clone().oneshot(request).await.unwrap()
}

async fn get(dir: &Dir, target: &str) -> Response<Body> {
    send(dir, request(Method::GET, target)).await
}

async fn get_with(
    dir: &Dir,
    target: &str,
    fields: &[(header::HeaderName, &str)],
) -> Response<Body> {
    let mut request = request(Method::GET, target);
    for (name, value) in fields {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    send(dir, request).await
}

async fn content(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

fn field<'a>(response: &'a Response<Body>, name: &header::HeaderName) -> &'a str {
    response.headers().get(name).map_or("(none)", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn file_is_answered_with_its_headers() {
    let site = Site::new();
    let served = site.builder().cache_control(HeaderValue::from_static("max-age=60")).build();
    let response = get(&served, "/hello.txt").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(field(&response, &header::CONTENT_TYPE), "text/plain; charset=utf-8");
    assert_eq!(field(&response, &header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    assert_eq!(field(&response, &header::ACCEPT_RANGES), "bytes");
    assert_eq!(field(&response, &header::CACHE_CONTROL), "max-age=60");
    assert!(field(&response, &header::ETAG).starts_with("\"a-"));
    assert!(field(&response, &header::LAST_MODIFIED).ends_with(" GMT"));
    // The server frames by the body's length.
    assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
    assert_eq!(content(response).await, "0123456789");
}

#[tokio::test]
async fn small_files_are_bytes_and_large_ones_are_files() {
    let site = Site::new();
    let at = usize::try_from(MAX_IN_MEMORY).unwrap();
    site.write("at.bin", vec![1; at]);
    site.write("above.bin", vec![2; at + 1]);
    let served = site.dir();
    let small = get(&served, "/at.bin").await.into_body();
    assert_eq!(small.as_bytes().unwrap(), vec![1; at]);
    let large = get(&served, "/above.bin").await.into_body();
    assert_eq!(large.as_file().unwrap().len(), MAX_IN_MEMORY + 1);
    assert_eq!(large.collect().await.unwrap().to_bytes(), vec![2; at + 1]);
    let nothing = get(&served, "/nothing.txt").await;
    assert_eq!((nothing.status(), nothing.body().len()), (StatusCode::OK, Some(0)));
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_the_length_and_no_body() {
    let site = Site::new();
    site.write("large.bin", vec![7; 100_000]);
    let served = site.dir();
    for (target, len) in [
        ("/hello.txt", "10"),
        ("/large.bin", "100000"),
        ("/nothing.txt", "0"),
        ("/none", "14"),
        ("/docs", "23"),
        ("/%00", "16"),
    ] {
        let head = send(&served, request(Method::HEAD, target)).await;
        let get = get(&served, target).await;
        assert_eq!(head.status(), get.status(), "{target}");
        assert_eq!(head.body().len(), Some(0), "{target}");
        assert_eq!(field(&head, &header::CONTENT_LENGTH), len, "{target}");
        assert_eq!(get.body().len().unwrap().to_string(), len, "{target}");
        let mut headers = head.headers().clone();
        headers.remove(header::CONTENT_LENGTH);
        assert_eq!(&headers, get.headers(), "{target}");
    }
}

#[tokio::test]
async fn other_methods_are_405_with_allow() {
    let site = Site::new();
    let served = site.dir();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
        let response = send(&served, request(method, "/hello.txt")).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(field(&response, &header::ALLOW), "GET, HEAD");
    }
}

#[tokio::test]
async fn preconditions_are_answered_with_304_and_412() {
    let site = Site::new();
    let served = site.builder().cache_control(HeaderValue::from_static("no-cache")).build();
    let first = get(&served, "/hello.txt").await;
    let tag = field(&first, &header::ETAG);
    let date = field(&first, &header::LAST_MODIFIED);

    for same in [(header::IF_NONE_MATCH, tag), (header::IF_MODIFIED_SINCE, date)] {
        let response = get_with(&served, "/hello.txt", &[same]).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(field(&response, &header::ETAG), tag);
        assert_eq!(field(&response, &header::CACHE_CONTROL), "no-cache");
        assert!(!response.headers().contains_key(header::CONTENT_TYPE));
        assert_eq!(response.body().len(), Some(0));
    }
    let weak = format!("W/{tag}, \"other\"");
    let other = get_with(&served, "/hello.txt", &[(header::IF_NONE_MATCH, &weak)]).await;
    assert_eq!(other.status(), StatusCode::NOT_MODIFIED);
    for failed in [
        (header::IF_MATCH, "\"other\""),
        (header::IF_UNMODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT"),
    ] {
        let response = get_with(&served, "/hello.txt", &[failed]).await;
        assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
    }
    // A missing file has no preconditions: RFC 9110 section 13.2.1.
    let none = get_with(&served, "/none", &[(header::IF_MATCH, "*")]).await;
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn one_range_is_206_or_416() {
    let site = Site::new();
    site.write("large.bin", (0..100_000u32).map(|i| i as u8).collect::<Vec<_>>());
    let served = site.dir();
    for (range, content_range, bytes) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
        ("bytes=-99999999999999999999999999", "bytes 0-9/10", "0123456789"),
    ] {
        let response = get_with(&served, "/hello.txt", &[(header::RANGE, range)]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(field(&response, &header::CONTENT_RANGE), content_range, "{range}");
        assert_eq!(content(response).await, bytes, "{range}");
    }
    for range in ["bytes=10-", "bytes=99999999999999999999999999-", "bytes=-0"] {
        let response = get_with(&served, "/hello.txt", &[(header::RANGE, range)]).await;
        assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(field(&response, &header::CONTENT_RANGE), "bytes */10", "{range}");
    }
    for range in ["bytes=", "lines=1-2", "bytes=4-2"] {
        let response = get_with(&served, "/hello.txt", &[(header::RANGE, range)]).await;
        assert_eq!(response.status(), StatusCode::OK, "{range}");
        assert_eq!(content(response).await, "0123456789", "{range}");
    }
    let large = get_with(&served, "/large.bin", &[(header::RANGE, "bytes=70000-70001")]).await;
    assert_eq!(large.body().as_file().unwrap().offset(), 70_000);
    assert_eq!(content(large).await, [(70_000 % 256) as u8, (70_001 % 256) as u8][..]);
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_body() {
    let site = Site::new();
    let large: Vec<u8> = (0..MAX_IN_MEMORY as usize * 4).map(|i| b"0123456789"[i % 10]).collect();
    site.write("large.txt", &large);
    let dir = site.dir();
    // A gap smaller than the head of a part: one part.
    let near = get_with(&dir, "/hello.txt", &[(header::RANGE, "bytes=0-1,4-5")]).await;
    assert_eq!(near.headers()[header::CONTENT_RANGE], "bytes 0-5/10");

    let response =
        get_with(&dir, "/large.txt", &[(header::RANGE, "bytes=100000-100009, 3-4,-2")]).await;
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert!(!response.headers().contains_key(header::CONTENT_RANGE));
    let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let len = response.body().len();
    let body = content(response).await;
    assert_eq!(len, Some(body.len() as u64));
    let part = |range: &str, text: &str| {
        format!(
            "\r\n--{boundary}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-range: bytes {range}/{}\r\n\r\n{text}",
            large.len()
        )
    };
    let (last, all) = (large.len() - 1, large.len());
    let tail = std::str::from_utf8(&large[all - 2..]).unwrap();
    let want = part("100000-100009", "0123456789")
        + &part("3-4", "34")
        + &part(&format!("{}-{last}", last - 1), tail)
        + &format!("\r\n--{boundary}--\r\n");
    assert_eq!(body, want);

    let many = format!("bytes={}0-", "0-,".repeat(1000));
    for (range, status) in [("bytes=0-9,5-6,6-7", 416), ("bytes=0-,0-,0-", 416), (&many, 200)] {
        let response = get_with(&dir, "/large.txt", &[(header::RANGE, range)]).await;
        assert_eq!(response.status().as_u16(), status);
    }
}

#[tokio::test]
async fn if_range_sends_whole_file_when_it_has_changed() {
    let site = Site::new();
    let served = site.dir();
    let tag = field(&get(&served, "/hello.txt").await, &header::ETAG).to_owned();
    let with = async |if_range: &str| {
        let fields = [(header::RANGE, "bytes=0-0"), (header::IF_RANGE, if_range)];
        get_with(&served, "/hello.txt", &fields).await.status()
    };
    assert_eq!(with(&tag).await, StatusCode::PARTIAL_CONTENT);
    assert_eq!(with("\"other\"").await, StatusCode::OK);
    assert_eq!(with(&format!("W/{tag}")).await, StatusCode::OK);
    assert_eq!(with("Sun, 06 Nov 1994 08:49:37 GMT").await, StatusCode::OK);
}

#[tokio::test]
async fn dates_outside_the_range_of_http_are_clamped() {
    let site = Site::new();
    let set = |time| {
        let file = fs::File::options().write(true).open(site.root().join("hello.txt")).unwrap();
        file.set_modified(time).unwrap();
    };
    set(std::time::SystemTime::UNIX_EPOCH - Duration::from_secs(1000));
    let old = get(&site.dir(), "/hello.txt").await;
    assert_eq!(field(&old, &header::LAST_MODIFIED), "Thu, 01 Jan 1970 00:00:00 GMT");
    let now = std::time::SystemTime::now();
    set(now + Duration::from_secs(1_000_000));
    let new = get(&site.dir(), "/hello.txt").await;
    let shown = httpdate::parse_http_date(field(&new, &header::LAST_MODIFIED)).unwrap();
    assert!(shown < now + Duration::from_secs(1000), "not in the future");
}

#[tokio::test]
async fn missing_root_is_server_error_and_not_404() {
    let site = Site::new();
    let served = dir(site.outside.path().join("later"));
    let error = served.clone().oneshot(request(Method::GET, "/x")).await.unwrap_err();
    assert_eq!(Error::find(&*error).map(Error::kind), Some(Kind::Internal));
    let named =
        format!("cannot open the directory {}: ", site.outside.path().join("later").display());
    let cause = crate::error::Chain(&*error).to_string();
    assert!(cause.contains(&named), "{cause}");
    fs::create_dir(site.outside.path().join("later")).unwrap();
    assert_eq!(get(&served, "/x").await.status(), StatusCode::NOT_FOUND);
}
