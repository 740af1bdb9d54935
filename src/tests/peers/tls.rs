//! TLS and HTTP/2 with curl, h2load and openssl.

use std::{convert::Infallible, path::Path};

use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tower::{Layer, service_fn};

use super::{curl, noise, program, sum};
use crate::{
    Body, BoxError, Request, Response, Router, files,
    net::tls::{Server, testing::Authority},
    proto::h1::Limits,
    tests::support::{Running, start, start_with, within},
    upstream::ConnectLayer,
};

/// Files and an echo, with a certificate for `localhost`.
async fn site(ca: &Authority, directory: &Path) -> Running {
    let (chain, key) = ca.issue("localhost", &["localhost"]);
    let echo = service_fn(async |request: Request| {
        let version = request.version();
        let body = request.into_body().collect().await?.to_bytes();
        let response = Response::builder().header("x-sum", sum(&body).to_string());
        Ok::<_, BoxError>(
            response.header("x-version", format!("{version:?}")).body(Body::from(body))?,
        )
    });
    let site = Router::new().route("/echo", echo).fallback(files::dir(directory));
    let tls = Server::pem_files(chain, key).unwrap();
    start_with(site, |s| s.tls(tls)).await
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("index.html"), "<h1>home</h1>").unwrap();
    std::fs::write(directory.path().join("big.bin"), noise(20_000_000)).unwrap();
    directory
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn curl_speaks_both_versions_of_tls_and_of_http() {
    let (ca, directory) = (Authority::new(), directory());
    let site = site(&ca, directory.path()).await;
    let url = |path: &str| format!("https://localhost:{}{path}", site.addr.port());
    let authority = ca.file();
    let authority = ["--cacert", authority.to_str().unwrap(), "--ipv4"];
    let version = ["--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"];
    for (options, expected) in [
        (&["--http2", "--tlsv1.3"][..], "2 200"),
        (&["--http2", "--tlsv1.2", "--tls-max", "1.2"], "2 200"),
        (&["--http1.1", "--tlsv1.3"], "1.1 200"),
        (&["--http1.1", "--tls-max", "1.2"], "1.1 200"),
    ] {
        let answer = curl(&[&authority[..], options, &version, &[&url("/")]].concat()).await;
        assert_eq!(answer, expected, "{options:?}");
        let upload = directory.path().join("upload");
        std::fs::write(&upload, noise(3_000_000)).unwrap();
        let data = format!("@{}", upload.display());
        let sent = ["--data-binary", &data, "--dump-header", "-", "--output", "/dev/null"];
        let head = curl(&[&authority[..], options, &sent, &[&url("/echo")]].concat()).await;
        let told = format!("x-sum: {}\r\n", sum(&noise(3_000_000)));
        assert!(head.contains(&told), "{options:?}: {head}");
        let big = directory.path().join("received");
        let into = ["--output", big.to_str().unwrap()];
        curl(&[&authority[..], options, &into, &[&url("/big.bin")]].concat()).await;
        assert!(std::fs::read(&big).unwrap() == noise(20_000_000), "{options:?}");
    }
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn curl_speaks_http2_without_tls_on_the_port_of_http1() {
    let service = service_fn(async |request: Request| {
        let text = format!("{:?}", request.version());
        Ok::<_, Infallible>(Response::new(Body::from(text)))
    });
    let server = start(service).await;
    let url = format!("http://{}/", server.addr);
    assert_eq!(curl(&["--http2-prior-knowledge", &url]).await, "HTTP/2.0");
    assert_eq!(curl(&["--http2", &url]).await, "HTTP/1.1", "no upgrade to h2c");
    assert_eq!(curl(&[&url]).await, "HTTP/1.1");
    server.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_curl), ignore = "apt-get install curl")]
async fn curl_has_a_tunnel_by_connect_through_a_proxy_with_and_without_tls() {
    let (ca, directory) = (Authority::new(), directory());
    let site = site(&ca, directory.path()).await;
    let layer = ConnectLayer::new()
        .allow("localhost".parse().unwrap(), [site.addr.port()])
        .allow_network("127.0.0.0/8".parse().unwrap());
    let limits = Limits::new().allow_connect(true);
    let plain = start_with(layer.layer(Router::new()), |s| s.limits(limits.clone())).await;
    let (chain, key) = ca.issue("proxy", &["localhost"]);
    let tls = Server::pem_files(chain, key).unwrap();
    let secure = start_with(layer.layer(Router::new()), |s| s.limits(limits).tls(tls)).await;

    let (ca, url) =
        (ca.file().to_str().unwrap().to_owned(), |port: u16| format!("https://localhost:{port}/"));
    for proxy in [
        format!("http://localhost:{}", plain.addr.port()),
        format!("https://localhost:{}", secure.addr.port()),
    ] {
        let args = ["--proxytunnel", "--proxy", &proxy, "--proxy-cacert", &ca, "--cacert", &ca];
        let answer = curl(&[&args[..], &[&url(site.addr.port())]].concat()).await;
        assert_eq!(answer, "<h1>home</h1>", "{proxy}");
        // The status of a refused CONNECT, and no tunnel.
        let mut refused = program("curl");
        refused.args(args).args(["--silent", "--write-out", "%{http_connect}", &url(1)]);
        let refused = within(refused.output()).await.unwrap();
        assert!(!refused.status.success() && refused.stdout == b"403", "{refused:?}");
    }
    assert_eq!(layer.stats().opened, 2);
    plain.stop().await;
    secure.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(peer_h2load), ignore = "apt-get install nghttp2-client")]
async fn h2load_has_every_request_answered() {
    let (ca, directory) = (Authority::new(), directory());
    let site = site(&ca, directory.path()).await;
    let url = format!("https://localhost:{}/", site.addr.port());
    let mut h2load = program("h2load");
    h2load.args(["-n", "5000", "-c", "10", "-m", "50", &url]);
    let out = within(h2load.output()).await.unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("5000 succeeded, 0 failed, 0 errored"), "{text}");
    assert!(text.contains("Application protocol: h2"), "{text}");
    site.stop().await;
}

#[tokio::test]
#[cfg_attr(not(peer_openssl), ignore = "apt-get install openssl")]
async fn openssl_negotiates_resumes_and_sees_an_orderly_end() {
    let (ca, directory) = (Authority::new(), directory());
    let site = site(&ca, directory.path()).await;
    let session = ca.folder().join("session");
    for (option, expected) in [("-sess_out", "New, TLSv1.2"), ("-sess_in", "Reused, TLSv1.2")] {
        let mut client = program("openssl");
        client.args(["s_client", "-connect", &format!("127.0.0.1:{}", site.addr.port())]);
        client.args(["-servername", "localhost", "-alpn", "http/1.1", "-tls1_2", "-ign_eof"]);
        client.args(["-verify_return_error", "-CAfile"]).arg(ca.file());
        client.arg(option).arg(&session).stdin(std::process::Stdio::piped());
        client.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut client = client.spawn().unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client.stdin.as_mut().unwrap().write_all(request).await.unwrap();
        let out = within(client.wait_with_output()).await.unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(text.contains("<h1>home</h1>") && text.contains(expected), "{text}");
        assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
        assert!(!errors.contains("unexpected eof"), "{errors}");
    }
    site.stop().await;
}
