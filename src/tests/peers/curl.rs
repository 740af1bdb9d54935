//! Tests with curl as the client.

use std::{io::Write, path::Path, process::Stdio};

use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tower::{ServiceBuilder, service_fn};

use super::{curl, noise, program, sum};
use crate::{
    Body, BoxError, Request, Response, Router, files,
    layer::RequestBufferLayer,
    tests::support::{Running, start, within},
    upstream::Upstream,
};

/// Starts a server with files, an echo behind a request buffer of 4 MiB, and another that refuses bodies above 1 KiB.
async fn site(directory: &Path) -> Running {
    let echo = service_fn(|request: Request| async move {
        let body = request.into_body().collect().await?.to_bytes();
        let sum = sum(&body).to_string();
        Ok::<_, BoxError>(Response::builder().header("x-sum", sum).body(Body::from(body))?)
    });
    let bounded =
        |max| ServiceBuilder::new().layer(RequestBufferLayer::new().max_body(max)).service(echo);
    start(
        Router::new()
            .route("/echo", bounded(4 << 20))
            .route("/small", bounded(1 << 10))
            .fallback(files::dir(directory)),
    )
    .await
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("index.html"), "<h1>home</h1>").unwrap();
    std::fs::write(directory.path().join("big.bin"), noise(20_000_000)).unwrap();
    let abc: String = ('a'..='z').cycle().take(1000).collect();
    std::fs::write(directory.path().join("abc.txt"), abc).unwrap();
    directory
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn curl_gets_heads_ranges_and_conditions() {
    let directory = directory();
    let site = site(directory.path()).await;
    let url = |path: &str| format!("http://{}{path}", site.addr);

    assert_eq!(curl(&[&url("/")]).await, "<h1>home</h1>");
    assert_eq!(curl(&["--http1.0", &url("/")]).await, "<h1>home</h1>");
    let head = curl(&["--head", &url("/abc.txt")]).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 1000\r\n"));

    assert_eq!(curl(&["--range", "0-2", &url("/abc.txt")]).await, "abc");
    assert_eq!(curl(&["--range", "-2", &url("/abc.txt")]).await, "kl");
    assert_eq!(curl(&["--range", "26-", &url("/abc.txt")]).await.len(), 974);
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let range = curl(&[&["--range", "1000-"], &status[..], &[&url("/abc.txt")]].concat()).await;
    assert_eq!(range, "416");

    let tag = head.lines().find_map(|l| l.strip_prefix("etag: ")).unwrap();
    let matches = format!("If-None-Match: {tag}");
    let same = curl(&[&["--header", &matches], &status[..], &[&url("/abc.txt")]].concat()).await;
    assert_eq!(same, "304");
    let date = head.lines().find_map(|l| l.strip_prefix("last-modified: ")).unwrap();
    let since = curl(&[&["--time-cond", date], &status[..], &[&url("/abc.txt")]].concat()).await;
    assert_eq!(since, "304");

    // Two files over one connection.
    let connects = curl(&[
        "--output",
        "/dev/null",
        "--output",
        "/dev/null",
        "--write-out",
        "%{num_connects} ",
        &url("/"),
        &url("/abc.txt"),
    ])
    .await;
    assert_eq!(connects, "1 0 ");
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn curl_uploads_with_100_continue_in_chunks_and_as_form() {
    let directory = directory();
    let site = site(directory.path()).await;
    let url = |path: &str| format!("http://{}{path}", site.addr);
    let mut upload = tempfile::NamedTempFile::new().unwrap();
    let data = noise(2_000_000);
    upload.write_all(&data).unwrap();
    let file = upload.path().to_str().unwrap();
    let expected = format!("x-sum: {}\r\n", sum(&data));

    let form = curl(&["--data", "a=1&b=2", &url("/echo")]).await;
    assert_eq!(form, "a=1&b=2");

    let args = ["--header", "Expect: 100-continue", "--dump-header", "-", "--output", "/dev/null"];
    let url_echo = url("/echo");
    let heads = curl(&[&args[..], &["--upload-file", file, &url_echo]].concat()).await;
    assert!(heads.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"), "{heads}");
    assert!(heads.contains(&expected), "{heads}");

    // From a pipe, so the length is unknown and the body is chunked.
    let mut command = program("curl");
    command.args(["--silent", "--dump-header", "-", "--output", "/dev/null"]);
    command.args(["--upload-file", "-", &url_echo]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    within(pipe.write_all(&data)).await.unwrap();
    drop(pipe);
    let out = within(child.wait_with_output()).await.unwrap();
    let heads = String::from_utf8_lossy(&out.stdout);
    assert!(heads.contains(&expected), "{heads}");

    // A body that is too large: the refusal arrives although curl has sent only a part of it, or nothing.
    for expect in ["Expect:", "Expect: 100-continue"] {
        let out = curl(&["--header", expect, "--upload-file", file, &url("/small")]).await;
        assert_eq!(out, "413 Payload Too Large\n", "{expect}");
    }
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn large_file_arrives_completely_directly_and_through_proxy() {
    let directory = directory();
    let site = site(directory.path()).await;
    let proxy = start(Upstream::new([site.addr.to_string()]).unwrap()).await;
    let expected = sum(&noise(20_000_000));
    for addr in [site.addr, proxy.addr] {
        for slow in [&[][..], &["--limit-rate", "30M"]] {
            let target = tempfile::NamedTempFile::new().unwrap();
            let url = format!("http://{addr}/big.bin");
            let to = target.path().to_str().unwrap();
            curl(&[slow, &["--output", to, &url]].concat()).await;
            assert_eq!(sum(&std::fs::read(target.path()).unwrap()), expected);
        }
    }
    proxy.stop().await;
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn no_path_leads_out_of_the_root() {
    let outer = directory();
    let root = outer.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(outer.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), root.join("link")).unwrap();
    let site = site(&root).await;
    for path in [
        "/../secret",
        "/a/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/.%2e/secret",
        "/..%5csecret",
        "/..\\secret",
        "/%252e%252e/secret",
        "/%c0%ae%c0%ae/secret",
        "//../secret",
        "/root/..;/secret",
        "/..%00/secret",
        "/link",
        "/./../secret",
        "/%2e%2e%2fsecret",
    ] {
        let url = format!("http://{}{path}", site.addr);
        let out = curl(&["--path-as-is", "--write-out", " %{http_code}", &url]).await;
        assert!(out.ends_with(" 400") || out.ends_with(" 404"), "{path}: {out}");
        assert!(!out.contains("secret"), "{path}: {out}");
    }
    site.stop().await;
}
